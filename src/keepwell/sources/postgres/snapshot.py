"""Holding one moment of a database still: a snapshot to share, and locks so that no table goes away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from keepwell.core.errors import SourceError
from keepwell.sources.postgres.catalog import Table, tables
from keepwell.sources.postgres.connection import (
    DUMP_OPTIONS,
    Address,
    Connection,
    connect,
    require_session,
    server_errors,
)


class Changed(Exception):
    """Tables were dropped or altered between looking and locking."""


@dataclass(frozen=True)
class Held:
    """As long as the `with` block lasts, `snapshot` may be imported and no table is dropped or altered."""

    connection: Connection
    snapshot: str
    tables: list[Table]
    """Those that the snapshot sees."""


@contextlib.contextmanager
def held(address: Address, lock_seconds: int) -> Iterator[Held]:
    """Raises Changed, and SourceError."""
    import psycopg

    timeouts = f"-c lock_timeout={lock_seconds}s {DUMP_OPTIONS}"
    connection = connect(address, f"{timeouts} -c idle_session_timeout=0")
    try:
        with server_errors(address):
            require_session(connection, address)
            if connection.info.server_version >= 170000:
                connection.execute("SET transaction_timeout = 0")
            seen = tables(connection)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            try:
                # Locks first, the snapshot after: then what the snapshot sees is still there.
                _lock(connection, seen)
                row = connection.execute("SELECT pg_export_snapshot()").fetchone()
                assert row is not None
                visible = tables(connection)
                known = {table.oid for table in seen}
                _lock(connection, [table for table in visible if table.oid not in known])
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.DeadlockDetected):
                raise Changed from None
            except psycopg.errors.LockNotAvailable:
                raise SourceError(
                    f"{address.place}: somebody has been altering or dropping a table for {lock_seconds} s, and the "
                    "backup would have to wait for it",
                    hint="See pg_stat_activity for a long ALTER, DROP, VACUUM FULL or CLUSTER; run the backup after it.",
                ) from None
        yield Held(connection, row[0], visible)
    finally:
        connection.close()


def _lock(connection: Connection, wanted: list[Table]) -> None:
    # A table that may not be read cannot be locked either; pg_dump says so better than we could.
    if names := ", ".join(f"ONLY {table.key}" for table in wanted if table.readable):
        connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE")
