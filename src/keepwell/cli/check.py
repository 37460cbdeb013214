"""`keepwell check`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.errors import UsageError
from keepwell.core.units import show_size

_DEPTH = {
    "structure": "the structure",
    "checksums": "the structure, and the checksums of packs (a writer key cannot look inside)",
    "bytes": "the structure, and bytes down to every piece",
}


def run(
    ctx: typer.Context,
    data: Annotated[bool, typer.Option("--data", help="Read every byte, not only the structure.")] = False,
    share: Annotated[
        str | None,
        typer.Option(metavar="1/N", help="Read one N-th of the bytes, another one each time: all within N runs."),
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Put what is missing or altered back from the copies, and look again.")
    ] = False,
) -> int:
    """Read the vault: is all of it there and unharmed?

    Names every object that is missing, altered or cut short, and the backups that cannot be restored whole.
    Exits 1 when anything is wrong.
    """
    parts = _parts(share)
    if data and parts:
        raise UsageError("--data reads everything, --share a part: both at once make no sense", hint="Leave one out.")
    from keepwell.operations.check import CheckRequest, check
    from keepwell.watch.runs import ending_of_check, watched

    session: Session = ctx.obj
    output, loaded = session.output, session.load()
    with session.context() as context, watched(loaded, context, "check") as run:
        result = check(loaded, CheckRequest(data=data, share=parts, repair=repair), context)
        run.ended(ending_of_check(result))
    output.document(result.json())
    report = result.report
    if result.repair is not None:
        for mended, where in result.repair.repaired.items():
            output.done(f"{mended} was put back from {where}")
        for left, reason in result.repair.left.items():
            output.say(f"{left} could not be put back: {reason}")
    for finding in report.findings:
        output.fail(f"{finding.what} {finding.problem}")
    for note in report.notes:
        output.note(note)
    read = f", {show_size(report.bytes_read)} read" if report.bytes_read else ""
    looked = f"{many(report.backups, 'backup')}, {many(report.packs, 'pack')}, {many(report.objects, 'object')}{read}"
    if result.passed:
        part = f" (part {report.share})" if report.share else ""
        output.done(f"The vault is whole: {looked}, in {span(result.seconds)}.")
        output.done(f"  Looked at {_DEPTH.get(report.depth, report.depth)}{part}.")
        return 0
    if result.affected:
        output.say("These backups cannot be restored whole:")
        for backup in result.affected:
            output.say(f"  {backup}")
    output.say(f"{many(len(report.findings), 'finding')} in {looked}.")
    output.say(
        "  → All other backups are safe. Put what is lost back from a copy of the vault, and take a new backup now."
    )
    return 1


def _parts(share: str | None) -> int | None:
    if share is None:
        return None
    one, slash, parts = share.partition("/")
    if one != "1" or not slash or not parts.isdecimal() or not 1 <= int(parts) <= 100_000:
        raise UsageError(f"--share {share!r} is not a share", hint="Write for example --share 1/30.")
    return int(parts)
