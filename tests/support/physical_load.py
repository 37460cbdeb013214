"""PostgreSQL servers that write log, pgbench running against them, and the invariant that every moment of it must keep.

Each of pgbench's transactions adds one amount to an account, to a teller and to a branch, and writes it into the history.
So in every state that ever was committed the four sums are equal.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keepwell.core.errors import ProgramMissing, SourceError
from keepwell.core.wal import DEFAULT_SEGMENT
from keepwell.sources.postgres.programs import Programs, servers
from keepwell.sources.postgres.server import ThrowawayServer, free_port, unprivileged_user

LOGGING = {
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "max_wal_size": "1GB",
    "max_connections": "40",
    "wal_keep_size": "64MB",
    "timezone": "UTC",
}
"""What a throwaway server needs before its log is worth reading."""

SUMS = """
SELECT (SELECT coalesce(sum(bbalance), 0) FROM pgbench_branches),
       (SELECT coalesce(sum(tbalance), 0) FROM pgbench_tellers),
       (SELECT coalesce(sum(abalance), 0) FROM pgbench_accounts),
       (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
       (SELECT count(*) FROM pgbench_history)
"""


class LoggingServer(ThrowawayServer):
    """With segments of the log of another size than 16 MiB."""

    def __init__(self, *args: Any, segment_size: int = DEFAULT_SEGMENT, **options: Any) -> None:
        super().__init__(*args, **options)
        self._segment_size = segment_size

    def _initdb(self) -> None:
        super()._initdb()
        if self._segment_size != DEFAULT_SEGMENT:
            command = [self.programs.path("pg_resetwal"), f"--wal-segsize={self._segment_size >> 20}", str(self.data)]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **self._identity())


@dataclass(frozen=True)
class Balances:
    branches: int
    tellers: int
    accounts: int
    history: int
    transactions: int
    """Rows of the history: so many transactions were committed."""

    @property
    def balanced(self) -> bool:
        return self.branches == self.tellers == self.accounts == self.history


def programs_of(major: int) -> Programs:
    """Programs of just this version; skips the test (in CI: fails it) where there are none."""
    reason = f"no PostgreSQL {major} here; tests/setup.sh installs it"
    with contextlib.suppress(ProgramMissing):
        found = servers(major)
        if found.major == major:
            return found
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that the server's own user can get into; it goes again, with all that is in it."""
    folder = Path(tempfile.mkdtemp(prefix="keepwell-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def logging_server(
    major: int,
    folder: Path,
    *,
    settings: Mapping[str, str] | None = None,
    tcp: bool = False,
    segment_size: int = DEFAULT_SEGMENT,
) -> Iterator[ThrowawayServer]:
    """A running server whose log can be streamed and archived. `settings` go over `LOGGING`."""
    server = LoggingServer(
        programs_of(major),
        folder,
        port=free_port() if tcp else None,
        settings={**LOGGING, **(settings or {})},
        segment_size=segment_size,
    )
    server.start()
    try:
        yield server
    finally:
        server.stop()


def fill(server: ThrowawayServer, *, scale: int = 1, database: str = "postgres") -> None:
    """pgbench's tables: 100 000 accounts for each step of `scale`, about 15 MB."""
    _pgbench(server, ["-i", "-q", "-s", str(scale), database])


def run(server: ThrowawayServer, transactions: int, *, clients: int = 1, database: str = "postgres") -> None:
    """So many transactions by each client, and back when they are done."""
    _pgbench(server, ["-n", "-c", str(clients), "-t", str(transactions), database])


@contextlib.contextmanager
def load(
    server: ThrowawayServer, *, clients: int = 2, database: str = "postgres", rate: int | None = None
) -> Iterator[None]:
    """pgbench runs all through the block (`rate`: so many transactions a second). Fails where it ended by itself."""
    command = _command(server, ["-n", "-c", str(clients), "-T", "3600"])
    command += [*(["-R", str(rate)] if rate else []), database]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment(server, database),
        start_new_session=True,
    )
    try:
        yield
        ended = process.poll()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        _, errors = process.communicate()
    assert ended is None, f"pgbench ended by itself ({ended}): {errors[-600:]}"


def balances(url: str) -> Balances:
    """The four sums, in one snapshot."""
    with psycopg.connect(url) as connection:
        row = connection.execute(SUMS).fetchone()
    assert row is not None
    return Balances(*(int(value) for value in row))


def require_balanced(url: str) -> Balances:
    """The invariant. Returns the sums, so that a test can tell moments apart."""
    found = balances(url)
    assert found.balanced, f"the sums differ, so this is no state that ever was: {found}"
    return found


def await_end_of_recovery(server: ThrowawayServer, seconds: float = 120) -> None:
    """Back when the server has ended its recovery. Raises SourceError with the end of its log where it stops instead."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
                if connection.execute("SELECT pg_is_in_recovery()").fetchone() == (False,):
                    return
        except psycopg.OperationalError:
            if not _alive(server.pid):
                break
        time.sleep(0.02)
    raise SourceError(f"the server did not end its recovery: {server.log.read_text(errors='replace')[-1000:]}")


def give_to_server(path: Path) -> None:
    """The path belongs to the user whom the server runs as, where we are root."""
    if user := unprivileged_user():
        os.chown(path, user.pw_uid, user.pw_gid)


def _alive(pid: int) -> bool:
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z"


def _pgbench(server: ThrowawayServer, options: list[str]) -> None:
    done = subprocess.run(
        _command(server, options), capture_output=True, text=True, check=False, env=_environment(server, options[-1])
    )
    assert done.returncode == 0, done.stderr[-1000:]


def _command(server: ThrowawayServer, options: list[str]) -> list[str]:
    return [server.programs.path("pgbench"), *options]


def _environment(server: ThrowawayServer, database: str) -> dict[str, str]:
    parameters: Mapping[str, Any] = server.address(database).parameters
    return {**os.environ, "PGHOST": parameters["host"], "PGPORT": parameters["port"], "PGUSER": parameters["user"]}
