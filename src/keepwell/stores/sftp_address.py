"""`sftp://user@host:port/path` and its options, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from keepwell.core.errors import StoreError
from keepwell.core.secrets import Secret

_SECONDS = {"connect_timeout": 10.0, "timeout": 10.0, "transfer_timeout": 600.0, "retry_timeout": 20.0, "retries": 5.0}
SECRETS = frozenset({"password", "key_passphrase"})
PATHS = frozenset({"key_file", "known_hosts", "ssh_config"})
"""Options that name a file; in a policy relative to it."""
OPTIONS = frozenset({*_SECONDS, *SECRETS, *PATHS, "host_key", "fsync"})


@dataclass(frozen=True)
class Address:
    """Where the store is and how to get in."""

    url: str
    """Without secrets; the user is in it."""
    user: str
    host: str
    port: int
    root: str
    """The folder as the server sees it: absolute, or relative to the user's home."""
    connect_timeout: float
    timeout: float
    """Seconds for one small request."""
    transfer_timeout: float
    """Seconds for one object, or one listing."""
    retry_timeout: float
    """Seconds after which no new try begins."""
    retries: int
    fsync: bool
    """False: do without a server that makes data durable when asked."""
    key_file: Path | None
    known_hosts: Path | None
    ssh_config: Path | None
    host_key: str
    """The server's key as a line of `ssh-keyscan` without the name: `ssh-ed25519 AAAA…`; empty: known_hosts tells."""
    password: Secret | None = field(repr=False)
    key_passphrase: Secret | None = field(repr=False)


def read_address(url: str, options: Mapping[str, str] | None = None) -> Address:
    """Raises StoreError, which never repeats what may be a password."""
    parts = urlsplit(url)
    try:
        port = parts.port or 22
    except ValueError:
        port = 0
    path = unquote(parts.path)
    shown = f"sftp://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.password is not None:
        raise StoreError(
            f"There is a password in the address of {shown}.",
            hint='Take it out, and change it where it is used. Write options = { password = { env = "NAME" } }, or '
            'better, use a key: options = { key_file = "path" }.',
        )
    plain = all(part not in {".", ".."} and part.isprintable() for part in path.split("/")) and "//" not in path
    if not parts.username or not parts.hostname or not port or parts.query or parts.fragment or not plain:
        raise StoreError(
            f"This is not the address of a folder on an SFTP server: {shown}",
            hint="Write sftp://user@host/path, or sftp://user@host:port/path. The path is absolute; one that begins with "
            "/~/ begins in the user's home.",
        )
    if len(path) < 2:
        raise StoreError(f"{shown} names no folder.", hint="Write sftp://user@host/path/of/a/folder.")
    root = path.rstrip("/")
    root = root.removeprefix("/~/") if root.startswith("/~/") else "." if root == "/~" else root
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    clean = f"sftp://{parts.username}@{host}" + ("" if port == 22 else f":{port}") + parts.path.rstrip("/")
    given = dict(options or {})
    _check(given, clean)
    seconds = {name: _number(name, given.get(name, default), clean) for name, default in _SECONDS.items()}
    files = {name: Path(given[name]).expanduser() if name in given else None for name in PATHS}
    secrets = {name: Secret(given[name]) if name in given else None for name in SECRETS}
    return Address(
        url=clean,
        user=unquote(parts.username),
        host=parts.hostname,
        port=port,
        root=root,
        connect_timeout=seconds["connect_timeout"],
        timeout=seconds["timeout"],
        transfer_timeout=seconds["transfer_timeout"],
        retry_timeout=seconds["retry_timeout"],
        retries=int(seconds["retries"]),
        fsync=given.get("fsync", "true") == "true",
        host_key=given.get("host_key", ""),
        key_file=files["key_file"],
        known_hosts=files["known_hosts"],
        ssh_config=files["ssh_config"],
        password=secrets["password"],
        key_passphrase=secrets["key_passphrase"],
    )


def _check(given: Mapping[str, str], url: str) -> None:
    if unknown := sorted(set(given) - OPTIONS):
        raise StoreError(f"{url} has no option {', '.join(unknown)}.", hint=f"Known are: {', '.join(sorted(OPTIONS))}.")
    if given.get("fsync", "true") not in {"true", "false"}:
        raise StoreError(f"The option fsync of {url} is neither true nor false.")
    for one, other in (("password", "key_file"), ("host_key", "known_hosts")):
        if one in given and other in given:
            raise StoreError(f"{url} has both {one} and {other}.", hint="Keep one of the two.")
    if "key_passphrase" in given and "key_file" not in given:
        raise StoreError(f"{url} has a key_passphrase and no key_file.", hint='Name the key: key_file = "path".')


def _number(name: str, value: str | float, url: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1e6 or (number == 0 and name != "retries"):
        raise StoreError(
            f"The option {name} of {url} is not a number of {'tries' if name == 'retries' else 'seconds'}."
        )
    return number
