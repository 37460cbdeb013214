"""PostgreSQL by pg_dump sections under one snapshot, with rows and a digest per table."""

from keepwell.sources.postgres.dump import capture
from keepwell.sources.postgres.examine import column, compare, count_rows, examine, query
from keepwell.sources.postgres.export import export
from keepwell.sources.postgres.restore import restore
from keepwell.sources.postgres.sandbox import respec, sandbox
from keepwell.sources.postgres.spec import Spec, Target

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
