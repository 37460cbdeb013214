"""The digest of a table in another order of columns.

A table that inherits columns which its parent was given later comes back with its columns in another order. Its
values are the same; to see that, they are read in the order of the backup.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from blake3 import blake3

from keepwell.sources.postgres.connection import Connection

if TYPE_CHECKING:
    from psycopg.sql import Composed

# What pg_dump sets for itself.
_AS_PG_DUMP = (
    "SET LOCAL DateStyle = ISO; SET LOCAL IntervalStyle = postgres; SET LOCAL extra_float_digits = 3; "
    # One process from the beginning to the end: the order of the rows is a part of the digest.
    "SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0; SET LOCAL row_security = off; SET LOCAL search_path = ''"
)


def digest(connection: Connection, schema: str, table: str, columns: Sequence[str], encoding: str) -> str:
    """BLAKE3 of the rows as COPY writes them, in the transaction of the connection."""
    connection.execute(_AS_PG_DUMP)
    hasher = blake3()
    with connection.cursor() as cursor, cursor.copy(_statement(schema, table, columns, encoding)) as rows:
        for block in rows:
            hasher.update(block)
    return hasher.hexdigest()


def _statement(schema: str, table: str, columns: Sequence[str], encoding: str) -> Composed:
    from psycopg.sql import SQL, Identifier, Literal

    names = SQL(", ").join(map(Identifier, columns))
    return SQL("COPY (SELECT {} FROM ONLY {}) TO STDOUT WITH (ENCODING {})").format(
        names, Identifier(schema, table), Literal(encoding)
    )
