"""What `serve` and `worker` have in common: signals, log lines, and the way they end."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from keepwell.cli.session import STOPPED, Session
from keepwell.core.errors import UsageError
from keepwell.policy.values import nearest

if TYPE_CHECKING:
    from keepwell.engine.service import Duty, Service, Signals
    from keepwell.policy.load import LoadedPolicy

Site: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--site", metavar="NAME", help="Only the runs of environments of this site. Repeatable."),
]

Receive: TypeAlias = Annotated[
    bool, typer.Option("--receive/--no-receive", help="Receive the log of physical sources that say pitr or slot.")
]


def service(session: Session, *, site: list[str] | None, watch: bool, listen: str | None, receive: bool) -> Service:
    """Raises UsageError, PolicyError."""
    import platformdirs

    from keepwell.core import logs
    from keepwell.core.streams import Context
    from keepwell.engine.service import Service

    # The policy and a relative path in it are the same after a reload, wherever the process was started.
    loaded = session.load()
    duty = _duty(loaded, site, watch=watch, listen=listen, receive=receive)
    logs.configure()
    context = Context(
        jobs=max(2, min(4, os.cpu_count() or 2)),
        cancelled=STOPPED.is_set,
        cache=platformdirs.user_cache_path("keepwell"),
    )
    found = Service(session.load, duty, context, _signals())
    if not watch and loaded.policy.engine is None:
        raise UsageError(
            "a worker shares the work with others, and the policy has no database for that",
            hint="Add `engine` to the policy (docs/how-to/fleet.md), or run `keepwell serve` on this machine alone.",
        )
    return found


def end(service: Service) -> None:
    """Runs it. Where something did not end in time, the process ends all the same: what is left open is done again."""
    if service.run():
        return
    import psutil  # type: ignore[import-untyped]  # it has no types

    for child in psutil.Process().children(recursive=True):
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _duty(loaded: LoadedPolicy, site: list[str] | None, *, watch: bool, listen: str | None, receive: bool) -> Duty:
    from keepwell.engine.service import Duty
    from keepwell.watch.endpoint import address_of

    names = sorted({table.site for table in loaded.policy.environments.values() if table.site is not None})
    for name in site or ():
        if name not in names:
            listed = f"The policy has: {', '.join(names)}." if names else "No environment of the policy names one."
            raise UsageError(f"there is no site {name!r}", hint=f"{nearest(name, names)} {listed}".strip())
    if site and loaded.policy.engine is None:
        raise UsageError(
            "--site is for several machines that share the work, and the policy has no database for that",
            hint="Add `engine` to the policy (docs/how-to/fleet.md), or leave --site out: one machine does the runs of all.",
        )
    sites: tuple[str | None, ...] = tuple(site or ())
    if watch or not sites:  # what names no site is done where the watch is
        sites = (None, *sites)
    return Duty(sites, watch, address_of(listen) if listen else None, receive)


def _signals() -> Signals:
    from keepwell.engine.service import Signals

    signals = Signals()

    def stop(_number: int, _frame: FrameType | None) -> None:
        signals.stop.set()
        signals.wake.set()

    def again(_number: int, _frame: FrameType | None) -> None:
        signals.reload.set()
        signals.wake.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    signal.signal(signal.SIGHUP, again)
    return signals
