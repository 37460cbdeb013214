"""From what rules find to what people are told: one message for each change of state. Pure: no clock, no file, no network.

A trouble is `pending` until it has lasted long enough, `held` while it is a part of another one, `open` from then on, and
`over` when the rule finds it no more. Only what was told of is told to be over.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from keepwell.core.clock import from_iso, iso
from keepwell.watch.signs import SETTLE

if TYPE_CHECKING:
    from keepwell.watch.seen import Severity, Symptom

Stage: TypeAlias = Literal["pending", "held", "open", "over"]
Kind: TypeAlias = Literal["opened", "worse", "reminder", "escalated", "over"]
_FORGET = dt.timedelta(days=90)
"""What is over stays so long in `keepwell alerts --all`."""
_WARNINGS_REMIND = 7
"""A warning is repeated so many times less often than a failure."""


@dataclass(frozen=True)
class Alert:
    key: str
    rule: str
    subject: str
    environment: str | None
    severity: Severity
    text: str
    hint: str
    since: dt.datetime
    stage: Stage
    seen: dt.datetime
    """When the rule first found it, this time."""
    opened: dt.datetime | None = None
    """When people were to be told."""
    announced: bool = False
    """Whether they were; not while it is silenced."""
    reminded: dt.datetime | None = None
    step: int = 0
    """How many of the contacts' steps were told."""
    over: dt.datetime | None = None
    acknowledged: str = ""
    """By whom, and what they said."""
    acknowledged_at: dt.datetime | None = None

    @property
    def incident(self) -> str:
        """One name for all messages of this time: PagerDuty and others put them together by it."""
        return f"keepwell/{self.key}/{iso(self.seen)}"

    @property
    def is_open(self) -> bool:
        return self.stage == "open"

    def json(self) -> dict[str, Any]:
        found = dataclasses.asdict(self)
        return {name: iso(value) if isinstance(value, dt.datetime) else value for name, value in found.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Alert:
        times = {"since", "seen", "opened", "reminded", "over", "acknowledged_at"}
        known = {f.name for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {
            name: from_iso(value) if name in times and value else value
            for name, value in document.items()
            if name in known
        }
        return cls(**values)


@dataclass(frozen=True)
class Silence:
    """Nobody is told of alerts whose key fits, until then."""

    pattern: str
    """`backup-missing:production`, `size-unusual:*`, `*:staging*`."""
    until: dt.datetime
    by: str = ""

    def covers(self, alert: Alert, now: dt.datetime) -> bool:
        return now < self.until and any(
            fnmatch.fnmatchcase(text, self.pattern) for text in (alert.key, alert.rule, alert.environment or "")
        )


@dataclass(frozen=True)
class Event:
    """Something to tell. `step`: of which contact (escalated)."""

    kind: Kind
    alert: Alert
    step: int = 0


@dataclass(frozen=True)
class Manner:
    """How people want to be told."""

    reminder: dt.timedelta = dt.timedelta(days=1)
    steps: tuple[dt.timedelta, ...] = ()
    """After how long each contact is told of an open failure that nobody acknowledged; growing."""


@dataclass(frozen=True)
class Turn:
    alerts: dict[str, Alert]
    events: list[Event] = field(default_factory=list)


def advance(
    alerts: Mapping[str, Alert],
    symptoms: Iterable[Symptom],
    now: dt.datetime,
    *,
    blind: frozenset[str] = frozenset(),
    silences: Sequence[Silence] = (),
    manner: Manner = Manner(),  # frozen
) -> Turn:
    """The states after this look, and what is to be told. Alerts of `blind` rules stay as they are."""
    found: dict[str, Symptom] = {}
    for symptom in symptoms:  # of two with one key the graver counts
        if symptom.key not in found or symptom.severity == "failure":
            found[symptom.key] = symptom
    turn = Turn({})
    roots = set(found) | {key for key, a in alerts.items() if a.rule in blind and a.stage != "over"}
    for key in sorted(alerts.keys() | found.keys()):
        before = alerts.get(key)
        if before is not None and key not in found and (before.rule in blind and before.stage != "over"):
            after: Alert | None = _tell_again(before, now, silences, manner, turn)
        elif key in found:
            after = _lasts(before, found[key], alerts, roots, now, silences, manner, turn)
        else:
            after = _ends(before, now, turn) if before else None
        if after is not None:
            turn.alerts[key] = after
    return turn


def acknowledge(alert: Alert, who: str, note: str, now: dt.datetime) -> Alert:
    """No reminders and no escalation any more, until it gets worse or is over."""
    return dataclasses.replace(alert, acknowledged=f"{who}: {note}" if note else who, acknowledged_at=now)


def _lasts(
    before: Alert | None,
    symptom: Symptom,
    alerts: Mapping[str, Alert],
    roots: set[str],
    now: dt.datetime,
    silences: Sequence[Silence],
    manner: Manner,
    turn: Turn,
) -> Alert:
    if before is None or before.stage == "over":
        alert = _new(symptom, now)
    else:
        worse = before.severity == "warning" and symptom.severity == "failure"
        alert = dataclasses.replace(
            before,
            severity=symptom.severity,
            text=symptom.text,
            hint=symptom.hint,
            since=min(before.since, symptom.since) if symptom.since else before.since,
        )
        if worse and alert.is_open:
            alert = dataclasses.replace(alert, acknowledged="", acknowledged_at=None, step=0, opened=now)
            return _announce("worse", alert, now, silences, manner, turn)
    if alert.is_open:
        return _tell_again(alert, now, silences, manner, turn)
    if any(_holds(key, alerts, roots, now) for key in symptom.held_by):
        return dataclasses.replace(alert, stage="held")
    if now - alert.seen < symptom.patience and now >= alert.seen:
        return dataclasses.replace(alert, stage="pending")
    return _announce("opened", dataclasses.replace(alert, stage="open", opened=now), now, silences, manner, turn)


def _new(symptom: Symptom, now: dt.datetime) -> Alert:
    since = min(symptom.since, now) if symptom.since else now
    return Alert(
        symptom.key,
        symptom.rule,
        symptom.subject,
        symptom.environment,
        symptom.severity,
        symptom.text,
        symptom.hint,
        since,
        "pending",
        now,
    )


def _holds(key: str, alerts: Mapping[str, Alert], roots: set[str], now: dt.datetime) -> bool:
    """Whether that trouble lasts, or was open until a short while ago."""
    if key in roots:
        return True
    root = alerts.get(key)
    return (
        root is not None
        and root.opened is not None
        and (root.stage != "over" or (root.over is not None and now - root.over < SETTLE))
    )


def _announce(
    kind: Kind, alert: Alert, now: dt.datetime, silences: Sequence[Silence], manner: Manner, turn: Turn
) -> Alert:
    if any(silence.covers(alert, now) for silence in silences):
        return alert
    at_once = sum(1 for wait in manner.steps if wait <= dt.timedelta(0))
    alert = dataclasses.replace(alert, announced=True, reminded=now, step=at_once)
    turn.events.append(Event(kind, alert))
    return alert


def _tell_again(alert: Alert, now: dt.datetime, silences: Sequence[Silence], manner: Manner, turn: Turn) -> Alert:
    """Reminders and escalation of what is open."""
    if not alert.is_open or alert.opened is None:
        return alert
    if not alert.announced:
        return _announce("opened", alert, now, silences, manner, turn)
    if alert.acknowledged_at is not None or any(silence.covers(alert, now) for silence in silences):
        return alert
    opened = alert.opened
    if alert.severity == "failure":
        due = sum(1 for wait in manner.steps if now - opened >= wait)
        for step in range(alert.step, due):
            alert = dataclasses.replace(alert, step=step + 1)
            turn.events.append(Event("escalated", alert, step))
    pause = manner.reminder * (1 if alert.severity == "failure" else _WARNINGS_REMIND)
    if now - (alert.reminded or opened) >= pause:
        alert = dataclasses.replace(alert, reminded=now)
        turn.events.append(Event("reminder", alert))
    return alert


def _ends(before: Alert, now: dt.datetime, turn: Turn) -> Alert | None:
    if before.stage == "over":
        return None if before.over and now - before.over > _FORGET else before
    if before.stage != "open":
        return None
    after = dataclasses.replace(before, stage="over", over=now)
    if before.announced:
        turn.events.append(Event("over", after))
    return after
