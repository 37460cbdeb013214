"""`keepwell schedule export`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from keepwell.cli.session import Session
from keepwell.cli.words import many
from keepwell.core.errors import UsageError


def run(
    ctx: typer.Context,
    systemd: Annotated[bool, typer.Option("--systemd", help="Pairs of a service and a timer.")] = False,
    cron: Annotated[bool, typer.Option("--cron", help="A file for /etc/cron.d.")] = False,
    kubernetes: Annotated[bool, typer.Option("--kubernetes", help="CronJobs, and what they need.")] = False,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Into this folder, over earlier exports.  [default: standard output]"),
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option("--site", metavar="NAME", help="Only environments of this site. Repeatable.")
    ] = None,
    user: Annotated[str, typer.Option(metavar="NAME", help="Who runs it (systemd, cron).")] = "keepwell",
    secrets: Annotated[
        str, typer.Option(metavar="FILE", help="What sets the variables that the policy refers to (systemd, cron).")
    ] = "/etc/keepwell/environment",
    image: Annotated[str, typer.Option(metavar="NAME", help="The container image (Kubernetes).")] = "keepwell",
    prefix: Annotated[
        str, typer.Option(metavar="NAME", help="Begins the names: another one for a second policy.")
    ] = "keepwell",
) -> None:
    r"""Write the schedules for systemd, cron or Kubernetes, for those who want no daemon.

    \b
    keepwell schedule export --systemd --to /etc/systemd/system
    systemctl daemon-reload
    systemctl enable --now keepwell-backup-production.timer

    What a scheduler does otherwise than keepwell serve is said here and in the files.
    """
    from keepwell.core.clock import SystemClock
    from keepwell.engine import export_cron, export_kubernetes, export_systemd
    from keepwell.engine.export import Place, put, the_sites

    session: Session = ctx.obj
    writers = {"systemd": export_systemd, "cron": export_cron, "kubernetes": export_kubernetes}
    chosen = [name for name, given in (("systemd", systemd), ("cron", cron), ("kubernetes", kubernetes)) if given]
    if len(chosen) != 1:
        raise UsageError("which scheduler?", hint="Give one of --systemd, --cron and --kubernetes.")
    loaded = session.load()
    place = Place(_program(), user, secrets, image, prefix, the_sites(loaded.policy, site or ()))
    place.check()
    found = writers[chosen[0]].export(loaded, place, SystemClock().now())
    output = session.output
    stale = put(found, to, prefix) if to is not None else []
    output.document(found.json() | {"folder": str(to) if to is not None else None, "stale": stale})
    if to is None:
        for name, text in found.files.items():
            if len(found.files) > 1:
                output.say(f"# ---- {name}")
            output.say(text)
    else:
        output.done(f"Wrote {many(len(found.files), 'file')} to {to}.")
    for text in found.cannot:
        output.remind(text)
    for name in stale:
        output.warn(f"{name} is of an earlier export and no longer in the policy: disable and delete it")


def _program() -> str:
    """The program as another one finds it."""
    beside = Path(sys.executable).with_name("keepwell")
    return str(beside) if beside.is_file() else shutil.which("keepwell") or "/usr/bin/keepwell"
