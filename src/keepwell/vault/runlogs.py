"""The logs of runs (docs/format.md, section 13): what the program said, kept beside the backups."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass

from keepwell.core import zstd
from keepwell.core.clock import UTC
from keepwell.core.errors import Damaged, ObjectMissing, StoreDenied
from keepwell.core.progress import Progress
from keepwell.keys.keyring import Keyring
from keepwell.vault.vault import Vault

PREFIX = "logs/runs/"
_NAME = re.compile(
    r"logs/runs/(\d{4}-\d\d-\d\d)/(\d{6}Z)-([a-z]+)-([a-z0-9][a-z0-9_-]*)-([0-9a-f]{8})\.jsonl", re.ASCII
)
EVERYTHING = "all"
"""Stands for the environment where a run has none."""


@dataclass(frozen=True)
class RunLog:
    name: str
    time: dt.datetime
    """When the run began."""
    verb: str
    environment: str | None
    id: str
    size: int = 0


def name_for(verb: str, environment: str | None, run: str, began: dt.datetime) -> str:
    """`run` is a UUID or other text that begins with 8 hex digits."""
    began = began.astimezone(UTC)
    word = re.sub(r"[^a-z]", "", verb)
    return f"{PREFIX}{began:%Y-%m-%d}/{began:%H%M%S}Z-{word}-{environment or EVERYTHING}-{run[:8]}.jsonl"


def parse(name: str, size: int = 0) -> RunLog | None:
    """None where no log has that name."""
    found = _NAME.fullmatch(name)
    if not found:
        return None
    time = dt.datetime.strptime(f"{found[1]}T{found[2]}", "%Y-%m-%dT%H%M%SZ").replace(tzinfo=UTC)
    return RunLog(name, time, found[3], None if found[4] == EVERYTHING else found[4], found[5], size)


def encode(keyring: Keyring, name: str, lines: str) -> bytes:
    return keyring.envelope(name, zstd.compress(lines.encode(), 3))


def decode(keyring: Keyring, name: str, raw: bytes) -> str:
    """Raises Damaged."""
    plain = keyring.open(name, raw)
    try:
        return zstd.decompress(plain).decode()
    except ValueError as error:
        raise Damaged(f"{name} is no log of a run ({error})") from None


def listed(vault: Vault) -> Iterator[RunLog]:
    """Oldest first."""
    for info in vault.store.list(PREFIX):
        if (found := parse(info.name, info.size)) is not None:
            yield found


def read(vault: Vault, log: RunLog) -> str:
    """JSON lines. Raises Damaged, ObjectMissing."""
    return decode(vault.keyring, log.name, vault.store.get(log.name))


def clear(vault: Vault, keep: dt.timedelta, now: dt.datetime, progress: Progress) -> int:
    """Deletes the logs that are older than `keep` by the store's clock; returns how many went."""
    gone = 0
    try:
        for info in list(vault.store.list(PREFIX)):
            if now - info.modified >= keep:
                vault.store.delete(info.name)
                gone += 1
    except ObjectMissing:
        pass
    except StoreDenied as error:
        progress.warn(f"{error} (old logs of runs stay until then)")
    return gone
