"""Folders of files: every name, link, mode and time, with unchanged files not read again."""

from keepwell.sources.files.capture import capture
from keepwell.sources.files.export import export
from keepwell.sources.files.proof import compare, count_rows, examine, query, respec, sandbox
from keepwell.sources.files.restore import restore
from keepwell.sources.files.spec import Spec, Target

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
