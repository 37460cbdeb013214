"""`keepwell backup`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.errors import UsageError
from keepwell.core.units import show_size

if TYPE_CHECKING:
    from keepwell.policy.load import LoadedPolicy

INCOMPLETE = 3


def run(
    ctx: typer.Context,
    environment: Annotated[
        str | None, typer.Argument(metavar="[ENVIRONMENT]", help="May be left out where the policy has only one.")
    ] = None,
    source: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this source. Repeatable.  [default: all]")
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(metavar="TIER", help="daily, weekly, monthly or manual.  [default: the highest that is due]"),
    ] = None,
) -> int:
    """Take a backup of an environment: all of its sources as one recovery point.

    Exits 3 when a source failed and the others are safe: the backup is kept, marked incomplete, and never counts as
    proven.
    """
    from keepwell.operations.backup import BackupRequest, backup
    from keepwell.watch.runs import ending_of_backup, watched

    session: Session = ctx.obj
    loaded = session.load()
    request = BackupRequest(the_environment(loaded, environment), tier, tuple(source or ()))
    with session.context() as context, watched(loaded, context, "backup", request.environment) as run:
        result = backup(loaded, request, context)
        run.ended(ending_of_backup(result))
    document = result.json()
    session.output.document(document)
    _tell(session.output, document)
    return 0 if result.clean else INCOMPLETE


def the_environment(loaded: LoadedPolicy, given: str | None) -> str:
    """The one that is meant. Raises UsageError."""
    if given is not None:
        loaded.environment(given)
        return given
    known = list(loaded.policy.environments)
    if len(known) != 1:
        raise UsageError("the policy has several environments", hint=f"Name one of: {', '.join(known)}.")
    return known[0]


def _tell(output: Output, document: dict[str, Any]) -> None:
    rows = []
    for name, source in document["sources"].items():
        tables = source.get("tables") or {}
        lines = sum(table["rows"] for table in tables.values())
        what = f"{many(len(tables), 'table')}, {many(lines, 'row')}" if tables else ""
        if source["status"] == "failed":
            what = str(source["error"])
        elif source["status"] == "skipped":
            what = "not asked for"
        rows.append([f"  {name}", source["status"], show_size(source["bytes"]), what])
        for text in source.get("warnings", []):
            output.warn(f"{name}: {text}")
    sizes = document["bytes"]
    failed = any(source["status"] == "failed" for source in document["sources"].values())
    for text in document["warnings"]:
        output.warn(text)
    if failed:
        output.warn(f"{document['backup']} is incomplete: a source failed. The others are safe.")
    else:
        output.done(f"Backed up {output.style(document['backup'], 'bold')} ({document['tier']}).")
    if not output.quiet:
        output.table(["  SOURCE", "STATUS", "SIZE", ""], rows, right=(2,))
    output.done(
        f"  {show_size(sizes['read'])} read, {show_size(sizes['new'])} new, {show_size(sizes['stored'])} stored, "
        f"in {span(float(document['seconds']))}"
    )
    if document["status"] == "complete":
        output.done(f"Prove it: keepwell verify {document['backup']}")
    elif failed:
        output.remind("  → Mend what failed and back up again: an incomplete backup never counts as proven.")
    else:
        output.done("It is only a part of the environment, marked incomplete: it never counts as proven.")
