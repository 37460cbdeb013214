"""A row that a backup writes into the database at a known moment, and that every recovery to a later one must bring back."""

from __future__ import annotations

from keepwell.core.clock import UTC
from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Facts, Finding, Json
from keepwell.core.wal import parse_lsn
from keepwell.sources.physical.cluster import RecoveringServer
from keepwell.sources.physical.target import Sandbox
from keepwell.sources.postgres.connection import connected, one_line, parse

TABLE = "public.keepwell_canary"
_KEPT = 1000


def write(url: Secret, database: str) -> dict[str, Json]:
    """`{"time", "lsn", "database"}`: when the row was written by the server's clock, and a position in the log behind it.

    Makes the table where it is missing. Raises SourceError, where the role may not write or the server is a standby.
    """
    import psycopg

    address = parse(url).with_database(database)
    try:
        with connected(address) as connection:
            connection.execute("SET synchronous_commit = on")
            connection.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (written timestamptz PRIMARY KEY)")
            row = connection.execute(
                f"INSERT INTO {TABLE} VALUES (clock_timestamp()) RETURNING written"  # noqa: S608 - our own name
            ).fetchone()
            connection.execute(
                f"DELETE FROM {TABLE} WHERE written < (SELECT min(written) FROM "  # noqa: S608 - our own name
                f"(SELECT written FROM {TABLE} ORDER BY written DESC LIMIT {_KEPT}) kept)"
            )
            position = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    except psycopg.Error as error:
        raise SourceError(
            f"the canary could not be written into {address.place}: {one_line(address.scrub(str(error)))}",
            hint=f"Give the role the right to make and write {TABLE}, or take `canary` out of the policy.",
        ) from error
    assert row is not None
    assert position is not None
    return {"time": row[0].astimezone(UTC).isoformat(), "lsn": position[0], "database": database}


def look(target: Sandbox, facts: Facts) -> tuple[dict[str, Json], list[Finding]]:
    """`{"time", "there", "newest"}` of the backup's canary in the recovered cluster, and what is wrong with it: where the
    recovery went beyond its position in the log, it must be there.
    """
    canary = facts["canary"]
    with connected(_server(target).address(str(canary["database"]))) as connection:
        exists = connection.execute("SELECT to_regclass(%s) IS NOT NULL", [TABLE]).fetchone()
        there, newest = False, None
        if exists and exists[0]:
            row = connection.execute(
                f"SELECT count(*) FILTER (WHERE written = %s) > 0, max(written) FROM {TABLE}",  # noqa: S608 - our own name
                [canary["time"]],
            ).fetchone()
            assert row is not None
            there, newest = bool(row[0]), row[1]
    found = {"time": canary["time"], "there": there, "newest": newest.astimezone(UTC).isoformat() if newest else None}
    lsn = target.reached.get("lsn")
    if there or lsn is None or parse_lsn(lsn) < parse_lsn(canary["lsn"]):
        return found, []
    return found, [
        Finding(
            "canary",
            f"the row of {canary['time']} is not there, although the recovery went on to {lsn}, beyond {canary['lsn']}",
        )
    ]


def _server(target: Sandbox) -> RecoveringServer:
    if target.server is None:
        raise SourceError("the restored cluster does not run", hint="See the other findings.")
    return target.server
