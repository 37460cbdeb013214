"""The receiver: the server's log into the vault without a gap, through restarts, failovers and outages of the store.

The one rule: the server is told that bytes are safe only after the vault has them. It keeps the rest for the slot, so a
receiver may die at any moment; the next one goes on from what the vault has.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from keepwell.core.errors import Busy, SourceError, StoreError
from keepwell.core.streams import Context
from keepwell.core.wal import Fork, history_name, parse_history, show_lsn
from keepwell.operations.wal_contracts import Archive, Diverged, Link, LogLost, Plan, Received
from keepwell.operations.wal_delivery import Workers
from keepwell.operations.wal_flow import STATUS_EVERY, End, Flow, Stopped
from keepwell.operations.wal_intake import Piece
from keepwell.operations.wal_start import NEAR, Server, Start, begin, beyond
from keepwell.sources.physical import slot as slots
from keepwell.sources.physical.settings import shown_seconds, shown_size
from keepwell.vault.wal import WalConflict

BEHIND = 60.0
"""How many seconds a server may have less log than the vault before that is an error."""
BUSY = 10.0
"""How many seconds the connection of a receiver that died may still hold the slot."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_NO_FILE, _IN_USE, _SHUTDOWN = "58P01", "55006", "57"
"""SQLSTATE, the last as a class."""


