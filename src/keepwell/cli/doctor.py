"""`keepwell doctor`."""

from __future__ import annotations

import typer

from keepwell.cli.session import Session
from keepwell.core.errors import PolicyError

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


def run(ctx: typer.Context) -> int:
    """Look at programs, versions, rights, store, keys, clock and space; say what to mend.

    Exits 1 when something would make a backup, a proof or a restore fail. Changes nothing, apart from a small object
    that it writes into the store and deletes again.
    """
    from keepwell.operations.doctor import Diagnosis, doctor

    session: Session = ctx.obj
    output = session.output
    found: list[Diagnosis] = []
    loaded = None
    try:
        loaded = session.load()
    except PolicyError as error:
        found.append(Diagnosis("policy", "fail", error.message, error.hint))
    with session.context() as context:
        found += doctor(loaded, context)
    healthy = all(entry.state != "fail" for entry in found)
    output.document({"healthy": healthy, "diagnoses": [entry.json() for entry in found]})
    for entry in found:
        mark, style = _MARKS[entry.state]
        if entry.state == "ok" and output.quiet:
            continue
        output.say(f"{output.style(mark, style)} {entry.area}: {entry.what}")
        if entry.mend:
            output.say(f"    → {entry.mend}")
    failures = sum(entry.state == "fail" for entry in found)
    warnings = sum(entry.state == "warn" for entry in found)
    output.done("")
    if healthy:
        output.done("All is well." if not warnings else f"Fit for work; {warnings} to look at.")
        return 0
    output.say(f"{failures} to mend" + (f", {warnings} to look at" if warnings else "") + ".")
    return 1
