"""Watching, as the policy has it: how late is late, who is told of what, and who is told next."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, WithJsonSchema, field_validator, model_validator

from keepwell.core import units
from keepwell.policy.secret import SecretRef
from keepwell.policy.values import Duration, Name, PolicyPath, Span, Table, wrong

Event: TypeAlias = Literal["success", "warning", "failure"]
Rule: TypeAlias = Literal[
    "store-unreachable",
    "vault-unusable",
    "watch-away",
    "clock-off",
    "backup-missing",
    "backup-incomplete",
    "backup-damaged",
    "run-failed",
    "run-long",
    "data-at-risk",
    "recovery-slow",
    "proof-failed",
    "proof-overdue",
    "size-unusual",
    "duration-unusual",
    "store-full",
    "audit-broken",
    "copy-behind",
    "wal-behind",
    "wal-gap",
    "provider-stopped",
    "drill-overdue",
    "review-overdue",
    "key-untested",
    "channel-failed",
]


def _size(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, str):
        raise wrong("is not a size", 'Write for example "500 GB".')
    try:
        return units.size(value)
    except ValueError as error:
        raise wrong(str(error)) from None


def _more_than_no_bytes(value: int) -> int:
    if value < 1:
        raise wrong("must be more than nothing", 'Write for example "500 GB".')
    return value


def _day(value: Any) -> dt.date:
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        return value
    if isinstance(value, str):
        try:
            return dt.date.fromisoformat(value)
        except ValueError:
            pass
    raise wrong("is not a day", "Write it as 2026-11-22.")


Size: TypeAlias = Annotated[
    int,
    BeforeValidator(_size),
    AfterValidator(_more_than_no_bytes),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}], "examples": ["500 GB", "2 TiB"]}),
]
Day: TypeAlias = Annotated[
    dt.date,
    BeforeValidator(_day),
    WithJsonSchema({"type": "string", "format": "date", "examples": ["2026-11-22"]}),
]


class EnvironmentWatch(Table):
    """What is different for one environment; what is left out is as in [watch]."""

    grace: Span | None = Field(default=None, description="How long after its due time a backup may be complete.")
    proof_within: Span | None = Field(default=None, description="How old the newest proof may be.")
    drill_within: Span | None = Field(default=None, description="How old the newest drill may be.")
    longest: Span | None = Field(
        default=None, description="How long a run may take. Default: three times the usual, at least an hour."
    )
    heartbeat: SecretRef | None = Field(
        default=None,
        description="Where the URL is that hears of every backup of this environment: start, done, failed.",
    )
    off: tuple[Rule, ...] = Field(default=(), description="Rules that do not apply to this environment.")


class WatchPolicy(Table):
    """The rules of watching, for all environments."""

    grace: Span = Field(
        default="1h", validate_default=True, description="How long after its due time a backup may be complete."
    )
    proof_within: Span = Field(default="35d", validate_default=True, description="How old the newest proof may be.")
    drill_within: Span = Field(
        default="100d", validate_default=True, description="How old the newest drill may be: a quarter, and a week."
    )
    review_within: Span = Field(
        default="92d", validate_default=True, description="How old the last review of the strategy may be."
    )
    reviewed: Day | None = Field(default=None, description="The day on which people last went through the strategy.")
    key_within: Span = Field(
        default="1y", validate_default=True, description="How long ago a key that reads may last have been tried."
    )
    capacity: Size | None = Field(
        default=None, description="What the store may hold. Default for a folder: what its file system holds."
    )
    full: Annotated[StrictInt, Field(ge=1, le=100)] = Field(
        default=80, description="At how many percent of the capacity there is an alert."
    )
    wal_within: Span = Field(
        default="15m", validate_default=True, description="How far the archived log of a database may lie behind."
    )
    copy_within: Span = Field(default="8d", validate_default=True, description="How far a copy may lie behind.")
    reminder: Span = Field(
        default="24h", validate_default=True, description="After how long an open alert is told again."
    )
    heartbeat: SecretRef | None = Field(
        default=None, description="Where the URL is that hears of every look: well, or not well."
    )
    state: PolicyPath | None = Field(
        default=None, description="The file that the states of alerts are kept in. Default: .keepwell/watch.db here."
    )
    off: tuple[Rule, ...] = Field(default=(), description="Rules that do not apply.")


class Channel(Table):
    """One way to reach somebody."""

    url: SecretRef = Field(description="Where the Apprise URL of the channel is to be found: it holds secrets.")
    on: tuple[Event, ...] = Field(
        default=("warning", "failure"), description='What it is told of: "success", "warning", "failure".'
    )
    environments: tuple[Name, ...] = Field(default=(), description="Only these environments. Default: all.")

    @field_validator("on", mode="after")
    @classmethod
    def _something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise wrong(
                "names nothing to tell", 'Write for example on = ["success", "failure"], or take the channel out.'
            )
        return value


class Contact(Table):
    """Somebody who is told of a failure that nobody has acknowledged."""

    name: str = Field(min_length=1, description="Who it is, for people.")
    notify: tuple[Name, ...] = Field(description="The channels that reach them.")
    after: Duration | None = Field(
        default=None, description="How long after the alert. Default: primary 0s, secondary 30m, escalation 2h."
    )


_AFTER = {"primary": "0s", "secondary": "30m", "escalation": "2h"}


class Contacts(Table):
    """Who is told, and who is told next when nobody acknowledges."""

    primary: Contact | None = Field(default=None, description="Who is told at once.")
    secondary: Contact | None = Field(default=None, description="Who is told when the primary does not acknowledge.")
    escalation: Contact | None = Field(default=None, description="Who is told when neither does.")
    hotline: str | None = Field(default=None, min_length=1, description="A number or address that every alert shows.")

    def steps(self) -> list[tuple[dt.timedelta, str, tuple[str, ...]]]:
        """How long after the alert, whose name, which channels; earliest first."""
        found = []
        for role, after in _AFTER.items():
            contact: Contact | None = getattr(self, role)
            if contact is not None:
                wait = contact.after if contact.after is not None else units.duration(after)
                found.append((wait, f"{contact.name} ({role})", contact.notify))
        return sorted(found, key=lambda step: step[0])

    @model_validator(mode="after")
    def _in_order(self) -> Contacts:
        known = [(role, getattr(self, role)) for role in _AFTER if getattr(self, role) is not None]
        waits = [c.after if c.after is not None else units.duration(_AFTER[role]) for role, c in known]
        for number in range(1, len(waits)):
            if waits[number] < waits[number - 1]:
                raise wrong(
                    f"{known[number][0]} would be told before {known[number - 1][0]}",
                    'Let "after" grow from primary to secondary to escalation.',
                    (known[number][0],),
                )
        return self


def check_names(
    channels: dict[str, Channel], contacts: Contacts, environments: dict[str, Any]
) -> tuple[str, str, tuple[str, ...]] | None:
    """What is wrong, its mend and where, when a contact or channel names what the policy does not have."""
    for role in _AFTER:
        contact: Contact | None = getattr(contacts, role)
        for number, name in enumerate(contact.notify if contact else ()):
            if name not in channels:
                mend = (
                    f"Known are: {', '.join(channels)}." if channels else f"Add a table [notify.{name}] with its url."
                )
                return f"there is no channel {name!r}", mend, ("contacts", role, "notify", str(number))
    for channel, settings in channels.items():
        for number, name in enumerate(settings.environments):
            if name not in environments:
                mend = f"The policy has: {', '.join(environments)}."
                return f"there is no environment {name!r}", mend, ("notify", channel, "environments", str(number))
    return None
