"""Whether a source can be backed up from here, as far as can be told without doing it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import quote

from keepwell.core.errors import KeepwellError, SourceError
from keepwell.operations.buckets import examine_uploads
from keepwell.operations.specs import git_spec
from keepwell.policy.models import BucketSource, FilesSource, GitSource, PostgresSource, Source, SqliteSource
from keepwell.sources.postgres import connection, programs

Finding: TypeAlias = tuple[Literal["ok", "warn", "fail"], str, str]
"""State, what, mend."""
_UNREADABLE = """
select count(*), min(format('%I.%I', n.nspname, c.relname))
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'S') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and not (has_schema_privilege(n.oid, 'usage') and case when c.relkind = 'S'
           then has_sequence_privilege(c.oid, 'select') else has_table_privilege(c.oid, 'select') end)
"""


def examine_source(source: Source, base: Path) -> Iterator[Finding]:
    """`base` is the policy's folder."""
    try:
        match source:
            case PostgresSource():
                yield from _postgres(source, base)
            case SqliteSource():
                yield from _sqlite(source.path)
            case FilesSource():
                yield from _files(source.path)
            case BucketSource():
                yield from examine_uploads(source, base)
            case GitSource():
                yield from _git(source, base)
    except KeepwellError as error:
        yield "fail", error.message, error.hint


def _postgres(source: PostgresSource, base: Path) -> Iterator[Finding]:
    url = source.url.resolve(base, what="the URL of the database", error=SourceError)
    address = connection.parse(url)
    connection.require_direct(address)
    with connection.connected(address) as server:
        connection.require_session(server, address)
        version = server.info.server_version
        unreadable, first = server.execute(_UNREADABLE).fetchone() or (0, None)
    major = version // 10000
    yield "ok", f"{address.place} answers: PostgreSQL {major}.{version % 10000}", ""
    if unreadable:
        yield (
            "fail",
            f"{unreadable:,} tables or sequences cannot be read, {first} for one",
            "As the owner or a superuser: grant pg_read_all_data to the user that keepwell connects as.",
        )
    client = programs.clients(major, address)
    yield "ok", f"pg_dump {client.version} in {client.folder}", ""
    try:
        server_programs = programs.servers(major)
    except KeepwellError as error:
        yield "warn", f"no proof on this machine: {error.message}", error.hint
        return
    same = server_programs.major == major
    yield (
        "ok" if same else "warn",
        f"proofs restore into PostgreSQL {server_programs.version} in {server_programs.folder}",
        "" if same else f"The schema is compared only where the versions are the same: install PostgreSQL {major}.",
    )


def _sqlite(path: Path) -> Iterator[Finding]:
    _readable(path, "file")
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=5)) as database:
            tables = database.execute("select count(*) from sqlite_master where type = 'table'").fetchone()[0]
    except sqlite3.Error as error:
        raise SourceError(
            f"{path} cannot be read as a SQLite database: {error}", hint="Check the path and the rights."
        ) from None
    yield "ok", f"{path} can be read: {tables:,} tables", ""


def _files(path: Path) -> Iterator[Finding]:
    _readable(path, "folder")
    try:
        entries = sum(1 for _ in os.scandir(path))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}", hint="Check the rights.") from None
    if entries:
        yield "ok", f"{path} can be read", ""
    else:
        yield "warn", f"{path} is empty", "If files should be there, a disk may not be mounted."


def _git(source: GitSource, base: Path) -> Iterator[Finding]:
    from keepwell.core.streams import Context
    from keepwell.core.workfolder import WorkFolder
    from keepwell.sources.git import program, refs, remote, repository

    context = Context()
    yield "ok", f"git {program.version(context)}", ""
    if source.path is not None:
        with WorkFolder("git") as work:
            found = repository.open_repository(source.path, str(source.path), work, context)
            count = len(refs.read(found.git, context).by_name)
    else:
        count = remote.heads(git_spec(base, "git", source), context)
    yield (
        ("ok", f"{source.path or source.url} can be read: {count:,} refs", "")
        if count
        else ("warn", f"{source.path or source.url} is empty", "Is it the right repository?")
    )


def _readable(path: Path, word: str) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror}", hint="Correct the path in the policy, or its rights.") from None
    fits = stat.S_ISDIR(mode) if word == "folder" else stat.S_ISREG(mode)
    if not fits:
        raise SourceError(f"{path} is not a {word}", hint="Correct the path in the policy.")
    if not os.access(path, os.R_OK | (os.X_OK if word == "folder" else 0)):
        raise SourceError(f"{path} cannot be read by this user", hint="Give read rights to who runs keepwell.")
