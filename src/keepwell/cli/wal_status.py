"""`keepwell wal status`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.units import show_size
from keepwell.core.wal import show_lsn

if TYPE_CHECKING:
    from keepwell.operations.wal_status import ClusterLog, SourceLog


def run(
    ctx: typer.Context,
    source: Annotated[str | None, typer.Option(metavar="NAME", help="Only this source.  [default: all]")] = None,
    environment: Annotated[str | None, typer.Option(metavar="NAME", help="Only this environment.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask only the vault, not the servers.")] = False,
) -> None:
    """To which moments recovery is possible, gaps in the log, and how far behind the vault is.

    Always exits 0: what is wrong is in the answer (`problems` with --json).
    """
    from keepwell.operations.wal_status import StatusRequest, wal_status

    session: Session = ctx.obj
    with session.context() as context:
        found = wal_status(session.load(), StatusRequest(source, environment, not offline), context)
    session.output.document([entry.json() for entry in found])
    for number, entry in enumerate(found):
        if number:
            session.output.say()
        _tell(session.output, entry)


def _tell(output: Output, entry: SourceLog) -> None:
    word, style = ("look at this", "yellow") if entry.problems else ("well", "green")
    output.say(f"{output.style(f'{entry.environment}/{entry.source}', 'bold')}  {output.style(word, style)}")
    for cluster in entry.clusters:
        _cluster(output, cluster, several=len(entry.clusters) > 1)
    if entry.behind_bytes is not None:
        seconds = entry.behind_seconds
        since = f", {span(seconds)} since log came last" if seconds else ""
        _line(output, "behind", f"{show_size(entry.behind_bytes)}{since}")
    elif entry.behind_seconds is not None:
        _line(output, "log came last", f"{span(entry.behind_seconds)} ago")
    if entry.slot is not None and entry.slot.exists:
        kept = f"{show_size(entry.slot.lag)} kept by the server" if entry.slot.lag is not None else "keeps nothing"
        _line(output, "slot", f"{entry.slot.name}  {kept}, {entry.slot.wal_status or 'no state'}")
    for problem in entry.problems:
        output.say(f"  {output.style('→', style)} {problem}")


def _cluster(output: Output, cluster: ClusterLog, *, several: bool) -> None:
    if several:
        output.say(f"  cluster {cluster.system}")
    from keepwell.operations.moments import show_time

    for window in cluster.windows:
        _line(output, "recoverable", f"{show_time(window.begin)} to {show_time(window.end)}")
        ends = f"{show_lsn(window.begin_lsn)} to {show_lsn(window.end_lsn)}, timeline {window.timeline}"
        _line(output, "", f"{ends}, from {many(len(window.backups), 'backup')}")
    if not cluster.windows:
        _line(output, "recoverable", "nothing")
    for timeline, start, end in cluster.timelines:
        _line(output, "log", f"{show_lsn(start)} to {show_lsn(end)}, timeline {timeline}")
    _line(output, "stored", f"{show_size(cluster.stored)} in {many(cluster.parts, 'object')}")


def _line(output: Output, name: str, value: str) -> None:
    output.say(f"  {name:<14} {value}")
