"""The replication slot: what makes the server keep log until the vault has it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret
from keepwell.core.units import show_size
from keepwell.core.wal import parse_lsn

_LONGEST = 63
_NAME = re.compile(r"[a-z0-9_]{1,63}")
WAY_OUT = (
    "The log between is gone, so no backup from before can be recovered to a moment after it. Take a new base backup "
    "now (`keepwell backup`) and let the receiver go on with `keepwell wal receive --accept-gap`; give "
    "max_slot_wal_keep_size more room than the longest outage needs."
)


class Link(Protocol):
    """The part of a replication connection that is needed here."""

    server_version: int

    def query(self, command: str) -> list[dict[str, str | None]]: ...


@dataclass(frozen=True)
class Slot:
    """A slot as the replication protocol shows it."""

    name: str
    restart: int | None
    """From where on the server keeps log for it; None: nothing is kept, the slot is new or lost."""


@dataclass(frozen=True)
class SlotState:
    """A slot as the server's view shows it, and what keeps its disk from filling up."""

    name: str
    exists: bool
    active: bool = False
    restart: int | None = None
    position: int | None = None
    """The end of the server's log."""
    lag: int | None = None
    """Bytes that the server keeps for the slot, or that the vault lacks: `position - restart`."""
    wal_status: str | None = None
    """`reserved`, `extended` (more than max_wal_size), `unreserved` (about to be lost) or `lost`."""
    safe: int | None = None
    """Bytes that may still be written before the slot is in danger; None: no limit is set."""
    reason: str | None = None
    """Why the server gave it up, where it says so (PostgreSQL 17 and later)."""
    limit: int | None = None
    """max_slot_wal_keep_size in bytes; None: no limit."""

    @property
    def lost(self) -> bool:
        return self.wal_status == "lost" or bool(self.reason)

    @property
    def advice(self) -> str:
        """What the keeper of the server should do; empty: nothing."""
        if not self.exists:
            return f"There is no slot {self.name}: `keepwell wal receive` makes it."
        if self.lost:
            why = f" ({self.reason})" if self.reason else ""
            return f"The server gave up slot {self.name}{why}. {WAY_OUT}"
        if self.wal_status == "unreserved":
            return (
                f"The server is about to give up slot {self.name}: more log waits than max_slot_wal_keep_size "
                f"({show_size(self.limit or 0)}) allows. See why the receiver does not keep up; raise the setting meanwhile."
            )
        if self.limit is None:
            return no_limit(self.name)
        return ""

    def json(self) -> dict[str, object]:
        return {
            "slot": self.name,
            "exists": self.exists,
            "active": self.active,
            "lag_bytes": self.lag,
            "wal_status": self.wal_status,
            "safe_bytes": self.safe,
            "limit_bytes": self.limit,
            "reason": self.reason,
            "advice": self.advice,
        }


def no_limit(name: str) -> str:
    return (
        f"Nothing limits how much log the server keeps for slot {name}: while nobody receives, it fills the server's disk. "
        "Set max_slot_wal_keep_size to what the disk can spare, for example ALTER SYSTEM SET max_slot_wal_keep_size = '20GB'."
    )


def slot_name(environment: str, source: str) -> str:
    """`keepwell_<environment>_<source>`, cut to what PostgreSQL takes; `-` becomes `_`."""
    name = f"keepwell_{environment}_{source}".replace("-", "_")
    if len(name) <= _LONGEST:
        return name
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST - 9]}_{mark}"


def read(link: Link, name: str, ask: Callable[[], SlotState]) -> Slot | None:
    """None: there is no such slot. PostgreSQL 14 has no command for it and is asked by `ask`. Raises SourceError."""
    if link.server_version < 150000:
        state = ask()
        return Slot(name, state.restart) if state.exists else None
    rows = link.query(f"READ_REPLICATION_SLOT {_checked(name)}")
    if not rows or not (kind := rows[0].get("slot_type")):
        return None
    if kind != "physical":
        raise SourceError(
            f"the replication slot {name} is a {kind} one, which some other program uses",
            hint='Give the source a slot of its own: slot = "keepwell_…" in the policy.',
        )
    restart = rows[0].get("restart_lsn")
    return Slot(name, parse_lsn(restart) if restart else None)


def create(link: Link, name: str) -> None:
    """From now on the server keeps log, beginning at its last checkpoint. Raises SourceError."""
    link.query(f"CREATE_REPLICATION_SLOT {_checked(name)} PHYSICAL RESERVE_WAL")


def drop(link: Link, name: str) -> None:
    """Once nobody uses it. Raises SourceError."""
    link.query(f"DROP_REPLICATION_SLOT {_checked(name)} WAIT")


def slot_state(url: Secret, name: str) -> SlotState:
    """Asked through an ordinary connection, as any role may. Raises SourceError."""
    from keepwell.sources.postgres.connection import connected, parse

    address = parse(url)
    if not address.get("dbname"):
        address = address.with_database("postgres")
    with connected(address) as connection:
        found = connection.execute(_STATE, (name,)).fetchone()
    assert found is not None
    kind, active, restart, position, status, safe, reason, limit = found
    size = None if limit is None or int(limit) < 0 else int(limit) << 20
    if kind is None:
        return SlotState(name, exists=False, position=parse_lsn(position), limit=size)
    start, end = parse_lsn(restart) if restart else None, parse_lsn(position)
    lag = None if start is None else max(0, end - start)
    return SlotState(name, True, bool(active), start, end, lag, status, safe, reason, size)


# to_jsonb because the column came with PostgreSQL 17.
_STATE = """
SELECT s.slot_type, s.active, s.restart_lsn::text,
       (CASE WHEN pg_is_in_recovery()
             THEN coalesce(greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()), '0/0')
             ELSE pg_current_wal_flush_lsn() END)::text,
       s.wal_status, s.safe_wal_size, to_jsonb(s)->>'invalidation_reason',
       (SELECT setting FROM pg_settings WHERE name = 'max_slot_wal_keep_size')
FROM (SELECT 1) one LEFT JOIN pg_replication_slots s ON s.slot_name = %s
"""


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise SourceError(
            f"{name!r} is not the name of a replication slot",
            hint="Names are 1 to 63 of a-z, 0-9 and _; see `slot` of the source in the policy.",
        )
    return name
