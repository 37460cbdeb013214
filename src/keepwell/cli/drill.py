"""`keepwell drill`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import span
from keepwell.core.errors import ProofFailed

_WARNINGS = 3


def run(
    ctx: typer.Context,
    environment: Annotated[str, typer.Argument(metavar="ENVIRONMENT")],
    backup: Annotated[
        str | None,
        typer.Option(metavar="BACKUP", help="An id, or latest.  [default: the newest that is proven]"),
    ] = None,
) -> int:
    """Rehearse the recovery of an environment, timed against its objectives.

    As on a new machine, into sandboxes; nothing that runs is touched. The result is kept in the vault. Exits 4 when
    the data are not what they were or a maximum (rto_max, rpo_max) was missed, 3 when only a target was.
    """
    from keepwell.operations.drill import DrillRequest, drill
    from keepwell.watch.answers import record
    from keepwell.watch.runs import ending_of_drill, watched

    session: Session = ctx.obj
    loaded = session.load()
    loaded.environment(environment)
    with session.context() as context, watched(loaded, context, "drill", environment) as run:
        result = drill(loaded, DrillRequest(environment, backup), context)
        run.ended(ending_of_drill(result))
        if result.passed:
            record(loaded, context, "drill", environment)
    output = session.output
    output.document(result.json())
    for phase, seconds in result.took.items():
        output.done(f"  {phase:<9} {span(seconds)}")
    output.done(f"Recovered {output.style(result.proof.backup, 'bold')} in {span(result.recovery.total_seconds())}.")
    output.done(f"  Lost would have been what came in the {span(result.at_risk.total_seconds())} before the drill.")
    for text in result.misses:
        output.warn(f"{text}: a target was missed")
    if not result.passed:
        output.fail(
            f"the drill of {environment} failed: {'; '.join(result.failures)}",
            "Mend it before the day comes: a faster store or machine, more frequent backups, or other objectives.",
        )
        return ProofFailed.exit_code
    return _WARNINGS if result.misses else 0
