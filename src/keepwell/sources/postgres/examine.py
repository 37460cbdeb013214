"""Is a restored database whole? The server's own checks, objects, rows, and the policy's questions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.streams import Context, Facts, Finding
from keepwell.sources.postgres import catalog
from keepwell.sources.postgres.connection import Connection, connected, one_line, parse
from keepwell.sources.postgres.spec import Target

_MOST_PROBLEMS = 5
_SCHEMA = "keepwell_amcheck"

_BTREES = """
SELECT c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_am a ON a.oid = c.relam
 WHERE a.amname = 'btree' AND i.indisready AND i.indisvalid AND c.relkind = 'i' AND c.relpersistence <> 't' ORDER BY c.oid
"""
_HEAPS = """
SELECT c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_am a ON a.oid = c.relam
 WHERE c.relkind IN ('r', 't', 'm') AND a.amname = 'heap' AND c.relpersistence <> 't' ORDER BY c.oid
"""


def examine(target: Target, facts: Facts, context: Context) -> list[Finding]:
    """Findings from amcheck (every B-tree against its table, every table), objects that the backup had and that are
    not here, invalid indexes, constraints that are not validated and materialized views that are empty though they were not. An empty list: all is well.

    A check that cannot be carried out (no amcheck on the server, no right to use it) is a finding too.
    """
    address = parse(target.url)
    findings: list[Finding] = []
    with connected(address) as connection:
        connection.execute("BEGIN READ ONLY")
        now = catalog.objects(connection)
        invalid = catalog.invalid_indexes(connection)
        unfilled = catalog.unfilled(connection)
        unvalidated = catalog.unvalidated(connection)
        connection.execute("ROLLBACK")
        findings += compare_objects(facts["objects"], now)
        findings += [Finding(name, "the index is invalid") for name in invalid]
        findings += [
            Finding(name, "the constraint is not validated; it was at backup time")
            for name in unvalidated
            if name not in facts["unvalidated"]
        ]
        findings += [
            Finding(name, "the materialized view could not be filled")
            for name in unfilled
            if name not in facts["unfilled"]
        ]
        findings += amcheck(connection, address.database, context)
    return findings


def compare_objects(then: dict[str, list[str]], now: dict[str, list[str]]) -> list[Finding]:
    """One finding for each index, constraint, trigger, … that is missing or new."""
    findings = []
    for kind, names in then.items():
        one = {"indexes": "index", "policies": "policy"}.get(kind, kind.removesuffix("s"))
        here = set(now.get(kind, []))
        findings += [Finding(name, f"the {one} is missing") for name in names if name not in here]
        findings += [Finding(name, f"the {one} was not in the backup") for name in sorted(here - set(names))]
    return findings


def count_rows(target: Target, facts: Facts) -> dict[str, int]:
    """Rows of each table of the backup that is here. Of an extension's table only those that a dump holds."""
    counts = {}
    with connected(parse(target.url)) as connection:
        connection.execute("SET row_security = off")
        there = {table.key: table for table in catalog.tables(connection)}
        conditions = _conditions(connection)
        for name in facts["tables"]:
            if table := there.get(name):
                query = f"SELECT count(*) FROM ONLY {table.key} {conditions.get(table.oid, '')}"  # noqa: S608 - names from the catalog
                row = connection.execute(query).fetchone()
                counts[name] = row[0] if row else 0
    return counts


def query(target: Target, sql: str) -> Any:
    """First column of the first row; None where there is no row. Nothing can be changed by it. Raises SourceError."""
    import psycopg

    address = parse(target.url)
    with connected(address) as connection:
        connection.execute("BEGIN READ ONLY")
        try:
            with connection.cursor() as cursor:
                cursor.execute(sql)
                row = cursor.fetchone() if cursor.description else None
        except psycopg.Error as error:
            raise SourceError(
                f"the query failed: {one_line(address.scrub(str(error)))}",
                hint=f"Mend the check in the policy; it says: {sql.strip()}",
            ) from error
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")
    return row[0] if row else None


def column(target: Target, sql: str) -> Iterator[Any]:
    """First column of every row, as they come. Nothing can be changed by it. Raises SourceError."""
    import psycopg

    address = parse(target.url)
    with connected(address) as connection:
        connection.execute("BEGIN READ ONLY")
        try:
            # With a name, rows come in portions, and no answer is too large.
            with connection.cursor(name="keepwell_references") as cursor:
                cursor.itersize = 10_000
                cursor.execute(sql)
                for row in cursor:
                    yield row[0]
        except psycopg.Error as error:
            raise SourceError(
                f"the query failed: {one_line(address.scrub(str(error)))}",
                hint=f"Mend references in the policy; it says: {sql.strip()}",
            ) from error
        finally:
            if not connection.closed:
                connection.execute("ROLLBACK")


