"""A replication connection: PostgreSQL's streaming replication protocol through libpq.

Source: PostgreSQL's documentation, "Streaming Replication Protocol". The connection is in no thread's hands but one at a time.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret
from keepwell.core.wal import parse_lsn
from keepwell.sources.postgres.connection import Address, one_line, parse, refused

Row: TypeAlias = dict[str, str | None]
Notice: TypeAlias = Callable[[str], None]
COPY: list[Row] = []
"""What `copy_out` gives where a copy begins: this very list."""
_CONNECT_SECONDS = "30"
_ALIVE = {"keepalives_idle": "60", "keepalives_interval": "15", "keepalives_count": "4"}
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Identity:
    """What IDENTIFY_SYSTEM says."""

    system: str
    """The cluster's system identifier, decimal."""
    timeline: int
    position: int
    """Where the server's log ends, as far as it is flushed."""
    database: str | None


class ServerError(SourceError):
    """The server answered with an error."""

    def __init__(self, message: str, *, hint: str = "", state: str = "") -> None:
        super().__init__(message, hint=hint)
        self.state = state
        """SQLSTATE."""


class Replication:
    """A physical replication connection; a context manager."""

    def __init__(self, address: Address, connection: Any) -> None:
        self.address, self.pg = address, connection
        self.server_version: int = connection.server_version
        self.process: int = connection.backend_pid
        """The server's process, by which other sessions know this one."""
        self._notice: Notice | None = None
        connection.notice_handler = self._noticed

    @classmethod
    def connect(cls, url: Secret, *, application: str = "keepwell") -> Replication:
        """Raises SourceError; never with the password."""
        address = parse(url)
        parameters = {"connect_timeout": _CONNECT_SECONDS, **_ALIVE, **address.parameters}
        parameters |= {"replication": "true", "application_name": application, "client_encoding": "UTF8"}
        parameters.pop("options", None)
        connection = pq.PGconn.connect(make_conninfo(**parameters).encode())
        if connection.status != pq.ConnStatus.OK:
            text = address.scrub(one_line(connection.get_error_message()))
            connection.finish()
            if "replication" in text.lower() or "pg_hba.conf" in text:
                raise SourceError(
                    f"{address.place} does not allow a replication connection: {text}",
                    hint="Physical backups need a role with REPLICATION, a line for `replication` in pg_hba.conf, and "
                    "max_wal_senders above zero: see docs/how-to/physical.md. Managed services mostly offer none: there "
                    'method = "logical" is the way.',
                )
            raise refused(address, text)
        return cls(address, connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self.pg.finish()

    # Plain commands

    def identify(self) -> Identity:
        (row,) = self.query("IDENTIFY_SYSTEM")
        return Identity(
            str(row["systemid"]), int(str(row["timeline"])), parse_lsn(str(row["xlogpos"])), row.get("dbname")
        )

    def show(self, name: str) -> str:
        """A setting of the server, as SHOW prints it."""
        (row,) = self.query(f"SHOW {name}")
        return str(next(iter(row.values())))

    def timeline_history(self, timeline: int) -> tuple[str, bytes]:
        """Name and content of a timeline's history file."""
        result = self.done(self.pg.exec_(f"TIMELINE_HISTORY {timeline}".encode()))
        return result.get_value(0, 0).decode(), result.get_value(0, 1)

    def query(self, command: str) -> list[Row]:
        """A command that answers with rows, or with none. Raises SourceError."""
        return _rows(self.done(self.pg.exec_(command.encode())))

    # Streams

    def copy_out(self, command: str, *, on_notice: Notice | None = None) -> Iterator[list[Row] | memoryview]:
        """What a command such as BASE_BACKUP answers: each result set as a list of rows, COPY where a copy begins, and each of
        its messages as bytes that are valid until the next step. `on_notice` is told the server's warnings.
        Raises SourceError.
        """
        self._notice = on_notice
        try:
            with self.losses():
                self.pg.send_query(command.encode())
                while (result := self.pg.get_result()) is not None:
                    if result.status == pq.ExecStatus.COPY_OUT:
                        yield COPY
                        yield from self._messages()
                    else:
                        yield _rows(self.done(result))
        finally:
            self._notice = None

    def _messages(self) -> Iterator[memoryview]:
        while True:
            count, data = self.pg.get_copy_data(0)
            if count == -1:
                return
            if count == -2:
                raise self.failure()
            yield data

    def copy_in(self, command: str, blocks: Iterable[bytes]) -> None:
        """UPLOAD_MANIFEST and its like. Raises SourceError."""
        result = self.pg.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_IN:
            self.done(result)
            raise SourceError(f"{self.address.place}: the server did not ask for what was to be sent ({command})")
        failure: SourceError | None = None
        with self.losses():
            for block in blocks:
                for at in range(0, len(block), _BLOCK):
                    self.pg.put_copy_data(block[at : at + _BLOCK])
            self.pg.put_copy_end()
            while (result := self.pg.get_result()) is not None:
                try:
                    self.done(result)
                except SourceError as error:
                    failure = failure or error
        if failure is not None:
            raise failure

    def copy_both(self, command: str) -> CopyBoth:
        """START_REPLICATION. Raises SourceError."""
        result = self.pg.exec_(command.encode())
        if result.status != pq.ExecStatus.COPY_BOTH:
            return CopyBoth(self, rows=_rows(self.done(result)))
        return CopyBoth(self)

    # Answers

    def done(self, result: Any) -> Any:
        if result.status in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK):
            return result
        raise self.failure(result)

    def failure(self, result: Any = None) -> ServerError:
        state = text = ""
        if result is not None:
            state = (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
            text = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace")
        text = one_line(text or self.pg.get_error_message()) or "the connection was lost"
        return ServerError(
            f"{self.address.place}: {self.address.scrub(text)}",
            hint="The message is the server's own; mend what it names, and try again.",
            state=state,
        )

    @contextlib.contextmanager
    def losses(self) -> Iterator[None]:
        """What psycopg raises for a lost connection, as SourceError."""
        try:
            yield
        except psycopg.Error as error:
            raise self.failure() from error

    def _noticed(self, result: Any) -> None:
        severity = result.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        if self._notice is not None and severity == b"WARNING":
            self._notice((result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode(errors="replace"))


class CopyBoth:
    """START_REPLICATION, while it runs."""

    def __init__(self, link: Replication, rows: list[Row] | None = None) -> None:
        self._link, self.pg = link, link.pg
        self._rows = rows
        self.closed = rows is not None
        """The server has ended the stream."""

    def receive(self, timeout: float) -> bytes | None:
        """One message; None where the time (seconds) ran out or the stream has ended. Raises SourceError."""
        if self.closed:
            return None
        waited = False
        with self._link.losses():
            while True:
                count, data = self.pg.get_copy_data(1)
                if count > 0:
                    return bytes(data)
                if count == -1:
                    self.closed = True
                    return None
                if waited:
                    return None
                waited = not select.select([self.pg.socket], [], [], timeout)[0]
                if not waited:
                    self.pg.consume_input()

    def send(self, data: bytes) -> None:
        """Raises SourceError."""
        with self._link.losses():
            self.pg.put_copy_data(data)
            while self.pg.flush():
                select.select([], [self.pg.socket], [], 60)

    def finish(self) -> list[Row]:
        """Ends the stream; the rows say which timeline follows and from where, where one does. Raises SourceError."""
        if self._rows is not None:
            return self._rows
        with contextlib.suppress(psycopg.Error):  # the server ended it with an error, which the results below tell
            self.pg.put_copy_end()
        rows: list[Row] = []
        with self._link.losses():
            self.pg.flush()
            while not self.closed:
                count, _ = self.pg.get_copy_data(0)
                self.closed = count == -1
            while (result := self.pg.get_result()) is not None:
                if result.status in (pq.ExecStatus.COPY_OUT, pq.ExecStatus.COPY_IN, pq.ExecStatus.COPY_BOTH):
                    continue
                rows += _rows(self._link.done(result))
        self._rows = rows
        return rows


def _rows(result: Any) -> list[Row]:
    names = [result.fname(column).decode() for column in range(result.nfields)]
    return [
        {name: None if (value := result.get_value(row, n)) is None else value.decode() for n, name in enumerate(names)}
        for row in range(result.ntuples)
    ]
