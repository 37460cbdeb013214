"""Copies that need no keepwell, made while a backup is taken (`portable` in the policy)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from keepwell.core.errors import SourceError, StoreError
from keepwell.core.streams import Context, Facts, Sink
from keepwell.core.workfolder import WorkFolder
from keepwell.operations.spool import Spool
from keepwell.policy.models import Source
from keepwell.sources.registry import kind_of
from keepwell.vault.session import Session


@dataclass
class _Copy:
    folder: Path
    spool: Spool


@dataclass
class PortableCopies:
    """The copies of one backup. A copy that cannot be made is told in `problems` and does not cost the backup."""

    context: Context
    problems: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """Names of the files beside the backup."""
    _copies: dict[str, _Copy] = field(default_factory=dict)
    _folders: list[WorkFolder] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for copy in self._copies.values():
            copy.spool.close()
        for work in self._folders:
            work.remove(quietly=True)

    def sink(self, name: str, source: Source, tier: str, sink: Sink) -> Sink:
        """The sink to capture into: it keeps what a copy is made from, where the policy wants one for this tier."""
        if tier not in source.portable:
            return sink
        try:
            work = WorkFolder("portable", self.context.work)
        except OSError as error:
            self._problem(name, error.strerror or str(error))
            return sink
        self._folders.append(work)
        self._copies[name] = _Copy(work.path, Spool(sink, work.path))
        return self._copies[name].spool

    def attach(self, session: Session, captured: dict[str, Facts]) -> None:
        """Makes the copies of what was captured and hands them to the session."""
        made: dict[str, Path] = {}
        for name, copy in self._copies.items():
            if name not in captured:
                continue
            if copy.spool.trouble is not None:
                self._problem(name, copy.spool.trouble.strerror or str(copy.spool.trouble))
                continue
            facts = captured[name]
            try:
                made[name] = kind_of(facts["type"]).export(facts, copy.spool, copy.folder, self.context).path
            except StoreError:
                raise
            except SourceError as error:
                self._problem(name, error.message)
            except OSError as error:
                self._problem(name, error.strerror or str(error))
        files = [path.name for path in made.values()]
        for name, path in made.items():
            # Two databases of one environment: each copy says whose it is.
            called = path.name if files.count(path.name) == 1 else f"{name}.{path.name}"
            session.attach(name, called, path)
            self.made.append(called)

    def _problem(self, name: str, why: str) -> None:
        text = f"the portable copy of {name} could not be made: {why}. The backup itself is safe."
        self.problems.append(text)
        self.context.progress.warn(text)
