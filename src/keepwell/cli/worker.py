"""`keepwell worker`."""

from __future__ import annotations

import typer

from keepwell.cli.service_common import Receive, Site, end, service
from keepwell.cli.session import Session


def run(ctx: typer.Context, site: Site = None, receive: Receive = True) -> None:
    """Do runs of a site, one of several machines that share the work of one policy.

    Needs `engine` in the policy: a PostgreSQL database that all machines reach. A worker that dies is noticed by the
    others of its site, and its runs are taken over. One machine should run keepwell serve, which also watches.
    """
    session: Session = ctx.obj
    end(service(session, site=site, watch=False, listen=None, receive=receive))
