"""Buckets of files: every object that changed since the last backup is read, with its metadata."""

from keepwell.sources.bucket.capture import capture
from keepwell.sources.bucket.export import export
from keepwell.sources.bucket.proof import compare, count_rows, examine, query, respec, sandbox
from keepwell.sources.bucket.restore import restore
from keepwell.sources.bucket.spec import Spec, Target

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
