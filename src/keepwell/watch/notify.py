"""Messages on their way: to whom, and through Apprise until they arrive.

A message is written into the book in the same turn as the state that it tells of, so none is lost by a kill; one that was
being sent at that moment is sent again. PagerDuty is given the incident's key, so there nothing is doubled.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from keepwell.core.clock import Clock, from_iso, iso
from keepwell.core.errors import KeepwellError
from keepwell.core.secrets import Secret
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import Policy
from keepwell.watch.book import Book, Pages
from keepwell.watch.letters import Letter, of_event
from keepwell.watch.seen import ChannelSeen, Seen
from keepwell.watch.state import Event, Manner

_LEASE = dt.timedelta(minutes=5)
_GIVE_UP = dt.timedelta(hours=24)
_LONGEST_WAIT = dt.timedelta(hours=1)
_FAILING = 2
"""So many failures one after the other make a channel one that fails."""
_SAID = 300


class NotifyError(KeepwellError):
    """A message was not taken by its channel."""


@dataclass(frozen=True)
class Delivery:
    """What became of one attempt."""

    channel: str
    title: str
    error: str = ""


def manner_of(policy: Policy) -> Manner:
    return Manner(policy.watch.reminder, tuple(wait for wait, _, _ in policy.contacts.steps()))


def channels_for(event: Event, policy: Policy) -> list[str]:
    """Names of the channels that are told of it."""
    alert, steps = event.alert, policy.contacts.steps()
    if event.kind == "escalated":
        wanted = list(steps[event.step][2]) if event.step < len(steps) else []
    else:
        listed = {name for _, _, names in steps for name in names}
        told = {name for _, _, names in steps[: alert.step] for name in names}
        wanted = [
            name
            for name, channel in policy.notify.items()
            if (name in told if name in listed else True)
            and (alert.severity in channel.on or (name in told and alert.severity == "failure"))
        ]
    return [
        name
        for name in wanted
        if not (alert.rule == "channel-failed" and alert.subject == name)
        and _concerns(policy.notify[name].environments, alert.environment)
    ]


def post_events(pages: Pages, events: Sequence[Event], seen: Seen, policy: Policy) -> None:
    """Puts the messages of these events on their way."""
    steps = policy.contacts.steps()
    for event in events:
        contact = steps[event.step][1] if event.kind == "escalated" and event.step < len(steps) else ""
        letter = of_event(event, seen, hotline=policy.contacts.hotline, contact=contact)
        channels = channels_for(event, policy)
        for name in channels:
            pages.post(name, letter.json(), seen.now)
        pages.log(
            seen.now,
            {"kind": event.kind, "alert": event.alert.key, "text": event.alert.text, "told": channels},
        )


def post_success(pages: Pages, letter: Letter, policy: Policy, now: dt.datetime) -> None:
    for name, channel in policy.notify.items():
        if "success" in channel.on and _concerns(channel.environments, letter.environment):
            pages.post(name, letter.json(), now)


def failing(pages: Pages) -> tuple[ChannelSeen, ...]:
    """Channels that do not get through."""
    notes = {**pages.notes("channel:"), **pages.notes("heartbeat:")}
    return tuple(
        ChannelSeen(
            name.removeprefix("channel:").replace(":", " of ", 1), from_iso(note["since"]), note["tries"], note["error"]
        )
        for name, note in notes.items()
        if note["tries"] >= _FAILING
    )


def deliver(book: Book, loaded: LoadedPolicy, clock: Clock, most: int = 100) -> list[Delivery]:
    """Sends what is due. Failures are noted and tried again later, for a day; raises only BookError."""
    done: list[Delivery] = []
    with book.turn() as pages:
        pages.drop_channels(set(loaded.policy.notify))
    for _ in range(most):
        now = clock.now()
        with book.turn() as pages:
            claimed = pages.claim(now, _LEASE)
        if claimed is None:
            break
        ident, channel, tries, made, document = claimed
        letter = Letter(**document)
        error = ""
        try:
            send(channel, url_of(loaded, channel), letter)
        except KeepwellError as problem:
            error = problem.message
        done.append(Delivery(channel, letter.title, error))
        with book.turn() as pages:
            _settle(pages, ident, channel, tries, made, letter, error, clock.now())
    return done


def _settle(
    pages: Pages, ident: int, channel: str, tries: int, made: dt.datetime, letter: Letter, error: str, now: dt.datetime
) -> None:
    note = f"channel:{channel}"
    if not error:
        pages.sent(ident)
        pages.forget(note)
        pages.log(now, {"kind": "sent", "channel": channel, "text": letter.title})
        return
    known = pages.note(note) or {"since": iso(now), "tries": 0}
    pages.write(note, {"since": known["since"], "tries": known["tries"] + 1, "error": error})
    pages.write(
        "failures", {**(pages.note("failures") or {}), channel: (pages.note("failures") or {}).get(channel, 0) + 1}
    )
    pages.log(now, {"kind": "not sent", "channel": channel, "text": letter.title, "error": error})
    if now - made > _GIVE_UP:
        pages.sent(ident)
        pages.log(now, {"kind": "given up", "channel": channel, "text": letter.title})
    else:
        wait = min(dt.timedelta(minutes=2 ** min(tries, 10)), _LONGEST_WAIT)
        pages.later(ident, tries + 1, now + wait)


def url_of(loaded: LoadedPolicy, channel: str) -> Secret:
    """The Apprise URL of a channel. Raises NotifyError where it cannot be had."""
    return loaded.policy.notify[channel].url.resolve(
        loaded.base, what=f"the URL of channel {channel}", error=NotifyError
    )


def send(channel: str, url: Secret, letter: Letter) -> None:
    """Once. Raises NotifyError; nothing of the URL stands in it."""
    import apprise

    kinds = {
        "success": apprise.NotifyType.SUCCESS,
        "over": apprise.NotifyType.SUCCESS,
        "warning": apprise.NotifyType.WARNING,
        "failure": apprise.NotifyType.FAILURE,
    }
    capture: Any = apprise.LogCapture  # it has no types
    with capture(level=logging.WARNING, fmt="%(message)s") as said:
        try:
            plugin, title, body = _service(url, letter)
            arrived = plugin is not None and plugin.notify(
                title=title, body=body, notify_type=kinds[letter.tone], body_format=apprise.NotifyFormat.TEXT
            )
        except Exception as error:  # whatever a plugin throws, it is this channel that failed
            raise NotifyError(f"{channel}: {type(error).__name__} in its plugin") from None
        reasons = " ".join(said.getvalue().split())
    if plugin is None:
        raise NotifyError(
            f"{channel}: its URL is not one that Apprise knows",
            hint="Look up the form for your service at appriseit.com, and put it where the policy's reference points.",
        )
    if not arrived:
        raise NotifyError(
            f"{channel}: {_without_secrets(reasons, url)[:_SAID] or 'the service did not take the message'}",
            hint=f"Correct its URL, or what blocks it; then: keepwell alerts test {channel}",
        )


def _service(url: Secret, letter: Letter) -> tuple[Any, str, str]:
    """The plugin for the URL, and what is its title and its body."""
    import apprise
    from apprise.plugins import url_to_dict

    asset = apprise.AppriseAsset(app_id="keepwell", app_desc="keepwell", app_url="", async_mode=False)
    parse: Any = url_to_dict  # it has no types
    parts: dict[str, Any] | None = parse(url.reveal(), secure_logging=True)
    if parts is None:
        return None, "", ""
    title, body = letter.title, letter.body
    if parts["schema"] == "pagerduty" and letter.incident:
        # One incident from the alert to the all-clear; the title is what is read out, the rest are its details.
        parts |= {"dedup": letter.incident, "action": "resolve" if letter.tone == "over" else "trigger"}
        parts["details"] = {**dict(letter.facts), **parts.get("details", {})}
        parts["component"] = parts.get("component") or letter.environment or "keepwell"
        title, body = "", letter.title
    return apprise.Apprise.instantiate(parts, asset=asset), title, body


def _without_secrets(text: str, url: Secret) -> str:
    for part in sorted(set(_pieces(url.reveal())), key=len, reverse=True):
        text = text.replace(part, "***")
    return text


def _pieces(url: str) -> Iterator[str]:
    """What could be a secret in it: everything but the scheme and short words."""
    try:
        parts = urlsplit(url)
        found = [url, parts.netloc, parts.username, parts.password, *re.split(r"[/:@?&=]", url.partition("://")[2])]
        found += [value for _, value in parse_qsl(parts.query)]
    except ValueError:
        found = [url, *re.split(r"[/:@?&=]", url)]
    for piece in found:
        if piece and len(piece) > 5:
            yield piece
            yield unquote(piece)


def _concerns(environments: Sequence[str], environment: str | None) -> bool:
    return not environments or environment is None or environment in environments
