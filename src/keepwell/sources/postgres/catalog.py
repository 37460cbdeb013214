# ruff: noqa: S608 - all SQL here is made of constants
"""What a database says of itself: its tables, objects, roles and settings. All within one snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keepwell.sources.postgres.connection import Connection

# What belongs to the database rather than to PostgreSQL or to a session.
_SCHEMAS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def _not_of_an_extension(catalog: str, oid: str) -> str:
    return (
        "NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.deptype = 'e' "
        f"AND e.classid = 'pg_catalog.{catalog}'::regclass AND e.objid = {oid})"
    )


_TABLES = f"""
SELECT c.oid::bigint, n.nspname, c.relname, quote_ident(n.nspname) || '.' || quote_ident(c.relname),
       c.relkind::text, pg_catalog.has_table_privilege(c.oid, 'SELECT'),
       (SELECT quote_ident(pn.nspname) || '.' || quote_ident(p.relname)
          FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace
         WHERE i.inhrelid = c.oid AND c.relispartition),
       (SELECT x.extname FROM pg_depend e JOIN pg_extension x ON x.oid = e.refobjid
         WHERE e.deptype = 'e' AND e.classid = 'pg_class'::regclass AND e.objid = c.oid
           AND e.refclassid = 'pg_extension'::regclass),
       convert_to(n.nspname, d.encoding), convert_to(c.relname, d.encoding)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace,
       (SELECT pg_encoding_to_char(encoding) AS encoding FROM pg_database WHERE datname = current_database()) d
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND {_SCHEMAS}
 ORDER BY 4
"""

_OBJECTS = {
    "indexes": f"""
        SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
          JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {_SCHEMAS} AND (i.indisvalid OR t.relkind = 'p') AND t.relpersistence <> 't'
           AND {_not_of_an_extension("pg_class", "t.oid")}""",
    "constraints": f"""
        SELECT quote_ident(o.conname) || ' on ' || coalesce(o.conrelid::regclass::text, o.contypid::regtype::text)
          FROM pg_constraint o JOIN pg_namespace n ON n.oid = o.connamespace
         WHERE {_SCHEMAS} AND o.contype IN ('c', 'f', 'p', 'u', 'x') AND o.conparentid = 0
           AND {_not_of_an_extension("pg_class", "o.conrelid")} AND {_not_of_an_extension("pg_type", "o.contypid")}""",
    "triggers": f"""
        SELECT quote_ident(t.tgname) || ' on ' || t.tgrelid::regclass::text
          FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {_SCHEMAS} AND NOT t.tgisinternal AND t.tgparentid = 0
           AND {_not_of_an_extension("pg_class", "c.oid")}""",
    "policies": f"""
        SELECT quote_ident(p.polname) || ' on ' || p.polrelid::regclass::text
          FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE {_SCHEMAS}""",
    "tables": f"""
        SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'f') AND c.relpersistence <> 't' AND {_SCHEMAS}
           AND {_not_of_an_extension("pg_class", "c.oid")}""",
    "views": f"""
        SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('v', 'm') AND c.relpersistence <> 't' AND {_SCHEMAS}
           AND {_not_of_an_extension("pg_class", "c.oid")}""",
    "sequences": f"""
        SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname)
          FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND {_SCHEMAS}
           AND {_not_of_an_extension("pg_class", "c.oid")}""",
    "functions": f"""
        SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE {_SCHEMAS} AND {_not_of_an_extension("pg_proc", "p.oid")}""",
    "extensions": "SELECT extname::text FROM pg_extension",
}

_ROLES = """
SELECT r.rolname, r.rolsuper FROM pg_roles r
 WHERE r.rolname !~ '^pg_' AND (r.oid = 10
    OR r.oid = (SELECT datdba FROM pg_database WHERE datname = current_database())
    OR r.oid IN (SELECT refobjid FROM pg_shdepend
                  WHERE refclassid = 'pg_authid'::regclass
                    AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database()))
    OR r.oid IN (SELECT setrole FROM pg_db_role_setting
                  WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
    OR r.oid IN (SELECT unnest(ARRAY[a.grantee, a.grantor]) FROM pg_database d, aclexplode(d.datacl) a
                  WHERE d.datname = current_database()))
 ORDER BY r.oid
"""


@dataclass(frozen=True)
class Table:
    """One table that holds rows, or (`kind` p) a partitioned one that holds none itself."""

    oid: int
    schema: str
    name: str
    key: str
    """As quote_ident prints it: `public.leads`, `"My Schema"."Orders"`."""
    kind: str
    readable: bool
    parent: str | None
    """The partitioned table that it is a partition of."""
    extension: str | None
    raw_schema: bytes
    """The name in the database's own encoding, in which pg_dump writes."""
    raw_name: bytes

    @property
    def pattern(self) -> str:
        """For pg_dump's `-t`: within double quotes everything is taken as it is."""
        return ".".join('"{}"'.format(part.replace('"', '""')) for part in (self.schema, self.name))


def tables(connection: Connection) -> list[Table]:
    return [Table(*row) for row in connection.execute(_TABLES).fetchall()]


