"""Where the engine keeps what is to be done: SQLite beside the policy, or PostgreSQL for a fleet."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepwell.core.errors import PolicyError
from keepwell.operations.heads import folder_of, make_folder
from keepwell.policy.load import LoadedPolicy

NAME = "engine.db"


@dataclass(frozen=True)
class Database:
    """The engine database, as SQLAlchemy and DBOS want it."""

    url: str = field(repr=False)
    shown: str
    """What may be told of it."""
    shared: bool
    """Whether several machines use it (PostgreSQL)."""
    schema: str | None = None
    file: Path | None = None

    @property
    def prefix(self) -> str:
        return f"{self.schema}." if self.schema else ""

    @property
    def options(self) -> dict[str, Any]:
        """Of the ledger's own connections."""
        if not self.shared:
            return {"connect_args": {"timeout": 30}}
        return {
            "pool_size": 3,
            "max_overflow": 5,
            "pool_pre_ping": True,
            "connect_args": {"connect_timeout": 10, "application_name": "keepwell"},
        }

    @property
    def hint(self) -> str:
        if self.shared:
            return "Look whether the server runs and lets this machine in; `engine` of the policy names it."
        return "Look at the rights and the free space of the folder."


def database_of(loaded: LoadedPolicy) -> Database:
    """As the policy has it, else `.keepwell/engine.db` beside it, in a folder that only its owner reads.

    Raises PolicyError.
    """
    named = loaded.policy.engine
    if named is None:
        folder = folder_of(loaded)
        try:
            make_folder(folder)
        except OSError as error:
            raise PolicyError(
                f"the engine's folder {folder} cannot be made: {error.strerror}",
                hint="Give who runs keepwell the right to write there, or name another place: state in [watch].",
            ) from None
        return sqlite_at(folder / NAME)
    url = named.resolve(loaded.base, what="the URL of the engine database", error=PolicyError)
    return postgres_at(url.reveal(), loaded.policy.vault.store)


def sqlite_at(file: Path) -> Database:
    return Database(f"sqlite:///{file}", str(file), shared=False, file=file)


def postgres_at(url: str, store: str) -> Database:
    """One server may serve several policies: each vault has a schema of its own, or runs of the same name would be one."""
    scheme, _, rest = url.partition("://")
    if scheme not in {"postgresql", "postgres"} or not rest:
        raise PolicyError(
            "engine: is not the URL of a PostgreSQL database",
            hint="Write it as postgresql://user:password@host/database, or take the key out for SQLite beside the policy.",
        )
    shown = rest.rpartition("@")[2].partition("?")[0]
    schema = "keepwell_" + hashlib.sha256(store.encode()).hexdigest()[:10]
    return Database(f"postgresql+psycopg://{rest}", shown, shared=True, schema=schema)
