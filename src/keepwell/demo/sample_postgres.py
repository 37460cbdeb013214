"""The sample in PostgreSQL: filled by COPY in one transaction, changed a day later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

from keepwell.core.errors import SourceError, TargetNotEmpty
from keepwell.core.progress import Progress, Silent
from keepwell.demo import records
from keepwell.demo.days import Changes, How, Load, State, first_day, later_day
from keepwell.demo.records import Batch

if TYPE_CHECKING:
    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

_TABLES = ("users", "leads", "activities", "closed_deals")
_SEQUENCES = {
    "users": "users_id_seq",
    "leads": "leads_id_seq",
    "activities": "activities_id_seq",
    "closed_deals": "closed_deals_id_seq",
}


def fill_postgres(url: str, rows: int, seed: int = 1, progress: Progress | None = None) -> dict[str, int]:
    """Make the sample in a database that does not have it; returns rows per table.

    `rows` is the number of leads: for each there are four activities, a tenth of a closed deal, a 200th of a user.
    Raises TargetNotEmpty where one of the tables exists, SourceError where the server refuses.
    """
    progress = progress or Silent()
    day = first_day(rows, seed)
    with _connected(url) as connection:
        with connection.transaction():
            _settle(connection)
            _refuse_existing(connection)
            connection.execute(_script("schema.sql"))
            counts = {load[0].name: _copy(connection, load, progress) for load in day.loads()}
            for identifier in day.contracts:
                contract = records.contract(seed, identifier)
                connection.execute("SELECT lo_from_bytea(%s, %s)", (identifier, contract), binary=True)
            progress.note("adding keys, indexes and views")
            connection.execute(_script("constraints.sql"))
            _advance_sequences(connection)
        connection.execute("VACUUM ANALYZE")
    return counts


def change_postgres(
    url: str, share: float = 0.01, how: How = "recent", seed: int = 1, progress: Progress | None = None
) -> Changes:
    """Let one more day pass. The same state, share, way and seed give the same rows.

    Raises SourceError where the server refuses or the sample is not there, UsageError for a wrong share or way.
    """
    progress = progress or Silent()
    with _connected(url) as connection, connection.transaction():
        _settle(connection)
        day = later_day(_state(connection), share, how, seed)
        changes = Changes()
        for load in day.loads():
            if count := _copy(connection, load, progress):
                changes.appended[load[0].name] = count
        # One statement a table: a deal that was won stays won, whatever its notes say.
        connection.execute(
            "CREATE TEMPORARY TABLE changed_leads (id bigint, status lead_status, score smallint, notes text, "
            "updated_at timestamptz) ON COMMIT DROP"
        )
        _copy_batches(connection, "changed_leads (id, status, score, notes, updated_at)", day.lead_changes())
        changes.changed["leads"] = connection.execute(
            "UPDATE leads SET status = CASE WHEN leads.status = 'won' THEN leads.status ELSE c.status END, "
            "score = c.score, notes = c.notes, updated_at = c.updated_at FROM changed_leads c WHERE leads.id = c.id"
        ).rowcount
        connection.execute(
            "CREATE TEMPORARY TABLE changed_activities (id bigint, subject text, body text) ON COMMIT DROP"
        )
        _copy_batches(connection, "changed_activities (id, subject, body)", day.activity_changes())
        changes.changed["activities"] = connection.execute(
            "UPDATE activities SET subject = c.subject, body = c.body FROM changed_activities c "
            "WHERE activities.id = c.id"
        ).rowcount
        _advance_sequences(connection)
        connection.execute("REFRESH MATERIALIZED VIEW monthly_revenue")
    return changes


@contextmanager
def _connected(url: str) -> Iterator[Connection]:
    import psycopg

    try:
        place = psycopg.conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        # The library's own text repeats the address, and with it the password.
        raise SourceError(
            "the address of the database cannot be read",
            hint="Write it as postgresql://user@host:port/database, the password in the environment or a passfile.",
        ) from None
    name = f"{place.get('dbname', 'the database')} at {place.get('host', 'the local server')}"
    try:
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection
    except psycopg.OperationalError as error:
        raise SourceError(
            f"the sample in {name} could not be worked on: {error}", hint="See that the server runs and accepts you."
        ) from error
    except psycopg.Error as error:
        raise SourceError(
            f"the server refused to work on the sample in {name}: {error}",
            hint="Use a database of its own for the sample, owned by the user of the address.",
        ) from error


def _settle(connection: Connection) -> None:
    connection.execute(
        "SET LOCAL synchronous_commit = off; SET LOCAL maintenance_work_mem = '256MB'; SET LOCAL work_mem = '64MB'; "
        "SET LOCAL timezone = 'UTC'; SET LOCAL datestyle = 'ISO'; SET LOCAL client_encoding = 'UTF8'; SET LOCAL search_path = public"
    )


def _refuse_existing(connection: Connection) -> None:
    found = connection.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname = ANY(%s) ORDER BY 1",
        (list(_TABLES),),
    ).fetchall()
    if found:
        names = ", ".join(name for (name,) in found)
        raise TargetNotEmpty(
            f"the database {connection.info.dbname} already has the tables {names}",
            hint="Make the sample in an empty database: createdb leads.",
        )


def _state(connection: Connection) -> State:
    if connection.execute("SELECT to_regclass('public.activities')").fetchone() == (None,):
        raise SourceError(
            f"the database {connection.info.dbname} has no sample to change", hint="Fill it first with fill_postgres."
        )
    row = connection.execute(
        "SELECT (SELECT max(id) FROM users), (SELECT max(id) FROM leads), (SELECT max(id) FROM activities), "
        "(SELECT greatest(max(created_at), max(updated_at)) FROM leads)"
    ).fetchone()
    if row is None or None in row:
        raise SourceError(
            f"the sample in {connection.info.dbname} has lost its rows", hint="Fill an empty database instead."
        )
    return State(*row)


def _copy(connection: Connection, load: Load, progress: Progress) -> int:
    table, expected, batches = load
    task = f"filling {table.name}"
    progress.begin(task, expected, "rows")
    count = 0

    def watched() -> Iterator[Batch]:
        nonlocal count
        for batch in batches:
            yield batch
            count += len(batch)
            progress.advance(task, len(batch))

    _copy_batches(connection, f"{table.name} ({', '.join(table.columns)})", watched())
    progress.end(task)
    return count


def _copy_batches(connection: Connection, into: str, batches: Iterator[Batch]) -> None:
    with connection.cursor() as cursor, cursor.copy(f"COPY {into} FROM STDIN") as copy:
        for batch in batches:
            if batch:
                copy.write(copy_text(batch))


def copy_text(batch: Batch) -> bytes:
    """Rows in the text format of COPY; escaped a batch at a time, which is many times faster than a value at a time."""
    text = "\x1e".join(map("\x1f".join, batch)) + "\x1e"
    text = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return text.replace("\x1f", "\t").replace("\x1e", "\n").replace(records.NULL, "\\N").encode()


def _advance_sequences(connection: Connection) -> None:
    for table, sequence in _SEQUENCES.items():
        connection.execute(f"SELECT setval('{sequence}', (SELECT max(id) FROM {table})) FROM {table} LIMIT 1")
    connection.execute("SELECT setval('lead_reference_seq', (SELECT max(id) FROM leads))")


def _script(name: str) -> bytes:
    return resources.files("keepwell.demo").joinpath(name).read_bytes()
