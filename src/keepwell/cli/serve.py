"""`keepwell serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.service_common import Receive, Site, end, service
from keepwell.cli.session import Session


def run(
    ctx: typer.Context,
    listen: Annotated[
        str | None,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="Also answer /metrics, /healthz and /readyz there (127.0.0.1:9478)."
        ),
    ] = None,
    site: Site = None,
    receive: Receive = True,
) -> None:
    """Do everything that the policy wants done by itself: backups, proofs, prune, checks, copies, drills, and the watch.

    Runs in the foreground until it is stopped (Ctrl-C, SIGTERM); what was running is then done again at the next start.
    SIGHUP reads the policy again. With `engine` in the policy several machines share the work: see keepwell worker.
    """
    session: Session = ctx.obj
    end(service(session, site=site, watch=True, listen=listen, receive=receive))
