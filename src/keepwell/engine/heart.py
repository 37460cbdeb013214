"""Signs of life of a worker, and what it does about others that give none (the argument is in docs/why/schedules.md)."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Mapping
from typing import Any

from keepwell.core import logs
from keepwell.core.clock import Clock
from keepwell.engine.durable import Engine
from keepwell.engine.ledger import EngineError, Ledger

_KEPT = dt.timedelta(days=90)
"""How long is known of a run that it was."""
_SWEEP = 3600.0
_LOG = logs.get("engine")


class Heart:
    """Beats in a thread of its own. Where it could not for longer than others wait, it sets `lost`: the runs here stop, and
    when the database answers again they are freed and the worker goes on.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        about: Mapping[str, Any],
        engine: Engine,
        lost: threading.Event,
        every: float,
        patience: float,
        clock: Clock,
        given_up: Callable[[str], None],
    ) -> None:
        """`given_up` is told of runs that are not begun any more."""
        self._give_up = given_up
        self._ledger, self._name, self._about, self._engine = ledger, name, about, engine
        self._lost, self._every, self._patience, self._clock = lost, every, patience, clock
        self._last = clock.monotonic()
        self._swept = -_SWEEP
        self._told = clock.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heart", daemon=True)

    def first(self, *, shared: bool, launch: Callable[[], object]) -> None:
        """The first sign of life, before any run can be begun; then what a dead process left is freed. Raises EngineError."""
        self._ledger.beat(self._name, self._about)
        launch()
        # Alone with the file, whoever had a run before is dead.
        self._after(self._patience if shared else 0.0, alone=not shared)
        self._last = self._clock.monotonic()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def trouble(self) -> str | None:
        """Why this worker does no runs now, if it does not."""
        if self._clock.monotonic() - self._last > self._patience:
            return "the engine database does not answer"
        return None

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._beat()
            except EngineError as error:
                late = self._clock.monotonic() - self._last
                _LOG.warning("no sign of life", seconds=round(late, 1), exc_info=error)
                if late > self._patience * 0.8 and not self._lost.is_set():
                    _LOG.error("its runs may be others' by now: they are stopped")
                    self._lost.set()
            except Exception as error:
                _LOG.error("no sign of life", exc_info=error)

    def _beat(self) -> None:
        late = self._clock.monotonic() - self._last > self._patience * 0.8
        if late and not self._lost.is_set():
            self._lost.set()  # this process slept: others may have its runs
        if self._lost.is_set() and self._engine.active:
            return  # no sign of life while it is still at runs that may be others'
        self._ledger.beat(self._name, self._about)
        self._last = self._clock.monotonic()
        self._lost.clear()
        self._after(self._patience, alone=False)

    def _after(self, patience: float, *, alone: bool) -> None:
        freed = self._ledger.take_over(patience, alone=self._name if alone else None)
        freed += self._ledger.free(self._name, but=self._engine.active, older=self._patience)
        for ident in freed:
            _LOG.warning("goes on with a run that was left behind", job=ident)
        if count := self._ledger.of_any_version():
            _LOG.info("goes on with runs that wait for another version of the program", runs=count)
        if self._clock.monotonic() - self._swept > _SWEEP:
            self._swept = self._clock.monotonic()
            self._ledger.forget(self._clock.now() - _KEPT)
        self._given_up()

    def _given_up(self) -> None:
        since, self._told = self._told, self._clock.now()
        for ident in self._ledger.given_up(since):
            self._give_up(ident)
