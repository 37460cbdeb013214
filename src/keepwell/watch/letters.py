"""What people read, perhaps at night: what is wrong, since when, what is still safe, and what to do now."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from keepwell.core.clock import iso
from keepwell.core.units import show_size
from keepwell.watch.signs import span

if TYPE_CHECKING:
    from keepwell.watch.seen import Seen
    from keepwell.watch.state import Event

Tone: TypeAlias = Literal["success", "warning", "failure", "over"]
_MARKS = {"success": "✅", "warning": "⚠️", "failure": "🔴", "over": "✅"}


@dataclass(frozen=True)
class Letter:
    """One message, the same for every channel."""

    tone: Tone
    title: str
    body: str
    incident: str = ""
    """What belongs together has the same."""
    environment: str | None = None
    rule: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    """For services that show fields."""

    def json(self) -> dict[str, Any]:
        return asdict(self)


def of_event(event: Event, seen: Seen, *, hotline: str | None = None, contact: str = "") -> Letter:
    """The message of a change of state."""
    alert, now = event.alert, seen.now
    subject = f"{seen.project}: " if seen.project else ""
    lasted = span((alert.over or now) - alert.since)
    if event.kind == "over":
        return Letter(
            "over",
            f"{_MARKS['over']} {subject}over after {lasted}: {alert.text}",
            "\n".join(
                [
                    f"Over:        {alert.text}",
                    f"It lasted:   from {_time(alert.since)} to {_time(now)} ({lasted})",
                    f"Now safe:    {safe(seen, alert.environment)}",
                    "Do now:      nothing.",
                ]
            ),
            alert.incident,
            alert.environment,
            alert.rule,
            {"alert": alert.key, "since": iso(alert.since)},
        )
    again = {
        "reminder": "still: ",
        "worse": "worse: ",
        "escalated": f"nobody answered ({contact} is told): ",
        "opened": "",
    }[event.kind]
    lines = [
        f"What:        {alert.text}",
        f"Since:       {_time(alert.since)} ({span(now - alert.since)} ago)",
        f"Still safe:  {safe(seen, alert.environment)}",
        f"Do now:      {alert.hint}",
        f"Answer:      keepwell alerts ack {alert.key}",
    ]
    if hotline:
        lines.append(f"Hotline:     {hotline}")
    return Letter(
        alert.severity,
        f"{_MARKS[alert.severity]} {subject}{again}{alert.text}",
        "\n".join(lines),
        alert.incident,
        alert.environment,
        alert.rule,
        {
            "alert": alert.key,
            "since": iso(alert.since),
            "still safe": safe(seen, alert.environment),
            "do now": alert.hint,
        },
    )


def of_success(project: str, what: str, lines: Mapping[str, str], environment: str | None) -> Letter:
    """The quiet message of a run that did what it should."""
    body = "\n".join(f"{name + ':':<12} {text}" for name, text in lines.items())
    return Letter("success", f"{_MARKS['success']} {project}: {what}", body, "", environment, "success", dict(lines))


def of_test(project: str, channel: str, who: str, now: dt.datetime) -> Letter:
    return Letter(
        "warning",
        f"{_MARKS['warning']} {project}: a test, nothing is wrong",
        "\n".join(
            [
                f"What:        {who} tries the channel {channel} with keepwell alerts test",
                f"Since:       {_time(now)}",
                "Still safe:  everything",
                "Do now:      nothing. You would be told here when a backup is missing or a proof fails.",
            ]
        ),
        f"keepwell/test/{channel}/{iso(now)}",
        None,
        "test",
        {"alert": "test"},
    )


def safe(seen: Seen, environment: str | None) -> str:
    """What can be restored whatever the trouble is: the newest proven backup, by environment."""
    envs = [e for e in seen.environments if environment in {None, e.name}]
    if not envs:
        return "unknown: nothing was read of the vault"
    texts = []
    for env in envs:
        point = env.proven
        if point is not None:
            proven = f", proven {_time(env.proof_time)}" if env.proof_time else ""
            texts.append(
                f"{env.name} as of {_time(point.time)} ({span(seen.now - point.time)} ago): {point.id}{proven}"
            )
        elif env.newest is not None:
            texts.append(f"{env.name}: no backup is proven; the newest is {env.newest.id}")
        else:
            texts.append(f"{env.name}: NO backup")
    known = "" if seen.vault_known else " (as last known: the vault cannot be read now)"
    return "; ".join(texts) + known


def size_line(read: int, stored: int) -> str:
    return f"{show_size(read)} read, {show_size(stored)} new in the store"


def _time(moment: dt.datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M UTC")
