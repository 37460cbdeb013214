"""`keepwell watch`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Annotated

import typer

from keepwell.cli.alerts_common import document, tell
from keepwell.cli.session import STOPPED, Session
from keepwell.core.clock import iso
from keepwell.core.errors import UsageError

if TYPE_CHECKING:
    from keepwell.watch.look import Look

_EVERY = 60


def run(
    ctx: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="One look, then end: for cron and timers.")] = False,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Also answer /metrics, /healthz and /readyz there (127.0.0.1:9478)."
        ),
    ] = None,
) -> int:
    """Look whether all is well, and tell people where it is not: every minute, or once.

    keepwell serve does this too. Exits 3 when somebody could not be told; what is wrong with backups is in the answer.
    """
    from keepwell.watch.look import Watcher

    if once and listen:
        raise UsageError("--once ends before anybody could ask --listen", hint="Leave one out.")
    session: Session = ctx.obj
    watcher = Watcher(session.load())
    with session.context() as context, contextlib.ExitStack() as stack:
        if not once and listen is not None:
            from keepwell.watch.endpoint import Endpoint, address_of

            endpoint = stack.enter_context(Endpoint(address_of(listen)))
        else:
            endpoint = None
        while True:
            look = watcher.look(context, steady=not once)
            if endpoint is not None:
                endpoint.show(look)
            if once:
                break
            _narrate(session, look)
            STOPPED.wait(_EVERY)
    failed = [f"{d.channel}: {d.error}" for d in look.deliveries if d.error] + list(look.problems)
    session.output.document(
        {
            "time": iso(look.seen.now),
            "alerts": [document(alert) for alert in look.open],
            "told": [{"kind": event.kind, "alert": event.alert.key} for event in look.events],
            "sent": [{"channel": d.channel, "title": d.title, "error": d.error or None} for d in look.deliveries],
            "problems": list(look.problems),
        }
    )
    tell(session.output, look.open, look.seen.now)
    if not look.open:
        session.output.done("All is well.")
    for problem in failed:
        session.output.warn(problem)
    return 3 if failed else 0


def _narrate(session: Session, look: Look) -> None:
    for event in look.events:
        session.output.story(f"{iso(look.seen.now)}  {event.kind}: {event.alert.text}")
    for delivery in look.deliveries:
        if delivery.error:
            session.output.warn(delivery.error)
    for problem in look.problems:
        session.output.warn(problem)
