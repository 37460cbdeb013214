"""PostgreSQL, physical: the cluster's files over the replication protocol, and recovery to any moment."""

from keepwell.sources.physical.capture import capture
from keepwell.sources.physical.examine import column, compare, count_rows, examine, query
from keepwell.sources.physical.export import export
from keepwell.sources.physical.restore import compare_files, restore
from keepwell.sources.physical.sandbox import respec, sandbox
from keepwell.sources.physical.spec import Spec
from keepwell.sources.physical.target import Sandbox, Target

__all__ = [
    "Sandbox",
    "Spec",
    "Target",
    "capture",
    "column",
    "compare",
    "compare_files",
    "count_rows",
    "examine",
    "export",
    "query",
    "respec",
    "restore",
    "sandbox",
]
