"""Is a restored cluster whole? Recovered, its checksums, amcheck, its rows, and the policy's questions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Facts, Finding
from keepwell.sources.base import Recovery
from keepwell.sources.physical import recovery
from keepwell.sources.physical.cluster import RecoveringServer, show_reached
from keepwell.sources.physical.start import feeding, programs_for, put_readable
from keepwell.sources.physical.target import Sandbox
from keepwell.sources.postgres.connection import Connection, connected, one_line
from keepwell.sources.postgres.examine import amcheck
from keepwell.sources.postgres.examine import column as values
from keepwell.sources.postgres.examine import query as ask
from keepwell.sources.postgres.server import SETTINGS
from keepwell.sources.postgres.spec import Target as Database

ROLE = "keepwell_proof"
_MOST_PROBLEMS = 20
_DAMAGED_PAGE = re.compile(r'checksum verification failed in file "([^"]+)", block (\d+)')
_TABLES = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname), c.oid::regclass::text
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'm') AND c.relpersistence = 'p' AND c.relispopulated
   AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1
"""


def examine(target: Sandbox, facts: Facts, context: Context) -> list[Finding]:
    """Starts the server: recovered to consistency, then page checksums (where the cluster has them), then recovered to
    `target.recovery` (where it is set) and opened, then amcheck of every table and index in every database.

    Findings; an empty list: all is well. Afterwards the server runs. Raises SourceError, Interrupted, and what
    `target.log` raises.
    """
    server = _server(target, facts, context)
    target.server = server
    base = _settings(target, facts, server)
    (target.path / recovery.SIGNAL).write_text("")
    _recover(server, base, Recovery(immediate=True, timeline="current"), "shutdown")
    server.stop()
    context.progress.note("Recovered to consistency")
    findings = _checksums(server, facts)
    if target.recovery is None:
        _recover(server, base, Recovery(immediate=True, timeline="current"), "promote")
    else:
        with feeding(server, target.folder, target.log) as command:
            _recover(server, base | command, target.recovery, "promote")
    target.reached = server.reached()
    context.progress.note(f"Recovered to {show_reached(target.reached)}")
    _make_role(server)
    return findings + _amcheck(server, context)


def count_rows(target: Sandbox, facts: Facts) -> dict[str, int]:  # noqa: ARG001  (every kind's has facts)
    """Rows of each table: `public.leads` in the database that the policy's checks go to, `other.public.leads` in others."""
    counts = {}
    for database in _databases(_running(target)):
        before = "" if database == target.database else f"{database}."
        with connected(_running(target).address(database)) as connection:
            for name, _ in connection.execute(_TABLES).fetchall():
                row = connection.execute(f"SELECT count(*) FROM ONLY {name}").fetchone()  # noqa: S608 - a name from the catalog
                counts[before + name] = row[0] if row else 0
    return counts


def query(target: Sandbox, sql: str) -> Any:
    """First column of the first row; None where there is no row. Nothing can be changed by it. Raises SourceError."""
    return ask(Database(target.url), sql)


def column(target: Sandbox, sql: str) -> Iterator[Any]:
    """First column of every row. Nothing can be changed by it. Raises SourceError."""
    return values(Database(target.url), sql)


def compare(then: Facts, now: Facts) -> list[Finding]:
    """What two backups say of one cluster, where that cannot change."""
    return [
        Finding(name, f"is {now.get(name)}; it was {then.get(name)}")
        for name in ("block_size", "checksums", "tablespaces")
        if then.get(name) != now.get(name)
    ]


def _running(target: Sandbox) -> RecoveringServer:
    if target.server is None:
        raise SourceError("the restored cluster does not run", hint="See the other findings.")
    return target.server


def _server(target: Sandbox, facts: Facts, context: Context) -> RecoveringServer:
    return RecoveringServer(
        programs_for(facts),
        target.folder / "server",
        target.path,
        settings={},
        clock=context.clock,
        cancelled=context.cancelled,
    )


