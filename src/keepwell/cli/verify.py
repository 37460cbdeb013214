"""`keepwell verify`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import span
from keepwell.core.errors import ProofFailed, UsageError

LEVELS = ("objects", "restore", "round-trip", "checks")


def run(
    ctx: typer.Context,
    backup: Annotated[str, typer.Argument(metavar="BACKUP")],
    level: Annotated[
        str | None,
        typer.Option(
            metavar="LEVEL",
            help="objects, restore, round-trip or checks; each with those before it.  [default: as the policy says]",
        ),
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this source. Repeatable.  [default: all]")
    ] = None,
) -> int:
    """Restore a backup into a sandbox and compare: the proof.

    The result is kept in the vault, passed or failed. Exits 4 when the proof fails, and says which table, file or
    check it was.
    """
    if level is not None and level not in LEVELS:
        raise UsageError(f"there is no level {level!r}", hint=f"Levels are: {', '.join(LEVELS)}.")
    from keepwell.operations.verify import VerifyRequest, verify
    from keepwell.watch.runs import ending_of_verify, watched

    session: Session = ctx.obj
    loaded, environment = session.load(), backup.partition("@")[0].partition("/")[0]
    with session.context() as context, watched(loaded, context, "verify", environment) as run:
        result = verify(loaded, VerifyRequest(backup, level, tuple(source or ())), context)
        run.ended(ending_of_verify(result))
    document = result.json()
    session.output.document(document)
    _tell(session.output, document)
    return 0 if document["passed"] else ProofFailed.exit_code


def _tell(output: Output, document: dict[str, Any]) -> None:
    for name, source in document["sources"].items():
        tables, checks = source["tables"], source["checks"]
        facts = [_tables(tables)] if tables else []
        if reached := source.get("recovery", {}).get("reached"):
            at = f" (last transaction {reached['time']})" if reached["time"] else ""
            facts.append(f"recovered to {reached['lsn']}{at}")
        if checks:
            facts.append(f"{sum(1 for check in checks if check['passed']):,} of {len(checks):,} checks passed")
        if source["passed"]:
            output.done(f"  {output.style('✓', 'green')} {name}  {', '.join(facts)}".rstrip())
        else:
            output.say(f"  {output.style('✗', 'red')} {name}  {', '.join(facts)}".rstrip())
            for finding in source["findings"]:
                output.say(f"      {finding['what']}: {finding['problem']}")
        for text in source["warnings"]:
            output.warn(f"{name}: {text}")
    took = span(float(document["seconds"]["total"]))
    if document["proven"]:
        output.done(f"Proven: {output.style(document['backup'], 'bold')} at level {document['level']}, in {took}.")
    elif document["passed"]:
        output.done(f"Passed: {output.style(document['backup'], 'bold')} at level {document['level']}, in {took}.")
        output.done("  It does not count as proven: that takes all sources of a complete backup, restored.")
    else:
        output.fail(
            f"the proof of {document['backup']} failed at level {document['level']}",
            "Do not rely on this backup. Take a new one and verify it; `keepwell check` tells whether the vault is "
            "damaged.",
        )


def _tables(tables: dict[str, Any]) -> str:
    if all(table.get("equal") is None for table in tables.values()):
        return f"{len(tables):,} tables counted"
    equal = sum(1 for table in tables.values() if table.get("equal"))
    return f"{equal:,} of {len(tables):,} tables equal"
