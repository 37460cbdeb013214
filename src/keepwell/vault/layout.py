"""Names of the objects in a vault (docs/format.md, section 1), and the backup ids that people see."""

from __future__ import annotations

import datetime as dt
import re
import secrets
from dataclasses import dataclass

from keepwell.core.clock import UTC
from keepwell.core.errors import UsageError

TIERS = ("daily", "weekly", "monthly", "manual")
_ID = re.compile(r"([a-z0-9][a-z0-9_-]{0,39})/(\d{8}T\d{6}Z)-([0-9a-f]{4})")
_FOLDER = re.compile(
    r"([a-z0-9][a-z0-9_-]{0,39})/(daily|weekly|monthly|manual)/(\d{4})-(\d\d)-(\d\d)/(\d{6}Z)-([0-9a-f]{4})/(.+)"
)
PACK_SIZE = 32 << 20
"""Bytes of a pack, about."""
RESERVED = frozenset({"keys", "packs", "index", "trash", "probes", "wal", "logs"})
"""Top folders of the vault that no environment may be called."""


@dataclass(frozen=True, order=True)
class BackupId:
    """`production/20261122T020003Z-7f3a`."""

    environment: str
    stamp: str
    """`20261122T020003Z`"""
    suffix: str

    def __str__(self) -> str:
        return f"{self.environment}/{self.stamp}-{self.suffix}"

    @property
    def time(self) -> dt.datetime:
        return dt.datetime.strptime(self.stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)

    def folder(self, tier: str) -> str:
        """`production/daily/2026-11-22/020003Z-7f3a/`"""
        day, time = self.stamp.split("T")
        return f"{self.environment}/{tier}/{day[:4]}-{day[4:6]}-{day[6:]}/{time}-{self.suffix}/"


def new_id(environment: str, now: dt.datetime, previous: BackupId | None = None) -> BackupId:
    """Sorts behind `previous`, the environment's newest backup, where that was begun in the same second (some 30 of them do)."""
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    last = secrets.randbelow(0x10000)
    if previous is not None and previous.stamp == stamp:
        behind = int(previous.suffix, 16) + 1 + secrets.randbelow(0x1000)
        last = behind if behind < 0x10000 else last
    return BackupId(environment, stamp, f"{last:04x}")


def parse_id(text: str) -> BackupId:
    """Raises UsageError."""
    found = _ID.fullmatch(text)
    if not found:
        raise UsageError(
            f"{text!r} is not a backup id",
            hint="An id looks like production/20261122T020003Z-7f3a; `keepwell list` shows them.",
        )
    return BackupId(found[1], found[2], found[3])


@dataclass(frozen=True)
class Placed:
    """An object inside a backup's folder."""

    id: BackupId
    tier: str
    file: str
    """`metadata.json`, `manifest`, `proof-….json`, `database.sql.gz`, …"""


def parse_name(name: str) -> Placed | None:
    """None where the object does not belong to a backup."""
    found = _FOLDER.fullmatch(name)
    if not found or found[1] in RESERVED:
        return None
    environment, tier, year, month, day, time, suffix, file = found.groups()
    return Placed(BackupId(environment, f"{year}{month}{day}T{time}", suffix), tier, file)


def pack_name(sha256: str) -> str:
    return f"packs/{sha256[:2]}/{sha256}"
