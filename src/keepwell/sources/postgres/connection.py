"""Addresses of databases, connections to them, and errors that never show a password."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret

if TYPE_CHECKING:
    import psycopg

Connection: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"

# These would change the text that pg_dump writes, or what it connects to, behind the policy's back.
_UNWANTED = ("PGCLIENTENCODING", "PGDATESTYLE", "PGTZ", "PGGEQO", "PGOPTIONS", "PGAPPNAME", "PG_COLOR")

# What pg_dump does not set itself but the text of values depends on; a database or role may have its own.
DUMP_OPTIONS = "-c TimeZone=UTC -c bytea_output=hex -c statement_timeout=0 -c idle_in_transaction_session_timeout=0"

_SECRETS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
"""The first has an environment variable; the others could reach pg_dump only through its arguments."""

# A read that waits for ever on a dead network would hold up the backup for ever.
_ALIVE = {"keepalives_idle": "60", "keepalives_interval": "15", "keepalives_count": "4"}


@dataclass(frozen=True)
class Address:
    """The parameters of one database connection, as libpq names them."""

    parameters: Mapping[str, str] = field(repr=False)

    def get(self, name: str) -> str:
        return self.parameters.get(name) or os.environ.get(_variables().get(name, ""), "")

    @property
    def database(self) -> str:
        return self.get("dbname") or self.get("user") or "postgres"

    @property
    def place(self) -> str:
        """For messages: `leads on db.example.com:5432`, never with the password."""
        host = self.get("host") or self.get("hostaddr") or "the local server"
        port = self.get("port")
        return f"{self.database} on {host}" + (f":{port}" if port and not host.startswith(("/", "the ")) else "")

    def with_database(self, name: str) -> Address:
        return Address({**self.parameters, "dbname": name})

    def url(self) -> Secret:
        """A conninfo string with everything in it."""
        from psycopg.conninfo import make_conninfo

        return Secret(make_conninfo(**self.parameters))

    def environment(self, options: str = "") -> dict[str, str]:
        """Variables for libpq programs. Secrets travel only here, never in an argument list."""
        variables = _variables()
        environment = {k: v for k, v in os.environ.items() if k not in _UNWANTED}
        mine = self.get("options")
        for name, value in self.parameters.items():
            if name in variables and name not in ("client_encoding", "options"):
                environment[variables[name]] = value
        environment.setdefault("PGCONNECT_TIMEOUT", "30")
        environment["PGAPPNAME"] = "keepwell"
        if joined := f"{mine} {options}".strip():
            environment["PGOPTIONS"] = joined
        environment["LC_ALL"] = "C"
        return environment

    def argument(self) -> str:
        """What the environment cannot carry, as a conninfo for `--dbname`; no secrets."""
        from psycopg.conninfo import make_conninfo

        variables = _variables()
        rest = {k: v for k, v in self.parameters.items() if k not in variables}
        return make_conninfo(**{**_ALIVE, **rest})

    def scrub(self, text: str) -> str:
        """`text` without the secrets of this address."""
        for name in _SECRETS:
            if secret := self.get(name):
                text = text.replace(secret, "***")
        return text


def parse(url: Secret) -> Address:
    """Raises SourceError; the text of the address, which may hold a password, is not repeated."""
    import psycopg

    try:
        found = psycopg.conninfo.conninfo_to_dict(url.reveal())
    except psycopg.Error:
        raise SourceError(
            "the address of the PostgreSQL database cannot be read",
            hint="Write it as postgresql://user@host:5432/database; special characters in the password as %40 and so on.",
        ) from None
    if shown := [name for name in _SECRETS[1:] if name in found]:
        raise SourceError(
            f"the address has {shown[0]}, which cannot be handed to pg_dump without showing it to other users",
            hint="Use a password, or a client key without a passphrase that only the user who runs keepwell can read.",
        )
    return Address({name: str(value) for name, value in found.items() if value not in (None, "")})


@contextlib.contextmanager
def connected(address: Address, options: str = "", *, autocommit: bool = True) -> Iterator[Connection]:
    """A connection for one `with` block. Raises SourceError for everything the server or network says."""
    connection = connect(address, options, autocommit=autocommit)
    try:
        with server_errors(address):
            yield connection
    finally:
        connection.close()


def connect(address: Address, options: str = "", *, autocommit: bool = True) -> Connection:
    """The caller closes it. Raises SourceError."""
    import psycopg

    own = {k: v for k, v in address.parameters.items() if k not in ("options", "client_encoding")}
    joined = f"{address.get('options')} {options}".strip()
    timeout = address.get("connect_timeout") or "30"
    extra = {"application_name": "keepwell", "client_encoding": "UTF8", "connect_timeout": timeout}
    try:
        return psycopg.connect(
            **{**_ALIVE, **own, **extra, "options": joined or None},  # type: ignore[arg-type]
            autocommit=autocommit,
            prepare_threshold=None,
        )
    except psycopg.Error as error:
        raise refused(address, str(error)) from None


@contextlib.contextmanager
def server_errors(address: Address) -> Iterator[None]:
    """Turns what psycopg raises into SourceError."""
    import psycopg

    try:
        yield
    except psycopg.OperationalError as error:
        raise SourceError(
            f"the connection to {address.place} failed: {one_line(address.scrub(str(error)))}",
            hint="See that the server runs and can be reached, then try again.",
        ) from error
    except psycopg.Error as error:
        raise SourceError(
            f"{address.place}: {one_line(address.scrub(str(error)))}",
            hint="The server refused; the message is its own.",
        ) from error


def refused(address: Address, text: str) -> SourceError:
    """The error for a connection that could not be made, with a hint that fits."""
    said = one_line(address.scrub(text))
    low = said.lower()
    hint = "See that the server runs, and that host, port and database name are right."
    if "password authentication failed" in low or "no password supplied" in low:
        hint = "Check the user and password that the policy's `url` refers to."
    elif "does not exist" in low and "database" in low:
        hint = "Check the database name at the end of the address."
    elif "unsupported startup parameter" in low:
        hint = POOLER_HINT
    elif "ssl" in low or "certificate" in low:
        hint = "Check `sslmode` and the certificates of the address."
    return SourceError(f"cannot connect to {address.place}: {said}", hint=hint)


POOLER_HINT = (
    "A connection pooler answers at this address, and pg_dump needs the server itself: use the direct address (for "
    "PgBouncer the server's own port, mostly 5432; for Neon the host without `-pooler`; for Supabase port 5432)."
)


def require_direct(address: Address) -> None:
    """Raises SourceError where the address is known to belong to a pooler."""
    host, port = address.get("host"), address.get("port")
    label = host.split(".")[0]
    if label.endswith("-pooler") and host.endswith(".neon.tech"):
        raise SourceError(
            f"{host} is Neon's pooled address, where a backup cannot hold one snapshot",
            hint=f"Use the direct address {host.replace('-pooler.', '.', 1)}.",
        )
    if host.endswith(".pooler.supabase.com") and port == "6543":
        raise SourceError(
            f"{host}:6543 is Supabase's transaction pooler, where a backup cannot hold one snapshot",
            hint="Use port 5432 of the same host (the session pooler), or the direct address db.<project>.supabase.co:5432.",
        )


def require_session(connection: Connection, address: Address) -> None:
    """Raises SourceError where a pooler hands the connections of a server from one transaction to the next.

    Behind a pooler the process that the client was told of is not the one that answers. Whether it shares servers
    between clients shows when a second client gets the same process while the first is still connected.
    """
    first = connection.execute("SELECT pg_backend_pid()").fetchone()
    if first == (connection.info.backend_pid,):
        return
    with connected(address, autocommit=False) as other:
        if other.execute("SELECT pg_backend_pid()").fetchone() == first:
            raise SourceError(
                f"{address.place} is a connection pooler that shares servers between clients, where a backup cannot "
                "hold one snapshot",
                hint=POOLER_HINT,
            )


def one_line(text: str) -> str:
    return " ".join(text.split())


def _variables() -> dict[str, str]:
    """Environment variable of each libpq keyword that has one."""
    from psycopg.pq import Conninfo

    return {option.keyword.decode(): option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
