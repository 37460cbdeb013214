"""What the rules look at: everything that is known at one moment, as plain values."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["warning", "failure"]
Outcome: TypeAlias = Literal["running", "done", "warnings", "failed", "vanished"]
"""`vanished`: it began and its process is gone without a word."""


@dataclass(frozen=True)
class Symptom:
    """What a rule found. `key` stays the same for as long as it is the same trouble."""

    rule: str
    subject: str
    severity: Severity
    text: str
    hint: str
    environment: str | None = None
    since: dt.datetime | None = None
    """When it began, where that is known; else when it was first seen."""
    held_by: tuple[str, ...] = ()
    """Keys of troubles of which this one is a part: while one of them lasts, and for a while after, nobody is told twice."""
    patience: dt.timedelta = dt.timedelta(0)
    """It must last so long before anybody is told."""

    @property
    def key(self) -> str:
        return f"{self.rule}:{self.subject}"


@dataclass(frozen=True)
class Point:
    """A committed backup."""

    id: str
    time: dt.datetime
    complete: bool
    seconds: float = 0.0
    """How long it took."""
    sources: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each source that is complete in it."""
    failed: tuple[str, ...] = ()
    """Sources that failed."""
    stored: int = 0
    """Bytes that it added to the store."""
    tier: str = ""


@dataclass(frozen=True)
class EnvironmentSeen:
    name: str
    schedule: str | None
    timezone: str = "UTC"
    grace: dt.timedelta = dt.timedelta(hours=1)
    proof_within: dt.timedelta | None = None
    """None: proofs are not asked for (an environment that is backed up by hand)."""
    drill_within: dt.timedelta | None = None
    longest: dt.timedelta | None = None
    rpo_max: dt.timedelta | None = None
    """None: nobody wrote one, then the schedule decides."""
    rto: dt.timedelta = dt.timedelta(hours=4)
    rto_max: dt.timedelta = dt.timedelta(hours=8)
    backups: tuple[Point, ...] = ()
    """Oldest first."""
    proven: Point | None = None
    proof_time: dt.datetime | None = None
    recovery: float | None = None
    """Seconds that the newest proof took."""
    failed_proof: tuple[str, str] | None = None
    """Of which backup, and what was found."""
    damaged: tuple[tuple[str, str], ...] = ()
    """Backups that cannot be believed, and why."""
    drilled: dt.datetime | None = None
    off: frozenset[str] = frozenset()

    @property
    def newest(self) -> Point | None:
        """The newest complete backup."""
        return next((point for point in reversed(self.backups) if point.complete), None)


@dataclass(frozen=True)
class RunSeen:
    """The newest run of a verb for an environment, of a copy by its name, or for the whole vault: None."""

    verb: str
    environment: str | None
    started: dt.datetime
    ended: dt.datetime | None
    outcome: Outcome
    message: str = ""
    hint: str = ""
    kind: str = ""
    """The class of the error, as in docs/reference/exit-codes.md."""
    exit_code: int = 0
    usual: float | None = None
    """Seconds that such runs usually take; None: too few are known."""

    @property
    def subject(self) -> str:
        return f"{self.environment}/{self.verb}" if self.environment else self.verb

    @property
    def concerns(self) -> str | None:
        """The environment whose people are told. A copy is everybody's."""
        return None if self.verb == "copy" else self.environment


@dataclass(frozen=True)
class StoreSeen:
    url: str = ""
    error: tuple[str, str, str] | None = None
    """Kind, message and hint, where the vault could not be read."""
    used: int | None = None
    capacity: int | None = None
    full: int = 80
    """Per cent."""
    clock_apart: float | None = None
    """Seconds by which this machine's clock differs from the store's."""
    audit: str = ""
    """Entries that are missing in the audit log, in words."""


@dataclass(frozen=True)
class CopySeen:
    """A copy of the vault. `missing` is the oldest backup that it should have and has not."""

    name: str
    missing: dt.datetime | None
    count: int = 0
    """How many backups it lacks."""
    error: str = ""
    hint: str = ""


@dataclass(frozen=True)
class WalSeen:
    """The archived log of one database."""

    environment: str
    source: str
    newest: dt.datetime | None
    """Up to when the archive reaches."""
    gap: str = ""
    """What is missing between the newest base backup and the end, in words."""


@dataclass(frozen=True)
class ProviderSeen:
    """The backups that the provider of a managed database takes."""

    environment: str
    source: str
    provider: str
    newest: dt.datetime | None
    window: dt.timedelta | None = None
    error: str = ""
    wanted: dt.timedelta = dt.timedelta(days=7)


@dataclass(frozen=True)
class KeySeen:
    slot: str
    label: str
    tried: dt.datetime
    """When it last opened the vault, as far as known; at the earliest when it was made."""


@dataclass(frozen=True)
class ChannelSeen:
    name: str
    since: dt.datetime
    tries: int
    error: str


@dataclass(frozen=True)
class Seen:
    now: dt.datetime
    project: str = ""
    environments: tuple[EnvironmentSeen, ...] = ()
    store: StoreSeen = StoreSeen()
    runs: tuple[RunSeen, ...] = ()
    copies: tuple[CopySeen, ...] = ()
    copy_within: dt.timedelta = dt.timedelta(days=8)
    wal: tuple[WalSeen, ...] = ()
    wal_within: dt.timedelta = dt.timedelta(minutes=15)
    providers: tuple[ProviderSeen, ...] = ()
    keys: tuple[KeySeen, ...] = ()
    key_within: dt.timedelta = dt.timedelta(days=365)
    channels: tuple[ChannelSeen, ...] = ()
    """Those that fail."""
    made: dt.datetime | None = None
    """When the vault was made: what never happened counts from then."""
    reviewed: dt.datetime | None = None
    review_within: dt.timedelta = dt.timedelta(days=92)
    away: tuple[dt.datetime, dt.datetime] | None = None
    """From when to when nobody watched, where that was long."""
    off: frozenset[str] = frozenset()
    vault_known: bool = True
    """False: what is said of backups, copies and logs is nothing, since the vault could not be read."""

    def environment(self, name: str | None) -> EnvironmentSeen | None:
        return next((e for e in self.environments if e.name == name), None)
