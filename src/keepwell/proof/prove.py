"""The proof of one source: restored into a sandbox, examined, captured again, compared, asked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepwell.core.errors import Interrupted, KeepwellError, ObjectMissing, StoreError, VaultKeyError
from keepwell.core.streams import Context, Discard, Facts, Finding, Json, Streams
from keepwell.policy.models import Check
from keepwell.policy.references import Reference
from keepwell.policy.values import Level
from keepwell.proof import checks, references
from keepwell.proof.checks import CheckOutcome
from keepwell.proof.levels import reaches
from keepwell.proof.references import Lookup
from keepwell.proof.tally import Tally
from keepwell.sources.base import RestoreRequest
from keepwell.sources.registry import Kind

_BLOCKED = (Interrupted, VaultKeyError)
"""These end the whole proof: they say nothing of the backup."""


@dataclass(frozen=True)
class Questions:
    """What the policy asks of a source."""

    critical_tables: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    base: Path = Path()
    """Where commands run."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Further environment variables for commands."""
    references: tuple[Reference, ...] = ()
    lookup: Lookup | None = None
    """Where `references` lead to; given wherever there are any."""


@dataclass
class SourceProof:
    """What was found of one source."""

    type: str = ""
    tables: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Per table `rows` found in the restored place (None: not looked at) and whether it is `equal`: by its rows at
    level restore, by every value from round-trip on."""
    checks: list[CheckOutcome] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What the restore had to say: roles that do not exist here, and the like."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase: sandbox, restore, examine, round-trip, checks, objects."""
    versions: dict[str, str] = field(default_factory=dict)
    """`then` of the server or library at backup time, `now` of the sandbox."""
    recovery: dict[str, Json] = field(default_factory=dict)
    """Physical: `wanted` (what the sandbox was to be recovered to) and what was `reached`."""

    @property
    def passed(self) -> bool:
        return not self.findings

    def found(self, *findings: Finding) -> None:
        self.findings += [finding for finding in findings if finding not in self.findings]

    def json(self) -> dict[str, Json]:
        physical = {"recovery": self.recovery} if self.recovery else {}
        return physical | {
            "passed": self.passed,
            "type": self.type,
            "tables": self.tables,
            "checks": [check.json() for check in self.checks],
            "findings": [{"what": finding.what, "problem": finding.problem} for finding in self.findings],
            "warnings": list(self.warnings),
            "versions": dict(self.versions),
            "seconds": {phase: round(seconds, 3) for phase, seconds in self.seconds.items()},
        }


AfterRestore = Callable[[Any], None]


def prove(
    kind: Kind,
    facts: Facts,
    streams: Streams,
    spec: Any,
    questions: Questions,
    level: Level,
    context: Context,
    *,
    prepare: AfterRestore | None = None,
    after_restore: AfterRestore | None = None,
) -> SourceProof:
    """Everything that is wrong is in `findings`; what could not be looked at is wrong.

    `prepare` is given the empty sandbox. `after_restore` is given the restored place before anything is compared: tests damage it there. Raises Interrupted,
    and what says nothing of the backup itself: StoreError (apart from ObjectMissing), VaultKeyError.
    """
    return _Prover(kind, facts, Tally(streams), spec, questions, level, context).run(prepare, after_restore)


