"""A server that recovers a restored cluster, where nobody else can reach it."""

from __future__ import annotations

import pwd
import re
import struct
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from keepwell.core.clock import Clock
from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.streams import Json
from keepwell.sources.postgres.connection import Address
from keepwell.sources.postgres.programs import Programs
from keepwell.sources.postgres.server import SUPERUSER, ThrowawayServer

_POLL = 0.05
_STATE = struct.Struct("=QIII")
"""The beginning of `global/pg_control`: system identifier, version, catalog version, state."""
_TELLING = ("FATAL:", "PANIC:", "ERROR:", "HINT:", "DETAIL:")
_SHUT_DOWN, _SHUT_DOWN_IN_RECOVERY = 1, 2
_CALMLY = {
    # What the log of the recovery is read from below.
    "log_min_messages": "log",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # Nobody may look in before the end, and then nobody compares the settings with those of the server of the backup.
    "hot_standby": "off",
    "listen_addresses": "",
    "ssl": "off",
    "archive_mode": "off",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "synchronous_standby_names": "",
}
_LAST_COMMIT = re.compile(r"last completed transaction was at log time (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?)\+00")
_REDO_DONE = re.compile(r"redo done at ([0-9A-F]+/[0-9A-F]+)")
_NEW_TIMELINE = re.compile(r"selected new timeline ID: (\d+)")


class RecoveringServer(ThrowawayServer):
    """PostgreSQL in a data directory that is there; `folder` has its log and socket. `settings` go over all others.

    Its log is of one start each.
    """

    def __init__(
        self,
        programs: Programs,
        folder: Path,
        data: Path,
        *,
        settings: Mapping[str, str],
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> None:
        super().__init__(programs, folder, clock=clock)
        self._data, self._cancelled = data, cancelled
        if self._user is not None and (owner := data.stat().st_uid) != 0:
            self._user = pwd.getpwuid(owner)
            self._require_reach(data)
        self._settings: dict[str, str] = {}
        self.role = SUPERUSER
        self.change(settings)

    @property
    def data(self) -> Path:
        return self._data

    def change(self, settings: Mapping[str, str]) -> None:
        """For the next start: these alone."""
        self._settings = {**_CALMLY, **settings}

    def address(self, database: str = "postgres") -> Address:
        return Address({**super().address(database).parameters, "user": self.role})

    def recover(self) -> None:
        """Starts it and waits for the end of the recovery: until it takes connections, or has shut itself down as
        `recovery_target_action` says. However long that takes. Raises SourceError, Interrupted.
        """
        self.log.unlink(missing_ok=True)
        self.start()

    def said(self) -> str:
        """The log of the last start."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def reached(self) -> dict[str, Json]:
        """`{"lsn", "timeline", "time"}` of the recovery that has just ended: the position behind the last record that was
        replayed, the new timeline, and when the last transaction before it was committed (None: there was none).
        """
        said = self.said()
        commits, done, new = _LAST_COMMIT.findall(said), _REDO_DONE.findall(said), _NEW_TIMELINE.findall(said)
        time = f"{commits[-1].replace(' ', 'T')}Z" if commits else None
        found: dict[str, Json] = {"lsn": done[-1] if done else None, "timeline": None, "time": time}
        if new:
            found["timeline"] = int(new[-1])
            history = self.data / "pg_wal" / f"{int(new[-1]):08X}.history"
            if history.exists() and (
                lines := [line.split("\t") for line in history.read_text().splitlines() if line.strip()]
            ):
                found["lsn"] = lines[-1][1]
        return found

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One of PostgreSQL's programs as the server's user, connected to the server where it connects."""
        environment = self.address().environment()
        return subprocess.run(
            [self.programs.path(program), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd="/",
            env=environment,
            **self._identity(),
        )

    def run_single(self, sql: str) -> str:
        """One command as the cluster's first superuser, whatever its name; the server must be stopped. Raises SourceError."""
        command = [self.programs.path("postgres"), "--single", "-D", str(self.data)]
        command += [f"--{name}={value}" for name, value in self._settings.items()] + ["template1"]
        done = subprocess.run(
            command, input=sql + "\n", capture_output=True, text=True, check=False, cwd="/", **self._identity()
        )
        if done.returncode or "ERROR:" in done.stderr:
            raise SourceError(
                f"the restored cluster in {self.data} cannot be worked with: {done.stderr.strip()[-600:]}",
                hint="The message is the server's own.",
            )
        return str(done.stdout)

    def _wait_until_ready(self) -> None:
        from psycopg import pq

        assert self._process is not None
        conninfo = self.address().url().reveal().encode()
        while pq.PGconn.ping(conninfo) != pq.Ping.OK:
            if self._cancelled():
                raise Interrupted("the recovery was interrupted", hint="Start it again.")
            code = self._process.poll()
            # A shutdown that the settings asked for ends with 0; in some versions with 3, but then the state tells.
            if code is not None and state_of(self.data) in (_SHUT_DOWN, _SHUT_DOWN_IN_RECOVERY):
                return
            if code is not None:
                raise SourceError(
                    f"the recovery in {self.data} failed: {failure_in(self.said())}",
                    hint="The message is the server's own; mend what it names.",
                )
            self._clock.sleep(_POLL)


def state_of(data: Path) -> int:
    """The state of the cluster by its control file."""
    with (data / "global" / "pg_control").open("rb") as file:
        return int(_STATE.unpack(file.read(_STATE.size))[3])


def failure_in(log: str) -> str:
    """What of a server's log tells why it ended."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    bad = [line for line in lines if line.startswith(_TELLING) or "could not" in line]
    return " | ".join((bad or lines)[-4:])[-800:]


def show_reached(reached: Mapping[str, Json]) -> str:
    """For people."""
    time = f", last transaction committed at {reached['time']}" if reached.get("time") else ""
    return f"{reached.get('lsn') or 'the end of its log'} on timeline {reached.get('timeline')}{time}"
