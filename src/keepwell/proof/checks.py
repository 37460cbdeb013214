"""The policy's own questions to a restored source: critical tables, queries, commands."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepwell.core.errors import Interrupted, KeepwellError, StoreError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, Facts, Json
from keepwell.policy.models import Check
from keepwell.sources.registry import Kind

COMMAND_SECONDS = 3600
"""A check that asks a question of its own terminal would otherwise hold up the proof for ever."""
_POLL = 0.2
_SAID = 1000
RESTORED = "KEEPWELL_RESTORED"
"""For commands: the restored place, as a path or as the URL of a database."""


@dataclass(frozen=True)
class CheckOutcome:
    name: str
    passed: bool
    problem: str = ""
    """Why it did not pass."""

    def json(self) -> dict[str, Json]:
        found: dict[str, Json] = {"name": self.name, "passed": self.passed}
        return found if self.passed else found | {"problem": self.problem}


def critical(tables: Sequence[str], rows: Mapping[str, int], facts: Facts) -> list[CheckOutcome]:
    """Each table exists in the restored place and has rows."""
    # A partitioned table has its rows in its partitions.
    found = dict(rows)
    for parent, family in facts.get("partitioned", {}).items():
        found[parent] = sum(rows.get(part, 0) for part in family["tables"])
    return [_critical(name, found) for name in tables]


def _critical(name: str, rows: Mapping[str, int]) -> CheckOutcome:
    title = f"critical table {name} has rows"
    fitting = find_tables(name, list(rows))
    if not fitting:
        return CheckOutcome(title, False, "there is no such table in what was restored")
    if len(fitting) > 1:
        return CheckOutcome(title, False, f"several tables are called so: {', '.join(fitting)}; name the schema too")
    count = rows[fitting[0]]
    return CheckOutcome(title, count > 0, "" if count else "the table is empty")


def find_tables(name: str, known: Sequence[str]) -> list[str]:
    """Names that may be meant: as it is written, else without schema and quotes (`public` first), else in any case."""
    if name in known:
        return [name]
    for same in (_unquoted, _any_case):
        wanted = same(name)
        fitting = [key for key in known if same(key) == wanted or same(key).endswith(f".{wanted}")]
        public = [key for key in fitting if same(key) == f"public.{wanted}"]
        if fitting:
            return public if len(public) == 1 else fitting
    return []


def _unquoted(name: str) -> str:
    return name.replace('"', "")


def _any_case(name: str) -> str:
    return _unquoted(name).casefold()


def run(check: Check, kind: Kind, target: Any, base: Path, names: Mapping[str, str], context: Context) -> CheckOutcome:
    """One check of the policy; what cannot be carried out has not passed. Raises Interrupted.

    `names` are further variables for a command; `base` is the folder that it runs in.
    """
    try:
        if check.sql is not None:
            return _query(check, kind, target)
        assert check.command is not None  # the policy has exactly one of the two
        return _command(check.name, check.command, place_of(target), base, names, context)
    except (Interrupted, StoreError):
        raise
    except KeepwellError as error:
        return CheckOutcome(check.name, False, error.message)


def place_of(target: Any) -> str:
    """The restored place for a program: a path, or the URL of a database in a sandbox, which has no password."""
    url = getattr(target, "url", None)
    return url.reveal() if isinstance(url, Secret) else str(target.path)


def _query(check: Check, kind: Kind, target: Any) -> CheckOutcome:
    value = kind.query(target, str(check.sql))
    expected = check.expectation
    assert expected is not None
    if expected.holds(value):
        return CheckOutcome(check.name, True)
    shown = "null" if value is None else f"{value}"[:200]
    return CheckOutcome(check.name, False, f"the answer is {shown}; expected {expected}")


def _command(
    name: str, command: Sequence[str], place: str, base: Path, names: Mapping[str, str], context: Context
) -> CheckOutcome:
    environment = {**os.environ, **names, RESTORED: place}
    with tempfile.TemporaryFile() as said:
        try:
            process = subprocess.Popen(
                list(command),
                cwd=base,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            return CheckOutcome(name, False, f"the command {command[0]} cannot be run: {reason}")
        try:
            code = _wait(process, context)
        finally:
            # Also what it left running in the background would keep the sandbox busy.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code == 0:
            return CheckOutcome(name, True)
        said.seek(0)
        text = " ".join(said.read().decode("utf-8", "replace").split())[-_SAID:]
    how = f"did not end within {COMMAND_SECONDS} seconds" if code is None else f"ended with exit status {code}"
    return CheckOutcome(name, False, f"the command {command[0]} {how}" + (f": {text}" if text else ""))


def _wait(process: subprocess.Popen[bytes], context: Context) -> int | None:
    deadline = context.clock.monotonic() + COMMAND_SECONDS
    while context.clock.monotonic() < deadline:
        if context.cancelled():
            raise Interrupted("the proof was interrupted", hint="Nothing was changed; start it again.")
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_POLL)
    return None
