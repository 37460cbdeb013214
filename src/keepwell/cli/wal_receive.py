"""`keepwell wal receive`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import many, span
from keepwell.core.errors import UsageError
from keepwell.core.units import show_size
from keepwell.core.wal import parse_lsn, show_lsn

if TYPE_CHECKING:
    from keepwell.core.streams import Context


def run(
    ctx: typer.Context,
    source: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which source's log; needed where there are several.")
    ] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment of the source, where several have it.")
    ] = None,
    once: Annotated[
        bool, typer.Option("--once", help="End when everything is stored that the server has now.")
    ] = False,
    until: Annotated[
        str | None, typer.Option("--until-lsn", metavar="LSN", help="End when the log up to this position is stored.")
    ] = None,
    every: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Store the beginning of a segment at least this often.")
    ] = 10.0,
    accept_gap: Annotated[
        bool, typer.Option("--accept-gap", help="Go on where the server no longer has log that the vault lacks.")
    ] = False,
) -> None:
    """Receive the log as the server writes it, so that seconds of data are at risk and not a segment.

    Runs until it is stopped (Ctrl-C, SIGTERM). Uses a replication slot, which makes the server keep its log until the vault has it,
    through restarts, failovers and times when the store does not answer.
    """
    from keepwell.operations.record import recorded
    from keepwell.operations.wal_receive import ReceiveRequest, receive

    session: Session = ctx.obj
    request = ReceiveRequest(source, environment, once, _position(until), accept_gap, every)
    loaded = session.load()
    with session.context() as context:
        if not (once or until or sys.stderr.isatty()):
            _log_lines(context)
        # What arrives late is lost with the server: an audit log that takes no entry must not stop it.
        with recorded(loaded, context, "wal receive", environment, strict=False, log=False) as record:
            result = receive(loaded, request, context)
            record.ended("done", details={"source": result.source, "position": show_lsn(result.received.position)})
    session.output.document(result.json())
    received = result.received
    session.output.done(
        f"{show_size(received.bytes)} of log of {result.environment}/{result.source} stored in {span(received.seconds)}, up to "
        f"{show_lsn(received.position)} of timeline {received.timeline}."
    )
    if received.gaps:
        session.output.warn(f"{many(len(received.gaps), 'gap')} in the log: `keepwell wal status` shows them.")


def _log_lines(context: Context) -> None:
    """For a service: what goes on as lines of JSON, each with its time."""
    from keepwell.core import logs

    logs.configure()
    context.progress = logs.Logged(logs.get("wal"))


def _position(text: str | None) -> int | None:
    try:
        return None if text is None else parse_lsn(text)
    except ValueError as error:
        raise UsageError(str(error)) from None
