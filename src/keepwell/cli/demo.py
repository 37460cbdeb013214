"""`keepwell demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import span
from keepwell.core.units import show_size

if TYPE_CHECKING:
    from keepwell.demo.story import DemoResult


def run(
    ctx: typer.Context,
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Size of the sample database, about.")] = 20_000,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="A new folder.  [default: keepwell-demo here]")
    ] = None,
) -> None:
    """See the whole story on a sample database: backed up, changed, proven, destroyed, brought back bit for bit.

    Needs no server, account or root. The folder stays, to be explored.
    """
    from keepwell.demo.story import DemoRequest, run

    session: Session = ctx.obj
    with session.context(narrate=True) as context:
        result = run(DemoRequest(to or _free_folder(), rows), context)
    session.output.document(result.json())
    _tell(session.output, result)


def _equal_tables(proof: dict[str, Any]) -> str:
    tables = [table for source in proof["sources"].values() for table in source["tables"].values()]
    return f"{sum(table['equal'] is True for table in tables)} of {len(tables)}"


def _free_folder() -> Path:
    """`keepwell-demo`, or with a number where an earlier demo is."""
    number, folder = 2, Path("keepwell-demo")
    while os.path.lexists(folder):
        number, folder = number + 1, Path(f"keepwell-demo-{number}")
    return folder


def _tell(output: Output, result: DemoResult) -> None:
    if output.quiet:
        return
    output.say()
    output.table(
        ["BACKUP", "READ", "STORED", "TOOK"],
        [
            [
                backup["backup"],
                show_size(backup["bytes"]["read"]),
                show_size(backup["bytes"]["stored"]),
                span(float(backup["seconds"])),
            ]
            for backup in result.backups
        ],
        right=(1, 2, 3),
    )
    output.say()
    output.table(
        ["PROOF", "LEVEL", "TABLES EQUAL", "PASSED"],
        [
            [environment, proof["level"], _equal_tables(proof), "yes" if proof["passed"] else "NO"]
            for environment, proof in result.proof.items()
        ],
    )
    output.say()
    output.table(
        ["BROUGHT BACK", "ROWS OR FILES", "EQUAL"],
        [[name, f"{of['rows']:,}", "yes" if of["equal"] else "NO"] for name, of in result.restored.items()],
        right=(1,),
    )
    output.say()
    output.say(f"Recovered in {span(result.recovery_seconds)}; the whole story took {span(result.seconds)}.")
    output.say("Explore it:")
    output.say(f"  cd {result.folder}")
    output.say("  keepwell list")
    output.say("  keepwell status")
    output.say("  keepwell show production@latest")
    output.say("  keepwell restore production@latest --source uploads --to restored-uploads")