class _Prover:
    def __init__(
        self, kind: Kind, facts: Facts, streams: Tally, spec: Any, questions: Questions, level: Level, context: Context
    ) -> None:
        self.kind, self.facts, self.streams, self.spec = kind, facts, streams, spec
        self.questions, self.level, self.context = questions, level, context
        self.proof = SourceProof(str(facts["type"]))
        self.same_files: bool | None = None
        """Physical: whether the restored files were as in the backup; None: not looked at."""
        self.title = str(facts.get("database") or facts.get("root") or facts["type"])

    def run(self, prepare: AfterRestore | None, after_restore: AfterRestore | None) -> SourceProof:
        if "version" in self.facts:
            self.proof.versions["then"] = str(self.facts["version"])
        if reaches(self.level, "restore"):
            for name in self.facts.get("tables", {}):
                self.proof.tables[name] = {"rows": None, "equal": False}
            with self.failing("sandbox"), contextlib.ExitStack() as stack:
                with self.phase("sandbox"):
                    target = stack.enter_context(self.kind.sandbox(self.facts, self.context))
                if prepare is not None:
                    prepare(target)
                self.in_sandbox(target, after_restore)
        if reaches(self.level, "checks"):
            self.name_what_was_not_asked()
        self.read_the_rest()
        return self.proof

    def in_sandbox(self, target: Any, after_restore: AfterRestore | None) -> None:
        restored = False
        with self.failing("restore"), self.phase("restore"):
            report = self.kind.restore(self.facts, self.streams, target, RestoreRequest(), self.context)
            self.proof.warnings += report.warnings
            restored = True
        if not restored:
            return
        if after_restore is not None:
            after_restore(target)
        rows: dict[str, int] = {}
        physical = self.facts["type"] == "physical"
        if physical and reaches(self.level, "round-trip"):
            # A server changes the files as soon as it starts.
            with self.failing("round-trip"), self.phase("round-trip"):
                self.compare_files(target)
        with self.failing("examine"), self.phase("examine"):
            self.proof.found(*self.kind.examine(target, self.facts, self.context))
        with self.failing("rows"), self.phase("examine"):
            rows = self.kind.count_rows(target, self.facts)
            self.compare_rows(rows)
            if physical:
                self.keep_recovered(target, rows)
        if not physical and reaches(self.level, "round-trip"):
            with self.failing("round-trip"), self.phase("round-trip"):
                self.round_trip(target)
        if reaches(self.level, "checks"):
            with self.phase("checks"):
                self.ask(target, rows)

    def compare_files(self, target: Any) -> None:
        from keepwell.sources import physical

        found = physical.compare_files(self.streams, target, self.context)
        self.proof.found(*found)
        self.same_files = not found

    def keep_recovered(self, target: Any, rows: Mapping[str, int]) -> None:
        """A backup of files says nothing of rows: they are told, and equal where all files are, byte for byte."""
        self.proof.recovery["reached"] = dict(target.reached)
        self.proof.versions["now"] = str(target.server.programs.version)
        if "canary" in self.facts:
            from keepwell.sources.physical import canary

            self.proof.recovery["canary"], findings = canary.look(target, self.facts)
            self.proof.found(*findings)
        self.proof.tables = {name: {"rows": count, "equal": self.same_files} for name, count in rows.items()}

    def compare_rows(self, rows: Mapping[str, int]) -> None:
        for name, table in self.facts.get("tables", {}).items():
            found = rows.get(name)
            self.proof.tables[name] = {"rows": found, "equal": found == table["rows"]}
            if found is None:
                self.proof.found(Finding(name, "the table is missing"))
            elif found != table["rows"]:
                self.proof.found(Finding(name, f"has {found} rows; {table['rows']} were backed up"))

    def round_trip(self, target: Any) -> None:
        for table in self.proof.tables.values():
            table["equal"] = False  # until its digest has been compared
        again = self.kind.respec(target, self.facts, self.spec)
        now = self.kind.capture(again, Discard(), self.context)
        if "version" in now:
            self.proof.versions["now"] = str(now["version"])
        self.proof.found(*self.compare(now, target))
        for name, then in self.facts.get("tables", {}).items():
            table = now["tables"].get(name, {})
            self.proof.tables[name]["equal"] = (then["rows"], then["digest"]) == (
                table.get("rows"),
                table.get("digest"),
            )

    def compare(self, now: Facts, target: Any) -> list[Finding]:
        from keepwell.sources import bucket, files, git

        # With streams and target these can say which file, object or ref it is.
        if self.facts["type"] == "files":
            return files.compare(self.facts, now, streams=self.streams, target=target)
        if self.facts["type"] == "bucket":
            return bucket.compare(self.facts, now, streams=self.streams, target=target)
        if self.facts["type"] == "git":
            return git.compare(self.facts, now, streams=self.streams, target=target)
        return self.kind.compare(self.facts, now)

    def ask(self, target: Any, rows: Mapping[str, int]) -> None:
        outcomes = checks.critical(self.questions.critical_tables, rows, self.facts)
        for check in self.questions.checks:
            outcomes.append(
                checks.run(check, self.kind, target, self.questions.base, self.questions.names, self.context)
            )
        for reference in self.questions.references:
            assert self.questions.lookup is not None
            outcomes.append(references.check(reference, self.proof.type, target, self.questions.lookup, self.context))
        self.proof.checks = outcomes
        self.proof.found(
            *(Finding(f"check {outcome.name!r}", outcome.problem) for outcome in outcomes if not outcome.passed)
        )

    def name_what_was_not_asked(self) -> None:
        """Where there was nothing to ask, every question is unanswered, and that is no pass."""
        asked = {outcome.name for outcome in self.proof.checks}
        wanted = [outcome.name for outcome in checks.critical(self.questions.critical_tables, {}, {})]
        wanted += [check.name for check in self.questions.checks]
        wanted += [reference.title for reference in self.questions.references]
        self.proof.checks += [
            CheckOutcome(name, False, "could not be carried out") for name in wanted if name not in asked
        ]

    def read_the_rest(self) -> None:
        """Level objects: every byte that the restore has not read yet."""
        unread = {name: self.streams.unread(name) for name in self.streams.names()}
        task = f"{self.title}: read"
        total = sum(length for gaps in unread.values() for _, length in gaps)
        with self.phase("objects"):
            if total:
                self.context.progress.begin(task, total)
            for name, gaps in unread.items():
                with self.failing(f"stream {name}"):
                    for start, length in gaps:
                        self.read(name, start, length, task)
            if total:
                self.context.progress.end(task)

    def read(self, name: str, start: int, length: int, task: str) -> None:
        whole = (start, length) == (0, self.streams.size(name))
        # Read whole, the stream's own digest is compared at its end.
        for block in self.streams.read(name) if whole else self.streams.read(name, start, length):
            if self.context.cancelled():
                raise Interrupted("the proof was interrupted", hint="Nothing was changed; start it again.")
            self.context.progress.advance(task, len(block))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.context.progress.note(f"{self.title}: {name}")
        started = self.context.clock.monotonic()
        try:
            yield
        finally:
            passed = self.context.clock.monotonic() - started
            self.proof.seconds[name] = self.proof.seconds.get(name, 0.0) + passed

    @contextlib.contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """An error in the block is a finding, unless it says nothing of the backup."""
        try:
            yield
        except _BLOCKED:
            raise
        except KeepwellError as error:
            if isinstance(error, StoreError) and not isinstance(error, ObjectMissing):
                raise
            if error.message not in [finding.problem for finding in self.proof.findings]:
                self.proof.found(Finding(what, error.message))
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            self.proof.found(
                Finding(what, f"could not be carried out: {error.strerror or type(error).__name__}{where}")
            )
