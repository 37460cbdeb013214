"""Log flowing from a connection into the vault: what is read, stored and told to the server, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

from keepwell.core.errors import SourceError, StoreError
from keepwell.core.streams import Context
from keepwell.core.units import show_duration, show_size
from keepwell.operations.wal_contracts import Archive, Copy, Plan, Received
from keepwell.operations.wal_delivery import Delivery, Workers
from keepwell.operations.wal_intake import Intake, Piece
from keepwell.operations.wal_start import Server, Start, merge
from keepwell.sources.physical.stream import LogData, parse, status

STATUS_EVERY = 10.0
"""Seconds between reports to the server; shorter where its wal_sender_timeout wants that."""
QUIET = 30.0
"""After so many seconds without a word the server is asked for one,"""
DEAD = 90.0
"""and after so many the connection is given up. An idle server answers, so idleness is never taken for death."""
LAST_WORDS = 30.0
"""How long a receiver that was told to end tries to store what it has."""
HELD_UP = 5.0
"""How long a server that waits for us (to shut down) is made to wait for a store that fails."""
_LOOK = 1.0
_WARN_LAG = 1 << 30

End: TypeAlias = Literal["done", "stopped", "switched", "ended"]


class Stopped(Exception):
    """Told to end while something was being waited for."""


class Flow:
    """Outlives connections: what was read from one and is not safe yet is kept for the next."""

    def __init__(
        self,
        plan: Plan,
        archive: Archive,
        workers: Callable[[Callable[[Piece], object]], Workers],
        context: Context,
        received: Received,
    ) -> None:
        self.intake: Intake | None = None
        self.have: dict[int, list[tuple[int, int]]] = {}
        """What the vault has, by timeline."""
        self.goal = plan.until
        self.interval = STATUS_EVERY
        self.limit: int | None = None
        """max_slot_wal_keep_size."""
        self.heard: Callable[[], None] = lambda: None
        """Called at each message of the server."""
        self._plan, self._archive, self._make_workers, self._received = plan, archive, workers, received
        self._context, self._clock, self._progress = context, context.clock, context.progress
        self._delivery = self._new_delivery()
        self._warned = 0

    def close(self) -> None:
        self._delivery.close()

    def seen(self) -> dict[int, list[tuple[int, int]]]:
        """What the vault has, and what is here on its way to it: the next connection goes on after that."""
        intake = self.intake
        if intake is None or not intake.waiting:
            return self.have
        spans = self.have.get(intake.timeline, [])
        return {**self.have, intake.timeline: merge(spans, intake.flushed, intake.received)}

    def begin(self, start: Start, server: Server) -> Intake:
        """Makes ready for the bytes from `start` on; everything else is in the vault before. Raises Stopped."""
        intake = self.intake
        if intake and (intake.timeline, intake.received) == (start.timeline, start.position):
            return intake
        while intake and intake.waiting:
            if self._context.cancelled():
                raise Stopped
            self._store(intake, hurry=True)
            self._collect(intake, _LOOK)
        self.intake = Intake(start.timeline, start.position, server.segment_size, every=self._plan.every)
        self._received.timeline, self._received.position = start.timeline, start.position
        return self.intake

    def stream(self, copy: Copy, *, unkept: bool = False) -> End:
        """Until the server or the plan ends it. Raises SourceError where the connection breaks.

        `unkept`: what was asked for lies before what the server keeps for the slot, and may be gone. A report moves a
        physical slot backward, too, so none is made before the first bytes have come.
        """
        intake, clock = self.intake, self._clock
        assert intake is not None
        heard = told = asked = clock.monotonic()
        ending: float | None = None
        waits: float | None = None
        flushed, hurry, reply = -1, False, True
        while True:
            now = clock.monotonic()
            self._store(intake, hurry=hurry or ending is not None)
            if reply or intake.flushed != flushed or now - told >= self.interval:
                quiet = now - heard > QUIET and now - asked >= self.interval
                safe = 0 if unkept else intake.flushed  # 0: no report, only a sign of life
                copy.send(status(written=intake.received, flushed=safe, time=clock.now(), reply=quiet))
                told, flushed, reply = now, intake.flushed, False
                asked = now if quiet else asked
            due = max(0.0, self.interval - (now - told))
            if ending is None and (self._context.cancelled() or self._reached(intake)):
                ending = now
                continue
            if ending is not None:
                if (
                    not intake.waiting
                    or now - ending > LAST_WORDS
                    or (self._delivery.outage and self._context.cancelled())
                ):
                    copy.finish()
                    return "stopped" if self._context.cancelled() else "done"
                self._collect(intake, min(_LOOK, due))
                continue
            if intake.full:  # the server keeps what is not read
                self._collect(intake, min(_LOOK, max(0.01, due)))
                heard = clock.monotonic()
                continue
            message = copy.receive(self._patience(intake, now, due))
            if message is None:
                if copy.closed:
                    return "switched" if copy.finish() else "ended"
                if now - heard > DEAD:
                    raise SourceError(
                        f"the server of {self._plan.place} has not said a word for {show_duration(now - heard)}",
                        hint="Look at the network between.",
                    )
                continue
            heard = clock.monotonic()
            said = parse(message)
            self.heard()
            if isinstance(said, LogData):
                intake.add(said.start, said.data, now=heard, time=said.time)
                reply, unkept = reply or unkept, False
                hurry, waits = False, None
            elif said.reply:
                # A server that shuts down asks again and again until everything that it sent is safe.
                reply = hurry = True
                if intake.waiting and self._delivery.outage:
                    waits = heard if waits is None else waits
                    if heard - waits > HELD_UP:
                        self._progress.warn(
                            "The server waits for the store; letting it go, and connecting again later."
                        )
                        return "ended"
            self._watch(said.server_end, intake)

    def last_words(self) -> None:
        """Stores what is still here; raises StoreError where the store does not take it (nothing is lost by that).

        Relies on nothing but what has arrived and what is known to be safe: an interrupt may have hit anywhere.
        """
        intake = self.intake
        if intake is None or not intake.waiting:
            return
        self._delivery.close()
        self._delivery = delivery = self._new_delivery()
        limit = self._clock.monotonic() + LAST_WORDS
        todo = intake.rest()
        count = left = len(todo)
        while left:
            while todo and delivery.room:
                delivery.send(todo.pop(0))
            left -= len(delivery.collect(_LOOK, waiting=intake.waiting))
            if left and (delivery.outage or self._clock.monotonic() > limit):
                outage = delivery.outage or StoreError("it takes longer than the end of a run may take")
                raise StoreError(
                    f"the last {show_size(intake.waiting)} of log are not in the vault: {outage.message}",
                    hint="Nothing is lost: the server keeps them for the slot. Start the receiver again.",
                )
        before = intake.flushed
        intake.all_stored()
        self._received.pieces += count
        self._count(intake, before)

    def _patience(self, intake: Intake, now: float, due: float) -> float:
        """How long to listen: not beyond the next report, the next piece, or a look at what is being put."""
        wait = min(_LOOK, due)
        piece = intake.due()
        if intake.busy and not self._delivery.outage:
            wait = min(wait, 0.05)
        elif piece is not None and not intake.busy:
            wait = min(wait, piece - now)
        return max(wait, 0.0)

    def _reached(self, intake: Intake) -> bool:
        return self.goal is not None and intake.received >= self.goal

    def _store(self, intake: Intake, *, hurry: bool) -> None:
        self._collect(intake, 0.0)
        now = self._clock.monotonic()
        while self._delivery.room and (piece := intake.next(now, hurry=hurry)):
            self._delivery.send(piece)

    def _collect(self, intake: Intake, wait: float) -> None:
        for piece in self._delivery.collect(wait, waiting=intake.waiting):
            before = intake.flushed
            intake.stored(piece)
            self._received.pieces += 1
            self._count(intake, before)

    def _count(self, intake: Intake, before: int) -> None:
        if intake.flushed > before:
            self.have[intake.timeline] = merge(self.have.get(intake.timeline, []), before, intake.flushed)
            self._received.bytes += intake.flushed - before
            self._received.timeline, self._received.position = intake.timeline, intake.flushed

    def _watch(self, server_end: int, intake: Intake) -> None:
        """Says when the server keeps much for us: its disk is at stake."""
        lag = server_end - intake.flushed
        first = min(_WARN_LAG, self.limit // 2) if self.limit else _WARN_LAG
        self._warned = self._warned or first
        if lag > self._warned:
            room = f"it gives the slot up at {show_size(self.limit)}" if self.limit else "nothing limits that"
            self._progress.warn(f"The server keeps {show_size(lag)} of log for {self._plan.place}; {room}.")
            self._warned = lag * 2
        elif lag < first // 2:
            self._warned = first

    def _new_delivery(self) -> Delivery:
        return Delivery(self._make_workers(self._put), self._clock, self._progress)

    def _put(self, piece: Piece) -> None:
        self._archive.put(piece.timeline, piece.start, piece.data, segment_size=piece.segment_size, time=piece.time)
