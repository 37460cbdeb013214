"""Some tables of a database: what belongs to them, and a smaller database of them alone."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from keepwell.core.errors import SourceError
from keepwell.core.streams import Facts
from keepwell.sources.sqlite.opening import explain, reading
from keepwell.sources.sqlite.schema import pragma

SEQUENCE = "sqlite_sequence"


def belonging(known: set[str], wanted: set[str], facts: Facts) -> set[str]:
    """The wanted tables, and with a virtual table the ordinary ones that hold its content (`docs_data`, …)."""
    stored = facts["tables"].keys()
    virtual = {name for name in wanted if name not in stored}
    return wanted | {name for name in known for table in virtual if name.startswith(f"{table}_")}


def loose_ends(database: Path, chosen: set[str]) -> list[str]:
    """What points from the chosen tables to tables that are left out, as texts."""
    warnings = []
    with reading(database, private=True) as connection:
        for name in sorted(chosen):
            parents = connection.execute('SELECT DISTINCT "table" FROM pragma_foreign_key_list(?)', (name,)).fetchall()
            warnings += [
                f"{name} refers to {parent}, which was not asked for: its foreign keys lead nowhere in the new file"
                for (parent,) in parents
                if parent not in chosen
            ]
    return warnings


def keep_only(database: Path, chosen: set[str], smaller: Path, *, wal: bool) -> None:
    """Write a new database with the chosen tables, their indexes and triggers. `database` is spoilt by it.

    The other tables are struck from the catalogue and VACUUM INTO leaves them behind: rows, generated
    columns and indexes are copied as they are, nothing is evaluated anew. Raises SourceError.
    """
    try:
        with contextlib.closing(_writing(database)) as connection:
            keeps_sequence = connection.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (SEQUENCE,)).fetchone()
            marks = ", ".join("?" * len(chosen))
            names = sorted(chosen)
            connection.execute("BEGIN")
            if keeps_sequence:
                connection.execute(f"DELETE FROM {SEQUENCE} WHERE name NOT IN ({marks})", names)  # noqa: S608 - marks
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute(
                f"DELETE FROM sqlite_master WHERE (tbl_name NOT IN ({marks}) AND name <> ?) OR type = 'view'",  # noqa: S608 - marks
                [*names, SEQUENCE],
            )
            connection.execute("COMMIT")
        with contextlib.closing(_writing(database)) as connection:
            connection.execute("VACUUM INTO ?", (str(smaller),))
        if wal:
            with contextlib.closing(_writing(smaller)) as connection:
                pragma(connection, "journal_mode=WAL")
    except sqlite3.OperationalError as error:
        if "function" in str(error) or "collation" in str(error) or "query solution" in str(error):
            raise SourceError(
                f"the chosen tables need functions or collations that only the application has: {error}",
                hint="Restore the whole database, which needs none of them, or the tables as SQL text.",
            ) from error
        raise explain(error, database) from error
    except sqlite3.Error as error:
        raise explain(error, database) from error


def _writing(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None)
    # Private and disposable: no journal beside it, no waiting for the disk.
    for setting in ("journal_mode=OFF", "synchronous=OFF", "foreign_keys=OFF", "locking_mode=EXCLUSIVE"):
        connection.execute(f"PRAGMA {setting}")
    return connection
