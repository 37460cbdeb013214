"""The packages of sources by type, each imported only when it is used."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from keepwell.core.errors import UnsupportedFormat
from keepwell.core.streams import Context, Facts, Finding, Sink, Streams
from keepwell.sources.base import Exported, RestoreReport, RestoreRequest

TYPES = ("postgres", "physical", "sqlite", "files", "bucket", "git")
DATABASES = ("postgres", "sqlite")


class Kind(Protocol):
    """A source package as `base` describes it. `Any` is the package's own Spec or Target."""

    def capture(self, spec: Any, sink: Sink, context: Context) -> Facts: ...

    def restore(
        self, facts: Facts, streams: Streams, target: Any, request: RestoreRequest, context: Context
    ) -> RestoreReport: ...

    def sandbox(self, facts: Facts, context: Context) -> AbstractContextManager[Any]: ...

    def respec(self, target: Any, facts: Facts, spec: Any) -> Any: ...

    def examine(self, target: Any, facts: Facts, context: Context) -> list[Finding]: ...

    def count_rows(self, target: Any, facts: Facts) -> dict[str, int]: ...

    def query(self, target: Any, sql: str) -> Any: ...

    def compare(self, then: Facts, now: Facts) -> list[Finding]: ...

    def export(self, facts: Facts, streams: Streams, folder: Any, context: Context) -> Exported: ...


def column_of(type_name: str, target: Any, sql: str) -> Iterator[Any]:
    """First column of every row of the query, in a restored database of that type."""
    package: Any = importlib.import_module(f"keepwell.sources.{type_name}")
    found: Iterator[Any] = package.column(target, sql)
    return found


def kind_of(type_name: str) -> Kind:
    """The package of that type. Raises UnsupportedFormat where this keepwell has none."""
    if type_name not in TYPES:
        raise UnsupportedFormat(
            f"this backup has a source of type {type_name!r}, which this keepwell does not know",
            hint="A newer keepwell made it: update keepwell here.",
        )
    found: Any = importlib.import_module(f"keepwell.sources.{type_name}")
    kind: Kind = found
    return kind
