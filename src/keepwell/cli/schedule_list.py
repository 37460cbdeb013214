"""`keepwell schedule list`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session


def run(
    ctx: typer.Context,
    site: Annotated[
        list[str] | None, typer.Option("--site", metavar="NAME", help="Only environments of this site. Repeatable.")
    ] = None,
) -> None:
    """What runs next, and when: every schedule of the policy, the soonest first.

    `keepwell serve` does it, or what `keepwell schedule export` writes.
    """
    from keepwell.core.clock import SystemClock
    from keepwell.engine.agenda import agenda, by_hand
    from keepwell.engine.export import the_sites
    from keepwell.policy.schedule import zone

    session: Session = ctx.obj
    output, policy = session.output, session.load().policy
    found = agenda(policy, SystemClock().now(), the_sites(policy, site or ()))
    output.document([entry.json() for entry in found])
    rows = []
    for entry in found:
        if entry.plan is None or entry.begins is None:
            rows.append([entry.kind, entry.target or "-", "after each backup", "-", "-", "-"])
            continue
        local = entry.begins.astimezone(zone(entry.plan.timezone))
        rows.append(
            [
                entry.kind,
                entry.target or "-",
                f"{local:%a %Y-%m-%d %H:%M:%S}",
                entry.plan.timezone,
                entry.plan.cron,
                entry.plan.site or "-",
            ]
        )
    if rows:
        output.table(["RUN", "OF", "NEXT", "TIME ZONE", "SCHEDULE", "SITE"], rows)
    else:
        output.say("Nothing is scheduled: no environment has a `schedule`.")
    for name in by_hand(policy) if not site else ():
        output.done(f"{name} has no schedule: by hand, keepwell backup {name}")
