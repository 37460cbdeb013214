"""Running PostgreSQL's programs: output through pipes, secrets only through the environment."""

from __future__ import annotations

import contextlib
import fcntl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from keepwell.core.errors import SourceError
from keepwell.sources.postgres.connection import Address

_PIPE = 1 << 20
_PATIENCE = 5.0
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", None)  # Linux only


class Program:
    """One running program whose output is read. Close it always: that kills it where it still runs."""

    def __init__(self, arguments: Sequence[str], environment: dict[str, str]) -> None:
        # A file and not a pipe: nobody has to read it meanwhile for the program to go on.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        self.name = Path(arguments[0]).name
        try:
            self.process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=environment,
                bufsize=0,
            )
        except BaseException:
            self._said.close()
            raise
        assert self.process.stdout is not None
        self.output: IO[bytes] = self.process.stdout
        if _SET_PIPE_SIZE is not None:
            # Fewer changes between the two processes; refused where a user may have no more pipe memory.
            with contextlib.suppress(OSError):
                fcntl.fcntl(self.output.fileno(), _SET_PIPE_SIZE, _PIPE)

    def fill(self, buffer: bytearray) -> int:
        """Reads until the buffer is full or the output ends; how much it holds."""
        view = memoryview(buffer)
        held = 0
        while held < len(buffer):
            count = self.output.readinto(view[held:])  # type: ignore[attr-defined]
            if not count:
                break
            held += count
        return held

    def said(self) -> str:
        """What it wrote to standard error so far."""
        self._said.seek(0)
        return self._said.read().decode(errors="replace")

    def close(self) -> None:
        if self.process.poll() is None:
            # Politely first: then pg_restore stops its workers, and pg_dump cancels its query on the server.
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_PATIENCE)
            self.process.kill()
        self.process.wait()
        self.output.close()
        self._said.close()


def failure(program: Program, address: Address, doing: str, code: int) -> SourceError:
    """The error for a program that ended with this code."""
    said = address.scrub(last_lines(program.said()))
    how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
    hint = "The message is the program's own. Mend what it names and try again."
    if "row-level security" in said or "row security" in said:
        hint = (
            "This role does not see all rows. Back up as a role with BYPASSRLS (ALTER ROLE … BYPASSRLS), the tables' "
            "owner, or a superuser."
        )
    elif "permission denied" in said:
        hint = "Grant the backup's role the right to read all tables: GRANT pg_read_all_data TO … (PostgreSQL 14 and newer)."
    elif code < 0 and not said:
        hint = "Something ended it: see whether the machine ran out of memory, then try again."
    return SourceError(f"{doing} {address.place}: {program.name} {how}" + (f": {said}" if said else ""), hint=hint)


def last_lines(text: str, count: int = 4, most: int = 1000) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    joined = " | ".join(lines[-count:])
    return joined if len(joined) <= most else joined[:most] + "…"
