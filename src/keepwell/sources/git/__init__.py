"""Git repositories: all refs as a bundle, of which only new objects are read; proven by cloning it."""

from keepwell.sources.git.capture import capture
from keepwell.sources.git.export import export
from keepwell.sources.git.proof import compare, count_rows, examine, query, respec, sandbox
from keepwell.sources.git.restore import restore
from keepwell.sources.git.spec import Spec, Target

__all__ = [
    "Spec",
    "Target",
    "capture",
    "compare",
    "count_rows",
    "examine",
    "export",
    "query",
    "respec",
    "restore",
    "sandbox",
]
