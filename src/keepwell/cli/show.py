"""`keepwell show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import span
from keepwell.core.clock import iso
from keepwell.core.units import show_size

if TYPE_CHECKING:
    from keepwell.core.streams import Json
    from keepwell.operations.listing import Shown, ShownDamaged


def run(ctx: typer.Context, backup: Annotated[str, typer.Argument(metavar="BACKUP")]) -> int:
    """What is in one backup: sources, tables and rows, sizes, proofs.

    With a writer key only what metadata.json says: the rest is sealed. Exits 1 when the backup is damaged.
    """
    from keepwell.core.progress import Silent
    from keepwell.operations.listing import ShownDamaged, show

    session: Session = ctx.obj
    silent = Silent()
    shown = show(session.load(), backup, silent)
    for text in silent.warnings:
        session.output.warn(text)
    session.output.document(shown.json())
    if isinstance(shown, ShownDamaged):
        _print_damaged(session.output, shown)
        return 1
    _print(session.output, shown)
    return 0


def _print_damaged(output: Output, shown: ShownDamaged) -> None:
    line = shown.line
    output.say(output.style(line.backup, "bold"))
    facts = [("taken", line.time), ("tier", line.tier), ("status", "damaged"), ("damage", line.damage)]
    _pairs(output, facts + [("object", name) for name in shown.objects])
    output.fail(
        f"{line.backup} is damaged and cannot be restored from here",
        f"Put metadata.json back from a copy of the vault, or use another backup: keepwell list {line.environment}",
    )


def _print(output: Output, shown: Shown) -> None:
    line, document = shown.line, shown.document
    output.say(output.style(line.backup, "bold"))
    sizes = document["bytes"]
    facts = [
        ("taken", f"{line.time} on {document['host']}, in {span(float(document['seconds']))}"),
        ("tier", line.tier),
        ("status", line.status),
        ("size", f"{show_size(sizes['read'])} read, {show_size(sizes['stored'])} stored"),
        ("proven", "yes" if line.proven else f"no; `keepwell verify {line.backup}` restores it and compares"),
    ]
    facts += [("portable", name) for name in shown.extras]
    _pairs(output, facts)
    for name, source in shown.sources.items():
        output.say()
        output.say(output.style(f"{name}  ({source.get('type') or 'unknown'})", "bold"))
        _source(output, source)
    if shown.role == "writer":
        output.say()
        output.say("Tables and streams are sealed: this is a writer key. Use a reader key to see them.")
    if shown.proofs:
        output.say()
        output.table(
            ["PROOF", "LEVEL", "RESULT", ""],
            [
                [iso(p.time), p.level, "passed" if p.passed else "damaged" if p.unreadable else "FAILED", p.summary]
                for p in shown.proofs
            ],
        )


def _source(output: Output, source: dict[str, Json]) -> None:
    if source["status"] != "complete":
        _pairs(output, [("status", f"{source['status']}: {source.get('error') or 'no reason recorded'}")])
        return
    facts = [("size", show_size(source["bytes"]))]
    names = ("database", "version", "files", "folders", "refs", "objects")
    facts += [(key, str(source[key])) for key in names if source.get(key)]
    facts += [("warning", text) for text in source.get("warnings", [])]
    _pairs(output, facts)
    tables = source.get("tables")
    if tables:
        output.table(
            ["  TABLE", "ROWS"], [[f"  {name}", f"{of['rows']:,}"] for name, of in sorted(tables.items())], right=(1,)
        )


def _pairs(output: Output, pairs: list[tuple[str, str]]) -> None:
    for name, value in pairs:
        output.say(f"  {name:<9} {value}")
