"""`keepwell status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import span
from keepwell.core.clock import iso

if TYPE_CHECKING:
    import datetime as dt

    from keepwell.operations.status import EnvironmentStatus

_WORDS = {"ok": ("well", "green"), "warn": ("look at this", "yellow"), "fail": ("NOT WELL", "red")}


def run(ctx: typer.Context) -> None:
    """The newest proven backup of each environment, not only the newest; and both against the objectives.

    Always exits 0: what is wrong is in the answer (`state` with --json).
    """
    from keepwell.operations.status import status

    session: Session = ctx.obj
    with session.context() as context:
        found = status(session.load(), context)
    session.output.document([entry.json() for entry in found])
    for number, entry in enumerate(found):
        if number:
            session.output.say()
        _tell(session.output, entry)


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