def compare(then: Facts, now: Facts) -> list[Finding]:
    """Facts at backup time against facts of the restored database: rows and digest of every table, sequences, large
    objects, objects, and, where server and pg_dump are of one version, the text of the schema.
    """
    findings = []
    for name in sorted(then["tables"].keys() | now["tables"].keys()):
        findings += _compare_table(name, then["tables"].get(name), now["tables"].get(name))
    for name in sorted(then["sequences"].keys() | now["sequences"].keys()):
        was, is_ = _stand(then["sequences"].get(name)), _stand(now["sequences"].get(name))
        if was != is_:
            findings.append(Finding(name, f"the sequence stands at {is_}; it stood at {was}"))
    findings += _compare_large_objects(then["large_objects"], now["large_objects"])
    findings += compare_objects(then["objects"], now["objects"])
    if same_version(then, now):
        findings += [
            Finding(f"schema ({section})", "the definitions differ from those of the backup")
            for section in then["schema"]
            if then["schema"][section] != now["schema"][section]
        ]
    return findings


def same_version(then: Facts, now: Facts) -> bool:
    """Whether the text of the schemas can be compared."""
    return bool(
        then["server_version_num"] // 10000 == now["server_version_num"] // 10000
        and then["dump_version"] == now["dump_version"]
    )


def _compare_table(name: str, was: dict[str, Any] | None, now: dict[str, Any] | None) -> list[Finding]:
    if was is None:
        return [Finding(name, "the table was not in the backup")]
    if now is None:
        return [Finding(name, "the table is missing")]
    if was["rows"] != now["rows"]:
        return [Finding(name, f"has {now['rows']} rows; {was['rows']} were backed up")]
    if was["digest"] != now["digest"]:
        return [Finding(name, "has as many rows as were backed up, but not the same values")]
    return []


def _compare_large_objects(was: dict[str, Any], now: dict[str, Any]) -> list[Finding]:
    if was["count"] != now["count"]:
        return [Finding("large objects", f"there are {now['count']}; {was['count']} were backed up")]
    if was["digest"] != now["digest"]:
        return [Finding("large objects", "as many as were backed up, but not the same bytes")]
    return []


def _stand(value: list[Any] | None) -> str:
    return "nothing" if value is None else f"{value[0]}{'' if value[1] else ' (not given out)'}"


def _conditions(connection: Connection) -> dict[int, str]:
    """Which rows of extensions' configuration tables a dump holds, by the table's oid."""
    rows = connection.execute(
        "SELECT t.oid::bigint, t.condition FROM pg_extension x, unnest(x.extconfig, x.extcondition) t(oid, condition)"
    ).fetchall()
    return dict(rows)


def amcheck(connection: Connection, database: str, context: Context) -> list[Finding]:
    """In a transaction that is rolled back, so that the extension leaves no trace."""
    import psycopg

    connection.execute("BEGIN")
    try:
        row = connection.execute(
            "SELECT quote_ident(n.nspname) FROM pg_extension x JOIN pg_namespace n ON n.oid = x.extnamespace "
            "WHERE x.extname = 'amcheck'"
        ).fetchone()
        schema = row[0] if row else _SCHEMA
        try:
            if not row:
                connection.execute(f"CREATE SCHEMA {_SCHEMA}; CREATE EXTENSION amcheck WITH SCHEMA {_SCHEMA}")
        except psycopg.Error as error:
            if connection.closed:
                raise
            return [Finding(database, f"amcheck could not be carried out: {one_line(str(error))}")]
        return [*_check_heaps(connection, schema, context), *_check_btrees(connection, schema, context)]
    finally:
        if not connection.closed:
            connection.execute("ROLLBACK")


def _check_heaps(connection: Connection, schema: str, context: Context) -> list[Finding]:
    findings = []
    for oid, name in connection.execute(_HEAPS).fetchall():
        _stop_if_cancelled(context)
        problem, rows = _attempt(
            connection,
            f"SELECT blkno, offnum, msg FROM {schema}.verify_heapam({oid}) LIMIT {_MOST_PROBLEMS}",  # noqa: S608 - a name from the catalog
        )
        findings += [Finding(name, f"the table is damaged: {problem}")] if problem else []
        findings += [Finding(name, f"the table is damaged at block {b}, row {o}: {message}") for b, o, message in rows]
    return findings


def _check_btrees(connection: Connection, schema: str, context: Context) -> list[Finding]:
    """Order and structure, and that every row of the table is in the index."""
    findings = []
    for oid, name in connection.execute(_BTREES).fetchall():
        _stop_if_cancelled(context)
        problem, _ = _attempt(connection, f"SELECT {schema}.bt_index_check({oid}, true)")
        findings += [Finding(name, f"the index is damaged: {problem}")] if problem else []
    return findings


def _attempt(connection: Connection, sql: str) -> tuple[str, list[tuple[Any, ...]]]:
    """What the check raised, and the rows it gave."""
    import psycopg

    connection.execute("SAVEPOINT attempt")
    try:
        rows = connection.execute(sql).fetchall()
    except psycopg.Error as error:
        if connection.closed:
            raise
        connection.execute("ROLLBACK TO attempt; RELEASE attempt")
        return one_line(str(error)), []
    connection.execute("RELEASE attempt")
    return "", rows


def _stop_if_cancelled(context: Context) -> None:
    if context.cancelled():
        raise Interrupted("the check of the restored database was interrupted", hint="Start it again.")