def _settings(target: Sandbox, facts: Facts, server: RecoveringServer) -> dict[str, str]:
    """Nothing of the cluster's own: they are for another machine, and some of them act on it."""
    for name, text in (("postgresql.conf", ""), ("hba", "local all all trust\n"), ("ident", "")):
        put_readable(target.folder / name, text)
    (target.path / recovery.AUTO).write_text("")
    for name in (recovery.STANDBY, recovery.SIGNAL):
        (target.path / name).unlink(missing_ok=True)
    found = SETTINGS | {"wal_level": "replica", "autovacuum": "off", "log_min_messages": "log"}
    found |= {
        "config_file": str(target.folder / "postgresql.conf"),
        "hba_file": str(target.folder / "hba"),
        "ident_file": str(target.folder / "ident"),
    }
    for name in ("max_prepared_transactions", "max_locks_per_transaction", "max_connections"):
        then = facts.get("settings", {}).get(name)
        if then is not None:
            found[name] = str(max(int(then), int(found[name])))
    libraries = [name.strip().strip('"') for name in str(facts.get("preload") or "").split(",") if name.strip()]
    if there := [name for name in libraries if _has_library(server, name)]:
        found["shared_preload_libraries"] = ",".join(there)
    return found


def _has_library(server: RecoveringServer, name: str) -> bool:
    folder = server.programs.folder.parent / "lib"
    return any((place / f"{name}.so").exists() for place in (folder, folder / "postgresql"))


def _recover(server: RecoveringServer, base: dict[str, str], to: Recovery, action: str) -> None:
    wanted = {k: v for k, v in recovery.settings(to, base.get("restore_command", ""), action=action).items() if v}
    server.change(base | wanted)
    server.recover()


def _checksums(server: RecoveringServer, facts: Facts) -> list[Finding]:
    if not facts.get("checksums"):
        return []
    if not os.access(server.programs.path("pg_checksums"), os.X_OK):
        return [Finding("checksums", f"{server.programs.folder} has no pg_checksums, so they were not looked at")]
    done = server.run("pg_checksums", "--check", "-D", str(server.data))
    known = {(page["path"], page["block"]) for page in facts.get("damaged_pages", ())}
    findings = []
    for file, block in _DAMAGED_PAGE.findall(done.stderr):
        path = os.path.relpath(file, server.data) if file.startswith("/") else file
        already = " already on the server when it was backed up" if (path, int(block)) in known else ""
        findings.append(Finding(path, f"the checksum of block {block} is wrong{already}"))
    if done.returncode and not findings:
        findings.append(Finding("checksums", f"pg_checksums failed: {one_line(done.stderr)}"))
    return findings


def _make_role(server: RecoveringServer) -> None:
    """The cluster may have no role postgres, or one that may nothing: then one of our own, in the sandbox only."""
    try:
        with connected(server.address("template1")) as connection:
            row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone()
            if row and row[0]:
                return
    except SourceError:
        pass  # told by the next attempt, where it is not for the role
    server.stop()
    server.run_single(f"CREATE ROLE {ROLE} SUPERUSER LOGIN")
    server.role = ROLE
    server.recover()


def _databases(server: RecoveringServer) -> list[str]:
    with connected(server.address("template1")) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1").fetchall()
    return [name for (name,) in rows]


def _amcheck(server: RecoveringServer, context: Context) -> list[Finding]:
    """With pg_amcheck where there is one, else by the same functions one database after the other."""
    program = server.programs.path("pg_amcheck")
    if not os.access(program, os.X_OK):
        findings = []
        for database in _databases(server):
            with connected(server.address(database)) as connection:
                findings += _amcheck_by_sql(connection, database, context)
        return findings
    options = [
        "--heapallindexed",
        "--parent-check",
        "--install-missing",
        "--no-strict-names",
        f"--jobs={max(1, context.jobs)}",
    ]
    done = server.run("pg_amcheck", "--all", "--maintenance-db=template1", *options)
    if done.returncode == 0:
        return []
    # A line that is not indented names what it is about; what is wrong stands in the line below.
    blocks: list[list[str]] = []
    for line in done.stdout.splitlines():
        if line[:1].isspace() and blocks:
            blocks[-1].append(line.strip())
        elif line.strip():
            blocks.append([line.strip().rstrip(":")])
    findings = [Finding(head, " ".join(rest) or "is damaged") for head, *rest in blocks[:_MOST_PROBLEMS]]
    if len(blocks) > _MOST_PROBLEMS:
        findings.append(Finding("amcheck", f"and {len(blocks) - _MOST_PROBLEMS} further problems"))
    if not findings or done.returncode != 2:  # 2: damage was found, and nothing else went wrong
        findings.append(Finding("amcheck", f"could not be carried out: {one_line(done.stderr)[-600:]}"))
    return findings


def _amcheck_by_sql(connection: Connection, database: str, context: Context) -> list[Finding]:
    return [Finding(f"{database}: {f.what}", f.problem) for f in amcheck(connection, database, context)]
