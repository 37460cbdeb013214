"""The process that runs by itself: `keepwell serve` and `keepwell worker`."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import platform
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from keepwell import __version__
from keepwell.core import logs
from keepwell.core.errors import Busy, KeepwellError
from keepwell.core.streams import Context
from keepwell.engine import database as databases
from keepwell.engine import execute
from keepwell.engine.database import Database
from keepwell.engine.durable import VERSION, Engine, Runs
from keepwell.engine.heart import Heart
from keepwell.engine.jobs import Job
from keepwell.engine.ledger import EngineError, Ledger
from keepwell.engine.makeup import made_up
from keepwell.engine.planner import Planner
from keepwell.engine.receivers import Receivers
from keepwell.engine.workman import Patience, Workman, document
from keepwell.policy.load import LoadedPolicy
from keepwell.watch.endpoint import Endpoint
from keepwell.watch.look import Watcher

_LOG = logs.get("engine")


@dataclass(frozen=True)
class Pace:
    """How often things are looked at, in seconds."""

    plan: float = 10.0
    watch: float = 60.0
    poll: float = 1.0
    beat: float = 10.0
    patience: float = 60.0
    """A worker that gave no sign of life for so long is dead: its runs are taken over."""
    end: float = 30.0
    """How long a run may take to stop when the process is told to end."""


@dataclass
class Signals:
    """What the world wants of the process. Set from signal handlers."""

    stop: threading.Event = field(default_factory=threading.Event)
    reload: threading.Event = field(default_factory=threading.Event)
    wake: threading.Event = field(default_factory=threading.Event)
    """Set with either of the two."""


@dataclass(frozen=True)
class Duty:
    """What this process does."""

    sites: tuple[str | None, ...] = (None,)
    """In a fleet: whose runs; None: of those that name no site. One process alone does them all."""
    watch: bool = True
    """Whether it looks every minute whether all is well, and tells people."""
    listen: tuple[str, int] | None = None
    receive: bool = True
    """Whether it receives the log of physical sources."""


@dataclass
class Service:
    """Runs until `signals.stop`. `load` reads the policy; it is called again for `signals.reload`."""

    load: Callable[[], LoadedPolicy]
    duty: Duty
    context: Context
    signals: Signals
    pace: Pace = Pace()
    patience: Callable[[LoadedPolicy], Patience] = lambda loaded: patience_of(loaded)  # noqa: PLW0108 - defined below
    version: str = VERSION
    started: Callable[[], None] = lambda: None
    """Called once, when runs are being done."""

    def run(self) -> bool:
        """Whether everything ended in time; else the caller should end the process without waiting for it.

        Raises PolicyError, Busy (another one serves this policy here), EngineError, ListenError.
        """
        self._loaded = self.load()
        database = databases.database_of(self._loaded)
        self._received = self.duty.sites if database.shared else None
        self._name = f"{platform.node()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        with contextlib.ExitStack() as stack:
            if not database.shared:
                stack.enter_context(_alone(database))
            ledger = Ledger(database)
            stack.callback(ledger.close)
            ledger.prepare()
            runs = Runs(database)
            stack.callback(runs.close)
            return self._serve(database, ledger, runs, stack)

    def _serve(self, database: Database, ledger: Ledger, runs: Runs, stack: contextlib.ExitStack) -> bool:
        def enqueue(job: Job) -> None:
            runs.enqueue(
                job.ident,
                document(job),
                site=site_of(self._loaded, job) if database.shared else None,
                group=group_of(job),
                urgent=job.kind == "backup",
            )

        pace, clock = self.pace, self.context.clock
        ending = threading.Event()
        man = Workman(
            lambda: self._loaded, self.context, ledger, self._name, enqueue, lambda: self.patience(self._loaded), ending
        )
        engine = Engine(
            database,
            self._name,
            self.duty.sites,
            man,
            at_once=self._loaded.policy.schedules.at_once,
            poll=pace.poll,
            version=self.version,
        )
        about = {"sites": list(self.duty.sites), "host": platform.node(), "pid": os.getpid(), "program": __version__}
        heart = Heart(ledger, self._name, about, engine, man.lost, pace.beat, pace.patience, clock, self._given_up)
        planner = Planner(lambda: self._loaded, ledger, enqueue, clock)
        stack.callback(_leave, ledger, self._name)  # after the engine has stopped: it would take them up again
        heart.first(shared=database.shared, launch=lambda: stack.enter_context(engine))
        heart.start()
        endpoint = self._endpoint(stack, heart)
        look = _Look(self, endpoint, enqueue) if self.duty.watch else None
        if look:
            look.start()
        receivers = self._receivers()
        receivers.start()
        _LOG.info("serves", policy=str(self._loaded.path), engine=database.shown, worker=self._name)
        self.started()
        while not self.signals.stop.is_set():
            if self.signals.reload.is_set():
                self.signals.reload.clear()
                receivers = self._reload(receivers)
            try:
                planner.look()
            except EngineError as error:
                _LOG.error("cannot plan", exc_info=error)
            except Exception as error:
                _LOG.error("cannot plan", exc_info=error)
            self.signals.wake.wait(pace.plan)
            self.signals.wake.clear()
        _LOG.info("ends", running=sorted(engine.active))
        ending.set()
        done = engine.drain(pace.end)
        done = receivers.stop(5.0 if done else 0.0) and done
        heart.stop()
        if look:
            done = look.stop(10.0 if done else 0.0) and done
        _LOG.info("ended" if done else "ended without waiting: what was running is done again at the next start")
        return done

    def _endpoint(self, stack: contextlib.ExitStack, heart: Heart) -> Endpoint | None:
        if self.duty.listen is None:
            return None
        endpoint = Endpoint(self.duty.listen, self.context.clock, ready=heart.trouble)
        return stack.enter_context(endpoint)

    def _given_up(self, ident: str) -> None:
        try:
            execute.given_up(ident, self._loaded, self.context)
        except KeepwellError as error:
            _LOG.error("given up", job=ident, exc_info=error)

    def _receivers(self) -> Receivers:
        return Receivers(self._loaded, self.context, self._received if self.duty.receive else ())

    def _reload(self, receivers: Receivers) -> Receivers:
        """Takes up the changed policy for what begins from now on; one that is wrong changes nothing."""
        try:
            loaded = self.load()
            changed = databases.database_of(loaded) != databases.database_of(self._loaded)
        except KeepwellError as error:
            _LOG.error("the changed policy is not used", exc_info=error)
            return receivers
        if changed:
            _LOG.warning("another engine database is used only after a restart")
        self._loaded = loaded
        receivers.stop(10.0)
        fresh = self._receivers()
        fresh.start()
        _LOG.info("uses the changed policy", policy=str(loaded.path))
        return fresh

    @property
    def loaded(self) -> LoadedPolicy:
        return self._loaded


class _Look:
    """The look every minute, in a thread of its own: a store that does not answer must not hold up the plans."""

    def __init__(self, service: Service, endpoint: Endpoint | None, enqueue: Callable[[Job], None]) -> None:
        self._service, self._endpoint, self._enqueue = service, endpoint, enqueue
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> bool:
        self._stop.set()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        log = logs.get("watch")
        context = dataclasses.replace(self._service.context, progress=logs.Logged(log), cancelled=self._stop.is_set)
        watcher = Watcher(self._service.loaded)
        while not self._stop.is_set():
            if watcher.loaded is not self._service.loaded:
                watcher = Watcher(self._service.loaded)
            try:
                look = watcher.look(context, steady=True)
                for job in made_up(watcher.loaded.policy, look):
                    self._enqueue(job)
            except Exception as error:
                log.exception("could not look", exc_info=error)
            else:
                if self._endpoint is not None:
                    self._endpoint.show(look)
                for event in look.events:
                    log.warning(event.kind, alert=event.alert.key, text=event.alert.text)
                for delivery in look.deliveries:
                    if delivery.error:
                        log.warning("not told", channel=delivery.channel, text=delivery.error)
                for problem in look.problems:
                    log.warning(problem)
            self._stop.wait(self._service.pace.watch)


def patience_of(loaded: LoadedPolicy) -> Patience:
    when = loaded.policy.schedules
    return Patience(when.retries, when.retry_after.total_seconds())


def group_of(job: Job) -> str:
    """Of which one at a time is done: the runs of an environment, or of one kind over the whole vault."""
    if job.kind in {"backup", "verify", "drill"}:
        return f"environment/{job.environment}"
    return "/".join(part for part in (job.kind, job.environment) if part)


def site_of(loaded: LoadedPolicy, job: Job) -> str | None:
    """The site of the job's environment. What concerns the whole vault, or names no site, is for those without one."""
    environment = loaded.policy.environments.get(job.environment or "")
    return environment.site if environment and job.kind in {"backup", "verify", "drill"} else None


def _leave(ledger: Ledger, name: str) -> None:
    with contextlib.suppress(EngineError):  # what is not freed here is freed by whoever comes next
        ledger.leave(name)


@contextlib.contextmanager
def _alone(database: Database) -> Iterator[None]:
    """One process serves from a file. The kernel lets go of the lock however the process ends. Raises Busy."""
    assert database.file is not None
    path = database.file.with_suffix(".lock")
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise EngineError(f"{path} cannot be written: {error.strerror}", hint=database.hint) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            raise Busy(
                f"another process serves this policy here{f' (process {pid})' if pid else ''}",
                hint="One is enough. Several machines share the work with `engine` in the policy (docs/how-to/fleet.md).",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)
