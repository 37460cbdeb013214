"""Where a restore shall go: a path, or a database that is named without its password."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from keepwell.core.errors import UsageError
from keepwell.core.newfile import refuse_existing
from keepwell.core.secrets import Secret
from keepwell.core.streams import Facts
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import PostgresSource, SecretRef

_FORMS = "env:NAME, file:PATH, or postgresql://user@host/database (the password from PGPASSWORD or ~/.pgpass)"


@dataclasses.dataclass(frozen=True)
class Place:
    """A target of a source's package, and how to name it to people."""

    target: Any
    shown: str
    sql: Path | None = None


def place_in_folder(facts: Facts, folder: Path) -> Place:
    """One source of several, below a folder of its own. A PostgreSQL database becomes SQL text there."""
    refuse_existing(folder)
    if facts["type"] == "postgres":
        file = folder / "database.sql"
        return Place(None, str(file), file)
    if facts["type"] == "sqlite":
        return at_path(facts, folder / str(facts["database"]))
    if facts["type"] == "git" and facts["bare"]:
        mirror = folder.with_name(f"{folder.name}.git")
        refuse_existing(mirror)
        return at_path(facts, mirror)
    return at_path(facts, folder)


def at_path(facts: Facts, path: Path) -> Place:
    """A file or folder. A SQLite database goes into a folder that is there under its own name. A repository becomes a
    mirror where the name ends with `.git`, else a working clone.
    """
    if facts["type"] == "sqlite":
        from keepwell.sources import sqlite

        file = path / str(facts["database"]) if path.is_dir() else path
        return Place(sqlite.Target(file), str(file))
    if facts["type"] == "physical":
        return cluster(str(path))
    if facts["type"] == "bucket":
        from keepwell.sources import bucket

        return Place(bucket.Target(path), str(path))
    if facts["type"] == "git":
        from keepwell.sources import git

        return Place(git.Target(path, bare=path.name.endswith(git.spec.BARE_SUFFIX)), str(path))
    from keepwell.sources import files

    return Place(files.Target(path), str(path))


def cluster(to: str | None) -> Place:
    """A data directory; the source's package looks whether it may be written. Raises UsageError where none is named."""
    from keepwell.sources.physical.target import Target

    if not to or to.startswith(("env:", "postgres://", "postgresql://")):
        raise UsageError(
            "a physical backup is restored into a directory, and none was named",
            hint="Name a new directory with --to; --start runs the server in it.",
        )
    path = Path(to).expanduser().absolute()
    return Place(Target(path), str(path))


def database(loaded: LoadedPolicy, to: str) -> Place:
    """An empty PostgreSQL database. Raises UsageError where `to` is not a reference to one."""
    from keepwell.sources import postgres

    kind, _, rest = to.partition(":")
    if kind == "env" and rest:
        url = SecretRef(env=rest).resolve(loaded.base, what=f"the URL of --to {to}", error=UsageError)
    elif kind == "file" and rest and not rest.startswith("//"):
        # Relative to where the user is, as everything else on a command line.
        url = SecretRef(file=str(Path(rest).expanduser().absolute())).resolve(
            loaded.base, what=f"the URL of --to {to}", error=UsageError
        )
    elif kind in {"postgres", "postgresql"} and rest.startswith("//"):
        _refuse_password(to)
        url = Secret(to)
    else:
        raise UsageError(
            "a PostgreSQL database is restored into a database, and --to names none",
            hint=f"Write {_FORMS}; or --to-new-database NAME for a new one on the source's own server; or --sql FILE.",
        )
    return Place(postgres.Target(url), _shown(url))


def new_database(loaded: LoadedPolicy, environment: str, source: str, name: str) -> Place:
    """A new database on the server where the source's own is, by the policy. Raises UsageError, SourceError."""
    from keepwell.core.errors import SourceError
    from keepwell.sources import postgres
    from keepwell.sources.postgres.connection import parse

    known = loaded.policy.environments.get(environment)
    found = known.sources.get(source) if known else None
    if not isinstance(found, PostgresSource):
        raise UsageError(
            f"the policy has no PostgreSQL source {source} in {environment}, so its server is not known",
            hint=f"Name the database with --to: {_FORMS}.",
        )
    own = parse(found.url.resolve(loaded.base, what=f"the URL of source {source}", error=SourceError))
    address = own.with_database(name)
    return Place(postgres.Target(address.url(), create=True), address.place)


def _refuse_password(url: str) -> None:
    try:
        parts = urlsplit(url)
        secret = parts.password is not None or "password" in parse_qs(parts.query)
    except ValueError:
        secret = True  # it cannot be told, and must not be repeated
    if secret:
        raise UsageError(
            "the URL of --to has a password in it, which other users can see in the list of processes",
            hint="Put the URL into an environment variable or a private file: --to env:NAME or --to file:PATH.",
        )


def _shown(url: Secret) -> str:
    from keepwell.sources.postgres.connection import parse

    return parse(url).place
