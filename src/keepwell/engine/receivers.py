"""The receivers of the write-ahead log, as threads beside the runs: begun again when they end.

One for each physical source whose policy says `pitr` or `slot`: a slot makes the server keep its log, so nobody gets one unasked.

Of several machines one receives: the server lets one at a time use the slot, and the others wait for it to become free.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading

from keepwell.core import logs
from keepwell.core.caller import called
from keepwell.core.errors import Busy, KeepwellError
from keepwell.core.streams import Context
from keepwell.operations.record import recorded
from keepwell.operations.wal_receive import ReceiveRequest, receive
from keepwell.operations.wal_sources import physical_sources
from keepwell.policy.load import LoadedPolicy

_FIRST, _MOST = 5.0, 300.0
_LASTED = 600.0
"""One that ran so long begins again at once."""
_IN_TURN = 15.0
"""One that waits for another to die asks this often: what is written meanwhile is at risk."""
_LOG = logs.get("wal")


def received(loaded: LoadedPolicy, sites: tuple[str | None, ...] | None) -> list[tuple[str, str]]:
    """(environment, source) of those whose log is to be received by this process. `sites` None: of all."""
    return [
        (environment, name)
        for environment, name in physical_sources(loaded)
        if (sites is None or loaded.policy.environments[environment].site in sites)
        and {"pitr", "slot"} & loaded.policy.environments[environment].sources[name].model_fields_set
    ]


class Receivers:
    """Started for a policy, and for the next after `stop`."""

    def __init__(self, loaded: LoadedPolicy, context: Context, sites: tuple[str | None, ...] | None) -> None:
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._keep,
                args=(loaded, context, environment, source),
                name=f"wal-{environment}-{source}",
                daemon=True,
            )
            for environment, source in received(loaded, sites)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> bool:
        """Whether all ended in that time."""
        self._stop.set()
        for thread in self._threads:
            thread.join(seconds)
        return not any(thread.is_alive() for thread in self._threads)

    def _keep(self, loaded: LoadedPolicy, context: Context, environment: str, source: str) -> None:
        wait = _FIRST
        with logs.bound(environment=environment, source=source):
            own = dataclasses.replace(context, progress=logs.Logged(_LOG), cancelled=self._stop.is_set)
            while not self._stop.is_set():
                began = context.clock.monotonic()
                try:
                    _receive(loaded, environment, source, own)
                except Busy as error:
                    _LOG.info("another one receives the log", exc_info=error)
                    self._stop.wait(_IN_TURN)
                    continue
                except KeepwellError as error:
                    if self._stop.is_set():
                        return
                    _LOG.warning("the log is not received", exc_info=error)
                except Exception as error:
                    _LOG.error("the log is not received", exc_info=error)
                wait = _FIRST if context.clock.monotonic() - began > _LASTED else min(wait * 2, _MOST)
                self._stop.wait(wait)


def _receive(loaded: LoadedPolicy, environment: str, source: str, context: Context) -> None:
    """In the audit log from when the log flows: one who waits for the slot has done nothing."""
    with contextlib.ExitStack() as stack:

        def started() -> None:
            _LOG.info("receives the log")
            stack.enter_context(called("schedule", ["wal receive", environment, source]))
            # What arrives late is lost with the server: an audit log that takes no entry must not stop it.
            stack.enter_context(recorded(loaded, context, "wal receive", environment, strict=False, log=False))

        receive(loaded, ReceiveRequest(source, environment), context, started)