class Receiver:
    """One run for one source. Single-threaded but for the workers that put."""

    def __init__(
        self,
        plan: Plan,
        connect: Callable[[], Link],
        archive: Callable[[str], Archive],
        workers: Callable[[Callable[[Piece], object]], Workers],
        context: Context,
        *,
        slot_state: Callable[[], slots.SlotState],
        started: Callable[[], object] = lambda: None,
    ) -> None:
        """`archive(system)` opens the vault's log; `slot_state()` asks the server for more than the protocol tells;
        `started()` is called once, when the slot is ours and the log flows.
        """
        self.plan, self.received = plan, Received()
        self._connect, self._open, self._workers = connect, archive, workers
        self._context, self._clock, self._progress = context, context.clock, context.progress
        self._slot_state, self._started = slot_state, started
        self._archive: Archive | None = None
        self._flow: Flow | None = None
        self._server: Server | None = None
        self._kept: int | None = None
        self._start: Start | None = None
        self._jump: Start | None = None
        self._refused: set[Start] = set()
        self._histories: set[int] = set()
        self._told = ""
        self._pause = _FIRST_PAUSE
        self._behind: float | None = None
        self._busy: float | None = None
        self._patience = BUSY
        self._made_slot = self._streamed = self._advised = False

    def run(self) -> Received:
        """Until it is told to end (`context.cancelled`, or KeyboardInterrupt), or the plan is fulfilled.

        Raises LogLost, Diverged, Busy; WalConflict where the vault has other bytes; SourceError where the server cannot be
        had from the beginning or is another cluster; StoreError where it ends with bytes that the store did not take.
        """
        began = self._clock.monotonic()
        try:
            self._run()
        except (KeyboardInterrupt, Stopped):  # the ordinary way to end a receiver
            pass
        finally:
            self.received.seconds = self._clock.monotonic() - began
        if self._flow:
            self._flow.last_words()
            self._flow.close()
        return self.received

    def _run(self) -> None:
        while not self._context.cancelled():
            try:
                with self._link() as link:
                    if self._follow(link) != "ended":
                        return
                    self._progress.note("The server ended the stream; connecting again.")
            except SourceError as error:
                self._trouble(error)
            self._sleep(self._pause)
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    @contextlib.contextmanager
    def _link(self) -> Iterator[Link]:
        link = self._connect()
        try:
            yield link
        finally:
            link.close()

    # What a failure means

    def _trouble(self, error: SourceError) -> None:
        """Returns where trying again is right, and raises where it is not."""
        if isinstance(error, LogLost | Diverged | WalConflict | _Final):
            raise error
        if isinstance(error, _Removed):
            self._gone(error)
        elif _state(error) == _IN_USE:
            self._in_use(error)
        elif not self._streamed and not isinstance(error, _Behind):
            raise error
        elif error.message != self._told:
            self._told = error.message
            text = f"The log of {self.plan.place} does not flow: {error.message}; trying again. {error.hint}"
            self._progress.warn(text.strip())

    def _in_use(self, error: SourceError) -> None:
        """Somebody holds the slot: a moment long the one who died before us, longer another receiver."""
        now = self._clock.monotonic()
        self._busy = now if self._busy is None else self._busy
        if now - self._busy > self._patience:
            raise Busy(
                f"another receiver uses the replication slot {self.plan.slot} of {self.plan.place}",
                hint="One receiver is enough. If two are meant, give each a slot of its own (`slot` of the source in the "
                "policy).",
            ) from error
        self._pause = _FIRST_PAUSE / 2

    def _gone(self, error: SourceError) -> None:
        """The server has thrown away what was asked for. Perhaps the vault has it meanwhile, from `wal push`."""
        wanted, server, flow = self._start, self._server, self._flow
        assert wanted is not None
        assert server is not None
        assert flow is not None
        self._pause = _FIRST_PAUSE / 2
        if wanted.gap is None:
            self._refused.add(wanted)
            self._load(flow)
            if self._begin(flow, server) != wanted:
                return
        over = beyond(wanted, server, self._kept)
        assert over.gap is not None
        text = f"{show_lsn(over.gap[0])} to {show_lsn(over.gap[1])} (timeline {wanted.timeline})"
        if not self.plan.accept_gap:
            if self._made_slot:  # with nobody to receive, it would only fill the server's disk
                with self._link() as link:
                    slots.drop(link, self.plan.slot)
            raise LogLost(
                f"the server no longer has log that the vault of {self.plan.place} lacks: {text}", hint=slots.WAY_OUT
            ) from error
        self.received.gaps.append((wanted.timeline, *over.gap))
        self._progress.warn(f"Log is missing for good: {text}. Take a new base backup now (`keepwell backup`).")
        self._jump = over

    # One connection

    def _follow(self, link: Link) -> End:
        """Streams one timeline after the other, until the connection ends or the work is done."""
        self._look_at_settings(link)
        while True:
            start, server = self._prepare(link)
            flow = self._flow
            assert flow is not None
            intake = flow.begin(start, server)
            where = f"{show_lsn(start.position)} TIMELINE {start.timeline}"
            try:
                copy = link.copy_both(f'START_REPLICATION SLOT "{self.plan.slot}" PHYSICAL {where}')
                end = flow.stream(copy, unkept=self._unkept(start))
            except SourceError as error:
                if _state(error) == _NO_FILE or self._denied(error, start, server, flow):
                    raise _Removed(error.message, hint=error.hint) from error
                raise
            if end != "switched":
                return end
            if intake.received == start.position:
                return "ended"  # nothing came: not again at once
            self.received.switches += 1

    def _look_at_settings(self, link: Link) -> None:
        self._interval, timeout = STATUS_EVERY, shown_seconds(link.show("wal_sender_timeout"))
        if timeout:
            self._interval = min(STATUS_EVERY, timeout / 3)
        self._patience = timeout + BUSY if self._streamed else BUSY
        limit = link.show("max_slot_wal_keep_size")
        self._limit = None if limit == "-1" else shown_size(limit)
        if self._advised:
            return
        self._advised = True
        if self._limit is None:
            self._progress.note(slots.no_limit(self.plan.slot))
        names = link.show("synchronous_standby_names")
        if "*" in names or self.plan.slot in names:
            self._progress.warn(
                f"synchronous_standby_names = {names!r} makes commits wait for this receiver, up to {self.plan.every:.0f} s "
                "each. Name the standbys there instead."
            )

    def _prepare(self, link: Link) -> tuple[Start, Server]:
        identity = link.identify()
        flow = self._flow or self._open_vault(identity.system)
        if identity.system != self.received.system:
            raise _Final(
                f"the address of {self.plan.place} leads to another cluster now (system {identity.system}; it was "
                f"{self.received.system})",
                hint="If that is meant so, start the receiver again and take a base backup of the new cluster.",
            )
        flow.interval, flow.limit = self._interval, self._limit
        forks = self._history(link, identity.timeline)
        size = shown_size(link.show("wal_segment_size"))
        self._server = server = Server(identity.timeline, identity.position, size, forks)
        if self.plan.once and flow.goal is None:
            flow.goal = identity.position
        self._kept = self._slot(link, flow)
        start = self._jump or self._begin(flow, server)
        self._require_not_behind(link, start, server)
        self._name_gaps(start, server, flow)
        self._start, self._jump = start, None
        self.received.connections += 1
        self._progress.note(
            f"Receiving the log of {self.plan.place} from {show_lsn(start.position)} on timeline {start.timeline}; the "
            f"server is at {show_lsn(identity.position)}."
        )
        return start, server

    def _unkept(self, start: Start) -> bool:
        """Whether what is asked for lies before what the slot keeps, and the slot's own place is worth keeping."""
        return self._kept is not None and start.position < self._kept and not self._made_slot

    def _begin(self, flow: Flow, server: Server) -> Start:
        return begin(flow.seen(), server, self._kept, refused=self._refused)

    def _denied(self, error: SourceError, start: Start, server: Server, flow: Flow) -> bool:
        """Whether the server denies old log, and could give newer: whatever its reason is, that must not stop the flow."""
        state = _state(error)
        if not state or state == _IN_USE or state.startswith(_SHUTDOWN):
            return False
        return begin(flow.seen(), server, self._kept, refused={*self._refused, start}) != start

    def _history(self, link: Link, timeline: int) -> tuple[Fork, ...]:
        """The ancestors of a timeline. Their files are in the vault before its first byte is."""
        if timeline == 1:
            return ()
        data = link.timeline_history(timeline)[1]
        try:
            forks = tuple(parse_history(data.decode("utf-8", "replace")))
        except ValueError as error:
            raise SourceError(
                f"the server's {history_name(timeline)} cannot be read: {error}", hint="Look at the file in its pg_wal."
            ) from None
        for ancestor in (fork.timeline for fork in forks if fork.timeline > 1):
            if ancestor not in self._histories:
                try:
                    self._keep_history(ancestor, link.timeline_history(ancestor)[1])
                except SourceError as error:  # cleared away on the server; the newest file tells the same
                    self._progress.note(f"The server does not give {history_name(ancestor)}: {error.message}.")
                    self._histories.add(ancestor)
        self._keep_history(timeline, data)
        return forks

    def _keep_history(self, timeline: int, data: bytes) -> None:
        archive = self._archive
        assert archive is not None
        if timeline not in self._histories:
            self._patiently(lambda: archive.put_file(history_name(timeline), data, time=self._clock.now()))
            self._histories.add(timeline)

    def _slot(self, link: Link, flow: Flow) -> int | None:
        """From where on the server keeps log for us. Makes the slot where there is none, and anew where it is lost."""
        name = self.plan.slot
        if found := slots.read(link, name, self._slot_state):
            if found.restart is not None:
                return found.restart
            try:
                state = self._slot_state()
            except SourceError:  # only replication is open to us; a slot that keeps nothing is as good as lost
                state = slots.SlotState(name, exists=True, wal_status="lost")
            if state.restart is not None or not state.lost:
                return state.restart
            reason = f" ({state.reason})" if state.reason else ""
            self._progress.warn(
                f"The server gave up the replication slot {name}{reason}: more log waited than max_slot_wal_keep_size "
                "allows, or nobody received for too long. Making it anew."
            )
            slots.drop(link, name)
        elif flow.have:
            self._progress.warn(f"The replication slot {name} is gone, or this is another server; making it anew.")
        slots.create(link, name)
        self._made_slot = True
        made = slots.read(link, name, self._slot_state)
        return made.restart if made else None

    def _require_not_behind(self, link: Link, start: Start, server: Server) -> None:
        """Raises SourceError (to try again) where the server has less than the vault, and Diverged where it stays so."""
        if start.timeline != server.timeline or start.position <= server.position:
            self._behind = None
            return
        now = self._clock.monotonic()
        self._behind = now if self._behind is None else self._behind
        told = (
            f"the vault has log of {self.plan.place} up to {show_lsn(start.position)} on timeline {start.timeline}, the "
            f"server only up to {show_lsn(server.position)}"
        )
        if now - self._behind < BEHIND or link.show("in_hot_standby") == "on":
            raise _Behind(told, hint="A standby may have to catch up.")
        raise Diverged(
            told,
            hint="The cluster went back to an earlier state and kept its timeline: an old copy of its disk was put in place, "
            "or a crash lost what it had confirmed (fsync = off). Its log no longer fits the vault's. Give the cluster a new "
            "timeline (restore its latest moment with keepwell), start the receiver again, and take a base backup.",
        )

    def _heard(self) -> None:
        if self._told:
            self._progress.note(f"The log of {self.plan.place} flows again.")
            self._told = ""
        self._pause, self._busy = _FIRST_PAUSE, None
        first, self._streamed, self._made_slot = not self._streamed, True, False
        if first:
            self._started()

    # The vault

    def _open_vault(self, system: str) -> Flow:
        self._archive = self._open(system)
        self.received.system = system
        flow = Flow(self.plan, self._archive, self._workers, self._context, self.received)
        flow.heard = self._heard
        self._load(flow)
        self._flow = flow
        return flow

    def _load(self, flow: Flow) -> None:
        archive = self._archive
        assert archive is not None
        found: list[Any] = []
        self._patiently(lambda: found.append(archive.coverage()))
        timelines = {part.timeline for part in found[-1].parts}
        flow.have = {timeline: list(found[-1].spans(timeline)) for timeline in timelines}

    def _name_gaps(self, start: Start, server: Server, flow: Flow) -> None:
        """Those that end shortly before the start: the server has them no longer. What lies behind is received again, and what a
        prune took is older.
        """
        for timeline, _ in server.line():
            for (_, end), (after, _) in itertools.pairwise(flow.seen().get(timeline, [])):
                gap = timeline, end, after
                known, later = gap in self.received.gaps, timeline == start.timeline and after > start.position
                if known or later or after < start.position - NEAR:
                    continue
                self.received.gaps.append(gap)
                self._progress.warn(
                    f"The vault lacks log of {self.plan.place} from {show_lsn(end)} to {show_lsn(after)} (timeline {timeline}): "
                    "moments there cannot be recovered to. Unless `keepwell wal push` still brings it, take a base backup."
                )
            if timeline == start.timeline:
                return

    def _patiently(self, act: Callable[[], object]) -> None:
        """Until the store answers; told to end meanwhile, raises its StoreError."""
        pause = _FIRST_PAUSE
        while True:
            try:
                act()
                return
            except StoreError as error:
                if not self._streamed or self._context.cancelled():
                    raise
                if pause == _FIRST_PAUSE:
                    self._progress.warn(
                        f"The store does not answer: {error.message}; trying again. {error.hint}".strip()
                    )
                self._sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _sleep(self, seconds: float) -> None:
        while seconds > 0 and not self._context.cancelled():
            self._clock.sleep(min(seconds, 0.25))
            seconds -= 0.25


class _Final(SourceError):
    """No use in trying again."""


class _Behind(SourceError):
    """The server has less than the vault, at the moment."""


class _Removed(SourceError):
    """The server has thrown away what was asked for."""


def _state(error: SourceError) -> str:
    return str(getattr(error, "state", ""))
