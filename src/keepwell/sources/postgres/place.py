"""The database to restore into: made new like the one that was backed up, or found empty."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepwell.core.errors import SourceError, TargetNotEmpty
from keepwell.core.streams import Facts
from keepwell.sources.postgres.connection import Address, Connection, connect, connected, one_line
from keepwell.sources.postgres.rights import Rights

if TYPE_CHECKING:
    from psycopg.sql import Composed

_FOUND = """
SELECT 'the table or view ' || c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.deptype = 'e' AND e.classid = 'pg_class'::regclass AND e.objid = c.oid)
UNION ALL
SELECT 'the function ' || p.oid::regprocedure FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.deptype = 'e' AND e.classid = 'pg_proc'::regclass AND e.objid = p.oid)
UNION ALL
SELECT 'the type ' || t.oid::regtype FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
 WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND t.typtype IN ('e', 'd', 'r')
   AND NOT EXISTS (SELECT FROM pg_depend e WHERE e.deptype = 'e' AND e.classid = 'pg_type'::regclass AND e.objid = t.oid)
UNION ALL
SELECT 'the large object ' || oid FROM pg_largeobject_metadata
LIMIT 1
"""


def prepare(facts: Facts, address: Address, *, create: bool) -> list[str]:
    """Makes the database, or sees that it is empty, and that the extensions can be had. Returns warnings.

    Raises TargetNotEmpty, SourceError.
    """
    warnings = []
    if create:
        with _maintenance(address) as connection:
            _require_extensions(facts, connection, address)
            warnings = _create(facts, connection, address)
    else:
        with connected(address) as connection:
            found = connection.execute(_FOUND).fetchone()
            if found:
                raise TargetNotEmpty(
                    f"{address.place} is not empty: it has {found[0]}",
                    hint="Nothing was changed. Restore into a new database, or into one without tables, types and functions.",
                )
            _require_extensions(facts, connection, address)
            row = connection.execute("SHOW server_encoding").fetchone()
            if row and row[0] != facts["encoding"]:
                warnings.append(
                    f"the database has the encoding {row[0]}; the one that was backed up had {facts['encoding']}"
                )
    return warnings


def give_back(facts: Facts, connection: Connection, database: str) -> list[str]:
    """Settings, comment, grants and owner of the database itself. Returns warnings about what was refused."""
    from psycopg.sql import SQL, Identifier, Literal

    rights = Rights(connection)
    name = Identifier(database)

    def run(statement: Composed) -> None:
        rights.run(statement.as_string(connection).encode())

    for role, setting, value in facts["settings"]:
        whose = (
            SQL("ROLE {} IN DATABASE {}").format(Identifier(role), name) if role else SQL("DATABASE {}").format(name)
        )
        # FROM CURRENT takes lists (search_path) as they are, which no quoting of ours would.
        try:
            connection.execute("SELECT set_config(%s, %s, false)", (setting, value))
        except _psycopg_error() as error:
            rights.refused(one_line(str(error)), f"ALTER DATABASE {database} SET {setting}")
            continue
        run(SQL("ALTER {} SET {} FROM CURRENT").format(whose, SQL(".").join(map(Identifier, setting.split(".")))))
        connection.execute(SQL("RESET {}").format(SQL(".").join(map(Identifier, setting.split(".")))))
    if facts["comment"] is not None:
        run(SQL("COMMENT ON DATABASE {} IS {}").format(name, Literal(facts["comment"])))
    if facts["grants"] is not None:
        run(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
        for grantee, privilege, grantable in facts["grants"]:
            to = Identifier(grantee) if grantee else SQL("PUBLIC")
            option = SQL(" WITH GRANT OPTION" if grantable and grantee != facts["owner"] else "")
            run(SQL("GRANT {} ON DATABASE {} TO {}{}").format(SQL(privilege), name, to, option))
    run(SQL("ALTER DATABASE {} OWNER TO {}").format(name, Identifier(facts["owner"])))
    return rights.warnings()


def _maintenance(address: Address) -> Any:
    """A connection to a database of the same server that is always there."""
    try:
        connect(address.with_database("postgres")).close()
    except SourceError as error:
        if "does not exist" not in error.message:
            raise
        return connected(address.with_database("template1"))
    return connected(address.with_database("postgres"))


def _create(facts: Facts, connection: Connection, address: Address) -> list[str]:
    import psycopg

    attempts = list(_recipes(facts, connection.info.server_version))
    failed = ""
    for number, recipe in enumerate(attempts):
        try:
            connection.execute(_statement(address.database, recipe))
        except psycopg.errors.DuplicateDatabase:
            raise TargetNotEmpty(
                f"{address.place} exists already",
                hint="Nothing was changed. Give the name of a database that does not exist.",
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise SourceError(
                f"{address.place}: {one_line(str(error))}",
                hint="Let the role make databases (ALTER ROLE … CREATEDB), or make an empty one and restore into it.",
            ) from error
        except psycopg.Error as error:
            failed = failed or one_line(str(error))
            if number == len(attempts) - 1:
                raise
        else:
            if number:
                locale = facts["locale"]["locale"] or facts["locale"]["collate"]
                other = f"the server here does not have the locale {locale} of the backup ({failed})"
                return [f"{other}; text is sorted by the rules of another"]
            break
    return []


def _recipes(facts: Facts, version: int) -> list[dict[str, str]]:
    """Options of CREATE DATABASE, the exact ones first."""
    locale = facts["locale"]
    exact = {"ENCODING": facts["encoding"], "LC_COLLATE": locale["collate"], "LC_CTYPE": locale["ctype"]}
    recipes = [exact]
    if locale["provider"] != "c":
        provider = {"i": "icu", "b": "builtin"}[locale["provider"]]
        special = {**exact, "LOCALE_PROVIDER": provider}
        special |= {("ICU_LOCALE" if provider == "icu" else "BUILTIN_LOCALE"): locale["locale"]}
        recipes.insert(0, special)
    elif version >= 150000:
        exact["LOCALE_PROVIDER"] = "libc"
    return [*recipes, {"ENCODING": facts["encoding"]}, {"ENCODING": facts["encoding"], "LOCALE": "C"}]


def _statement(name: str, options: dict[str, str]) -> Composed:
    from psycopg.sql import SQL, Identifier, Literal

    parts = [
        SQL("{} = {}").format(SQL(key), SQL(value) if key == "LOCALE_PROVIDER" else Literal(value))
        for key, value in options.items()
    ]
    return SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(Identifier(name), SQL(" ").join(parts))


def _require_extensions(facts: Facts, connection: Connection, address: Address) -> None:
    there = {name for (name,) in connection.execute("SELECT name FROM pg_available_extensions").fetchall()}
    if missing := sorted(facts["extensions"].keys() - there):
        raise SourceError(
            f"the server of {address.place} does not have the extensions that the backup needs: {', '.join(missing)}",
            hint="Install their packages on that server (Debian: postgresql-contrib, postgresql-<version>-<extension>), "
            "or restore into a server that has them. Nothing was changed.",
        )


def _psycopg_error() -> type[Exception]:
    import psycopg

    return psycopg.Error
