"""`keepwell prune`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.clock import iso
from keepwell.core.errors import UsageError
from keepwell.core.units import show_size

if TYPE_CHECKING:
    from keepwell.operations.prune import PruneResult
    from keepwell.vault.walprune import LogPruned


def run(
    ctx: typer.Context,
    environment: Annotated[
        str | None, typer.Argument(metavar="[ENVIRONMENT]", help="Only this one's backups.  [default: all]")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would go, and what could no longer be restored.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Bring back what earlier prunes took out and did not delete yet.")
    ] = False,
) -> None:
    """Delete backups that the policy no longer keeps, by its `keep` rules.

    They leave the list at once and are deleted after the grace time ([vault] grace), by the next prune; until then
    --undo brings them back. The newest proven backup of an environment is never deleted. Safe beside running backups.
    """
    session: Session = ctx.obj
    if undo:
        if dry_run or environment:
            raise UsageError("--undo brings everything back that it can; it takes nothing else", hint="Leave it out.")
        _undo(session)
        return
    from keepwell.operations.prune import PruneRequest, prune
    from keepwell.watch.runs import watched

    loaded = session.load()
    with session.context() as context, watched(loaded, context, "prune", environment, recording=not dry_run):
        result = prune(loaded, PruneRequest(environment, dry_run), context)
    session.output.document(result.json())
    _tell(session.output, result)


def _undo(session: Session) -> None:
    from keepwell.operations.prune import undo

    result = undo(session.load())
    session.output.document(result.json())
    for backup in result.back:
        session.output.say(f"  {backup}")
    back = len(result.back)
    session.output.done(f"Back in the list: {many(back, 'backup')}." if back else "There was nothing to bring back.")


def _tell(output: Output, result: PruneResult) -> None:
    report = result.report
    if result.removed:
        output.say("Would be removed:" if result.dry_run else "Removed from the list:")
        output.table(
            ["  BACKUP", "TIER", "PROVEN", "WHY"],
            [
                [f"  {d.backup.id}", d.backup.tier, "proven" if d.backup.proven else "-", d.reason]
                for d in result.removed
            ],
        )
    could = "could" if result.dry_run else "can"
    for loss in result.losses:
        if loss.oldest_after is None:
            output.warn(f"nothing of {loss.environment} {could} be restored any more")
        elif loss.oldest_after > loss.oldest_before:
            output.say(f"  {loss.environment}: nothing before {iso(loss.oldest_after)} {could} be restored any more.")
        for source in loss.sources:
            output.warn(
                f"source {source} of {loss.environment} {could} not be restored any more: no backup left has it"
            )
    for log in result.log:
        _tell_log(output, log, could, "would go" if result.dry_run else "is gone")
    for backup in report.abandoned:
        output.say(f"  {backup}  (never finished: its leftovers go)")
    log_goes = any(log.parts for log in result.log)
    if not (result.removed or report.abandoned or report.packs or result.deleted or report.deleted_packs or log_goes):
        output.done(f"Nothing to remove: the policy keeps {many(len(result.kept), 'backup')}.")
        return
    output.done(f"What stays: {many(len(result.kept), 'backup')}.")
    freed = f"{many(report.packs, 'pack')} with {show_size(report.bytes - report.moved)} that no backup needs"
    if result.dry_run:
        output.done(f"{freed} would be deleted {span(result.grace)} later.")
        output.done("Nothing was changed.")
        return
    if result.removed or report.packs:
        output.done(f"{freed}; a prune after {span(result.grace)} deletes it for good.")
        output.done("Bring it back before that: keepwell prune --undo")
    if result.deleted or report.deleted_packs:
        output.done(
            f"Deleted for good: {many(len(result.deleted), 'backup')}, {many(report.deleted_packs, 'pack')}, "
            f"{show_size(report.deleted_bytes)}."
        )


def _tell_log(output: Output, log: LogPruned, could: str, goes: str) -> None:
    place = f"{log.environment}/{log.source}"
    for lost in log.lost:
        end = f"to {iso(lost.end)}" if lost.end else "on to the end of that log"
        output.say(
            f"  {place}: from {iso(lost.begin)} {end} recovery {could} no longer go to any moment, only to the ends of "
            "backups that stay."
        )
    if log.parts:
        output.done(f"{place}: log of {show_size(log.bytes)} in {many(log.parts, 'object')} that nothing needs {goes}.")