def table_sizes(connection: Connection) -> dict[int, int]:
    """Bytes on disk with TOAST, without indexes, by oid."""
    rows = connection.execute(
        "SELECT oid::bigint, coalesce(pg_table_size(oid), 0) FROM pg_class WHERE relkind = 'r' AND relpersistence <> 't' "
        "AND oid >= 16384"
    ).fetchall()
    return dict(rows)


def objects(connection: Connection) -> dict[str, list[str]]:
    """Names of what the dump holds besides rows, by kind, sorted. Extensions' own members are left out."""
    # regclass and its kin print the schema only where it is not on the path.
    connection.execute("SET LOCAL search_path = ''")
    return {kind: sorted(name for (name,) in connection.execute(query).fetchall()) for kind, query in _OBJECTS.items()}


def roles(connection: Connection) -> dict[str, bool]:
    """The roles that own something here or are granted something, and the bootstrap superuser: whether a superuser.

    In the order in which they were made: where a policy is for several roles, pg_dump names them in that order.
    """
    return dict(connection.execute(_ROLES).fetchall())


def sequences(connection: Connection) -> dict[str, int]:
    """Oids of the sequences, by name as pg_dump writes it."""
    rows = connection.execute(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.oid::bigint FROM pg_class c "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'S' AND {_SCHEMAS}"
    ).fetchall()
    return dict(rows)


def describe(connection: Connection) -> dict[str, Any]:
    """Version, encoding, locale, settings, owner and grants of the database."""
    version = connection.info.server_version
    # The columns for the provider and its locale changed their names between the versions.
    provider = "datlocprovider::text" if version >= 150000 else "'c'"
    locale = "datlocale" if version >= 170000 else "daticulocale" if version >= 150000 else "NULL::text"
    row = connection.execute(
        f"SELECT pg_encoding_to_char(encoding), datcollate, datctype, {provider}, {locale}, "
        "pg_get_userbyid(datdba), pg_database_size(oid), shobj_description(oid, 'pg_database'), "
        "current_setting('server_version'), current_setting('lc_monetary') "
        "FROM pg_database WHERE datname = current_database()"
    ).fetchone()
    assert row is not None
    settings = connection.execute(
        "SELECT r.rolname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1) "
        "FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c "
        "WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()) ORDER BY 1, 2"
    ).fetchall()
    grants = connection.execute(
        "SELECT DISTINCT CASE WHEN a.grantee = 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable "
        "FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = current_database() ORDER BY 1, 2"
    ).fetchall()
    money = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_attribute WHERE atttypid IN (790, 791) AND attrelid >= 16384)"
    )
    private = connection.execute("SELECT datacl IS NOT NULL FROM pg_database WHERE datname = current_database()")
    extensions = connection.execute("SELECT extname, extversion FROM pg_extension ORDER BY 1").fetchall()
    return {
        "version": row[8],
        "server_version_num": version,
        "encoding": row[0],
        "locale": {"collate": row[1], "ctype": row[2], "provider": row[3], "locale": row[4]},
        "owner": row[5],
        "size": row[6],
        "comment": row[7],
        "lc_monetary": row[9] if money.fetchone() == (True,) else None,
        "settings": [list(s) for s in settings],
        "grants": [list(g) for g in grants] if private.fetchone() == (True,) else None,
        "extensions": {name: version for name, version in extensions},  # noqa: C416 - clearer than dict()
    }


def invalid_indexes(connection: Connection) -> list[str]:
    """Indexes that PostgreSQL does not use, mostly left by a failed CREATE INDEX CONCURRENTLY; never dumped."""
    rows = connection.execute(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_index i "
        "JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE NOT i.indisvalid AND t.relkind <> 'p' AND {_SCHEMAS} ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]


def unfilled(connection: Connection) -> list[str]:
    """Materialized views that hold nothing yet and cannot be read."""
    rows = connection.execute(
        "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c "
        f"JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'm' AND NOT c.relispopulated AND {_SCHEMAS} ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]


def unvalidated(connection: Connection) -> list[str]:
    """Constraints that were added NOT VALID: existing rows may break them."""
    rows = connection.execute(
        "SELECT quote_ident(o.conname) || ' on ' || o.conrelid::regclass FROM pg_constraint o "
        f"JOIN pg_namespace n ON n.oid = o.connamespace WHERE NOT o.convalidated AND o.conrelid <> 0 AND {_SCHEMAS} ORDER BY 1"
    ).fetchall()
    return [name for (name,) in rows]


def role_script(connection: Connection) -> str:
    """SQL that makes the roles this database needs, without passwords."""
    rows = connection.execute(
        "SELECT format('CREATE ROLE %%I WITH %%s %%s %%s %%s %%s;', rolname, "
        "CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN rolinherit THEN 'INHERIT' ELSE 'NOINHERIT' END, "
        "CASE WHEN rolcreatedb THEN 'CREATEDB' ELSE 'NOCREATEDB' END, "
        "CASE WHEN rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, "
        "CASE WHEN rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END) "
        "FROM pg_roles WHERE rolname = ANY(%s) ORDER BY 1",
        (list(roles(connection)),),
    ).fetchall()
    return "".join(f"{line}\n" for (line,) in rows)
