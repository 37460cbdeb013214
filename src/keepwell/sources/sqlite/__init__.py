"""SQLite databases: one consistent copy, page by page, with rows and a digest per table."""

from keepwell.sources.sqlite.capture import capture
from keepwell.sources.sqlite.export import export
from keepwell.sources.sqlite.proof import column, compare, count_rows, examine, query, respec, sandbox
from keepwell.sources.sqlite.restore import restore
from keepwell.sources.sqlite.spec import Spec, Target

__all__ = [
    "Spec",
    "Target",
    "capture",
    "column",
    "compare",
    "count_rows",
    "examine",
    "export",
    "query",
    "respec",
    "restore",
    "sandbox",
]
