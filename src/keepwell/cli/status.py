"""`keepwell status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli.alerts_common import document
from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.clock import iso
from keepwell.core.errors import KeepwellError, UsageError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from keepwell.operations.status import EnvironmentStatus
    from keepwell.watch.seen import ProviderSeen
    from keepwell.watch.state import Alert

_WORDS = {"ok": ("well", "green"), "warn": ("look at this", "yellow"), "fail": ("NOT WELL", "red")}


def run(
    ctx: typer.Context,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Look anew; exit 1 with an open failure, 3 with an open warning.")
    ] = False,
    nagios: Annotated[
        bool, typer.Option("--nagios", help="One line and exit code for Nagios and its kin; looks anew.")
    ] = False,
) -> int:
    """The newest proven backup of each environment, not only the newest; and both against the objectives.

    Shows the open alerts too. Exits 0 whatever they are, unless --exit-code or --nagios is given: these look by the rules
    of the watch, change nothing and tell nobody. What is acknowledged or silenced does not count.
    """
    from keepwell.operations.status import status
    from keepwell.watch.providers import providers_of, providers_seen

    if nagios and exit_code:
        raise UsageError("--nagios has exit codes of its own", hint="Leave --exit-code out.")
    session: Session = ctx.obj
    if nagios:
        return _nagios(session)
    loaded = session.load()
    with session.context() as context:
        if exit_code:
            from keepwell.watch.look import Watcher

            look = Watcher(loaded).look(context, tell=False)
            alerts, pressing = look.open, look.pressing
        else:
            from keepwell.watch.answers import listed

            alerts = listed(loaded)
            pressing = []
        found = status(loaded, context)
        now = context.clock.now()
        own = providers_of(loaded, now)
    session.output.document(
        [
            entry.json()
            | {
                "alerts": [document(a) for a in alerts if a.environment in {None, entry.environment}],
                "providers": [each for each in own if each["environment"] == entry.environment],
            }
            for entry in found
        ]
    )
    for number, entry in enumerate(found):
        if number:
            session.output.say()
        _tell(session.output, entry)
        for each in providers_seen(p for p in own if p["environment"] == entry.environment):
            _line(session.output, f"{each.provider}'s own", _in_words(each, now))
    _tell_alerts(session.output, alerts, now)
    severities = {alert.severity for alert in pressing}
    return 1 if "failure" in severities else 3 if severities else 0


def _nagios(session: Session) -> int:
    """As the Monitoring Plugins' guidelines have it: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."""
    from keepwell.watch.look import Watcher

    try:
        with session.context() as context:
            look = Watcher(session.load()).look(context, tell=False)
    except KeepwellError as error:
        session.output.say(f"KEEPWELL UNKNOWN - {error.message}")
        return 3
    severities = [alert.severity for alert in look.pressing]
    code = 2 if "failure" in severities else 1 if severities else 0
    word = ("OK", "WARNING", "CRITICAL")[code]
    text = "; ".join(alert.text for alert in look.pressing) or "all is well"
    numbers = []
    for env in look.seen.environments:
        if env.newest and look.seen.vault_known:
            numbers.append(f"'{env.name}_age'={(look.seen.now - env.newest.time).total_seconds():.0f}s;;;0")
        if env.proven and look.seen.vault_known:
            numbers.append(f"'{env.name}_proven_age'={(look.seen.now - env.proven.time).total_seconds():.0f}s;;;0")
    line = " ".join(text.replace("|", "/").split())
    session.output.document({"state": word, "exit_code": code, "alerts": [document(a) for a in look.pressing]})
    session.output.say(f"KEEPWELL {word} - {line}" + (f" | {' '.join(numbers)}" if numbers else ""))
    return code


def _in_words(own: ProviderSeen, now: dt.datetime) -> str:
    if own.error:
        return f"{own.source}: cannot be asked for: {own.error}"
    if own.newest is None:
        return f"{own.source}: none"
    reach = f", back to {span(own.window)} ago" if own.window is not None else ""
    return f"{own.source}: newest {_ago(now - own.newest)}{reach}  (target {span(own.wanted)})"


def _tell_alerts(output: Output, alerts: Sequence[Alert], now: dt.datetime) -> None:
    if not alerts:
        return
    output.say()
    output.say(f"{many(len(alerts), 'open alert')} (keepwell alerts list):")
    for alert in alerts:
        style = "red" if alert.severity == "failure" else "yellow"
        answer = f", acknowledged by {alert.acknowledged}" if alert.acknowledged else ""
        output.say(f"  {output.style('→', style)} {alert.text}  (for {span(now - alert.since)}{answer})")


def _tell(output: Output, entry: EnvironmentStatus) -> None:
    word, style = _WORDS[entry.state]
    output.say(f"{output.style(entry.environment, 'bold')}  {output.style(word, style)}")
    if entry.proven and entry.proof:
        age = _ago(entry.now - entry.proven.time)
        _line(output, "newest proven", f"{entry.proven.id}  {age}, proven {_ago(entry.now - entry.proof.time)}")
    else:
        _line(output, "newest proven", "none")
    if entry.newest:
        _line(output, "newest", f"{entry.newest.id}  {_ago(entry.now - entry.newest.time)}")
    else:
        _line(output, "newest", "none")
    if entry.policy is not None:
        goals = entry.policy.objectives
        if entry.due:
            _line(output, "next due", f"{iso(entry.due)}  in {span(entry.due - entry.now)}")
        else:
            _line(output, "next due", "by hand")
        if entry.at_risk is not None:
            goal = f"target {span(goals.rpo)}, maximum {span(goals.rpo_max)}"
            _line(output, "data at risk", f"{span(entry.at_risk)}  ({goal})")
        took = f"{span(entry.recovery)} measured" if entry.recovery is not None else "not measured yet"
        _line(output, "to recover", f"{took}  (target {span(goals.rto)}, maximum {span(goals.rto_max)})")
    for problem in entry.problems():
        output.say(f"  {output.style('→', _WORDS[problem.state][1])} {problem.text}")


def _line(output: Output, name: str, value: str) -> None:
    output.say(f"  {name:<14} {value}")


def _ago(age: dt.timedelta) -> str:
    return f"{span(age)} ago"
