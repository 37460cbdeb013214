"""What people say to the watch: I am on it, not now, this was done, and are you there?"""

from __future__ import annotations

import datetime as dt
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keepwell.core.clock import iso
from keepwell.core.errors import KeepwellError, UsageError
from keepwell.core.streams import Context
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.values import nearest
from keepwell.proof.record import who
from keepwell.watch.book import Book, place
from keepwell.watch.letters import of_test
from keepwell.watch.notify import send, url_of
from keepwell.watch.state import Alert, Silence, acknowledge

DEEDS = ("drill", "review", "key")


def listed(loaded: LoadedPolicy, *, everything: bool = False) -> list[Alert]:
    """Open alerts, failures first; with `everything` also those that wait or are over. Raises BookError."""
    with Book(place(loaded)).look() as pages:
        alerts = list(pages.alerts().values())
    found = [alert for alert in alerts if everything or alert.is_open]
    return sorted(found, key=lambda a: (a.stage == "over", not a.is_open, a.severity != "failure", a.since, a.key))


def silences(loaded: LoadedPolicy, context: Context) -> list[Silence]:
    with Book(place(loaded)).look() as pages:
        return pages.silences(context.clock.now())


def acknowledged(loaded: LoadedPolicy, context: Context, pattern: str, note: str = "") -> list[Alert]:
    """Acknowledges open alerts: by key, rule, environment, or a pattern of these. Raises UsageError where none fits."""
    now = context.clock.now()
    with Book(place(loaded)).turn() as pages:
        alerts = pages.alerts()
        fitting = [key for key, alert in alerts.items() if alert.is_open and _fits(alert, pattern)]
        if not fitting:
            known = [key for key, alert in alerts.items() if alert.is_open]
            raise UsageError(
                f"no open alert fits {pattern!r}",
                hint=f"{nearest(pattern, known)} Open are: {', '.join(known)}.".strip() if known else "None is open.",
            )
        for key in fitting:
            alerts[key] = acknowledge(alerts[key], who(), note, now)
            pages.log(now, {"kind": "acknowledged", "alert": key, "by": who(), "text": note})
        pages.put_alerts(alerts)
        return [alerts[key] for key in fitting]


def silence(loaded: LoadedPolicy, context: Context, pattern: str, length: dt.timedelta) -> Silence:
    """Nobody is told of what fits, until then; it shows in lists all the same."""
    now = context.clock.now()
    made = Silence(pattern, (now + length).replace(microsecond=0), who())
    with Book(place(loaded)).turn() as pages:
        pages.silence(made)
        pages.log(now, {"kind": "silenced", "alert": pattern, "by": made.by, "text": f"until {iso(made.until)}"})
    return made


def end_silence(loaded: LoadedPolicy, context: Context, pattern: str) -> None:
    """Raises UsageError where there is none."""
    with Book(place(loaded)).turn() as pages:
        known = [s.pattern for s in pages.silences(context.clock.now())]
        if not pages.end_silence(pattern):
            hint = f"There is: {', '.join(known)}." if known else "Nothing is silenced."
            raise UsageError(f"there is no silence {pattern!r}", hint=hint)
        pages.log(context.clock.now(), {"kind": "silence ended", "alert": pattern, "by": who()})


def record(loaded: LoadedPolicy, context: Context, deed: str, subject: str | None) -> dict[str, Any]:
    """That a drill of an environment was held, the strategy was reviewed, or a key (by its slot) was tried. Raises UsageError."""
    if deed not in DEEDS:
        raise UsageError(f"{deed!r} cannot be recorded", hint=f"What can: {', '.join(DEEDS)}.")
    if deed == "review":
        subject = "strategy"
    elif subject is None:
        what = "which environment" if deed == "drill" else "which slot (keepwell key list)"
        raise UsageError(f"{deed}: {what}?", hint=f"keepwell alerts record {deed} NAME")
    elif deed == "drill":
        loaded.environment(subject)
    now = context.clock.now()
    made = {"at": iso(now), "by": who()}
    with Book(place(loaded)).turn() as pages:
        pages.write(f"deed:{deed}:{subject}", made)
        pages.log(now, {"kind": "recorded", "alert": f"{deed} {subject}", "by": who()})
    return {"deed": deed, "subject": subject, **made}


@dataclass(frozen=True)
class Tried:
    channel: str
    error: str = ""
    hint: str = ""


def tried(loaded: LoadedPolicy, context: Context, names: Sequence[str] = ()) -> list[Tried]:
    """Sends a message through these channels, or through all. Raises UsageError."""
    channels = loaded.policy.notify
    if not channels:
        raise UsageError(
            "the policy has no channels", hint="Add a table [notify.slack] with its url (docs/how-to/notifications.md)."
        )
    for name in names:
        if name not in channels:
            raise UsageError(
                f"there is no channel {name!r}",
                hint=f"{nearest(name, channels)} The policy has: {', '.join(channels)}.",
            )
    found = []
    for name in names or channels:
        letter = of_test(loaded.policy.project, name, who(), context.clock.now())
        try:
            send(name, url_of(loaded, name), letter)
        except KeepwellError as error:
            found.append(Tried(name, error.message, error.hint))
        else:
            found.append(Tried(name))
            with Book(place(loaded)).turn() as pages:
                pages.forget(f"channel:{name}")
    return found


def _fits(alert: Alert, pattern: str) -> bool:
    return any(fnmatch.fnmatchcase(text, pattern) for text in (alert.key, alert.rule, alert.environment or ""))
