"""DBOS: a queue of runs that outlives every process. The only module that imports it.

One run is one workflow whose id is the identity of the occurrence (`backup/production/20261122T020000Z`), so that it is
enqueued at most once ever, whoever enqueues it and how often. A workflow here is a single call without steps: what it
reached is in the vault, which every attempt asks first, so that a run can be repeated whole by any version of the program.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Self

from keepwell.core.errors import KeepwellError
from keepwell.engine.database import Database
from keepwell.engine.ledger import unusable

if TYPE_CHECKING:
    from dbos import DBOSClient

VERSION = "jobs-1"
"""Of the form of jobs in the database. DBOS recovers runs of its own version only, and takes a fingerprint of the source
unless told: then every update of keepwell would leave runs behind. This one changes only when old jobs could not be read."""

APPLICATION = "keepwell"
MOST_TIMES = 10
"""A run that took its process with it so often is not begun again."""

Document = dict[str, Any]


class Stopped(BaseException):
    """The process ends: the run stays begun, and the next process goes on. Not an Exception, so that DBOS does not end it."""


def queue_name(site: str | None) -> str:
    return f"site-{site}" if site else "runs"


class Runs:
    """The queue as those see it who put something in. Also in processes that do no runs themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._client: DBOSClient | None = None
        self._lock = threading.Lock()

    def enqueue(self, ident: str, job: Document, *, site: str | None, group: str, urgent: bool = False) -> None:
        """Of one `group` one run is done at a time, anywhere. An identity that is there already changes nothing.

        Raises EngineError.
        """
        options: Any = {
            "workflow_name": "run",
            "queue_name": queue_name(site),
            "workflow_id": ident,
            "queue_partition_key": group,
            "priority": 1 if urgent else 2,
        }
        with _told(self._database):
            self._connected().enqueue(options, json.dumps(job))

    def state(self, ident: str) -> tuple[str, Document | None] | None:
        """DBOS's word for the state, and how the run ended. None: nobody enqueued it. Raises EngineError."""
        with _told(self._database):
            found = self._connected().list_workflows(workflow_ids=[ident])
        if not found:
            return None
        output = found[0].output
        return str(found[0].status), json.loads(output) if isinstance(output, str) else None

    def states(self) -> dict[str, str]:
        """Of every run that is known. Raises EngineError."""
        with _told(self._database):
            found = self._connected().list_workflows(load_input=False, load_output=False)
        return {run.workflow_id: str(run.status) for run in found}

    def close(self) -> None:
        if self._client is not None:
            self._client.destroy()

    def _connected(self) -> DBOSClient:
        from dbos import DBOSClient

        with self._lock:
            if self._client is None:
                self._client = DBOSClient(
                    system_database_url=self._database.url,
                    dbos_system_schema=self._database.schema or "dbos",
                    application_name=APPLICATION,
                    system_database_pool_size=2,
                    retry_connection_errors=False,
                )
            return self._client


class Engine:
    """A process as one that does runs. `work` gets the identity and the job, and returns how it ended; it raises only
    Stopped. As a context: queues are listened to inside. One at a time in a process, since DBOS is global.
    """

    def __init__(
        self,
        database: Database,
        worker: str,
        sites: tuple[str | None, ...],
        work: Callable[[str, Document], Document],
        *,
        at_once: int = 2,
        poll: float = 1.0,
        version: str = VERSION,
    ) -> None:
        self._database, self._worker, self._sites = database, worker, sites
        self._work, self._at_once, self._poll, self._version = work, at_once, poll, version
        self._active: set[str] = set()
        self._changed = threading.Condition()
        self._ending = False

    @property
    def active(self) -> frozenset[str]:
        """Identities of the runs that are being done here."""
        with self._changed:
            return frozenset(self._active)

    def __enter__(self) -> Self:
        from dbos import DBOS

        queues = [queue_name(site) for site in self._sites]
        with _told(self._database):
            DBOS(
                config={
                    "name": APPLICATION,
                    "system_database_url": self._database.url,
                    "dbos_system_schema": self._database.schema or "dbos",
                    "application_version": self._version,
                    "executor_id": self._worker,
                    "sys_db_pool_size": 5,
                    "use_listen_notify": False,  # for messages between workflows, of which there are none
                    "log_level": "WARNING",
                    "scheduler_polling_interval_sec": 3600.0,  # the calendar of this package decides what is due
                }
            )
            _quiet()

            def run(job: str) -> str:  # DBOS marks what it is given, which a bound method does not take
                return self._run(job)

            DBOS.workflow(name="run", max_recovery_attempts=MOST_TIMES)(run)
            DBOS.listen_queues(queues)
            try:
                DBOS.launch()
                for name in queues:
                    DBOS.register_queue(
                        name,
                        worker_concurrency=self._at_once,
                        partition_concurrency=1,
                        polling_interval_sec=self._poll,
                        on_conflict="always_update",
                    )
            except BaseException:
                DBOS.destroy(destroy_registry=True)
                raise
        return self

    def __exit__(self, *_: object) -> None:
        from dbos import DBOS

        self._ending = True
        DBOS.destroy(destroy_registry=True)

    def drain(self, seconds: float) -> bool:
        """Begins no further run, and waits for those that are being done. Whether all ended."""
        self._ending = True
        with self._changed:
            return self._changed.wait_for(lambda: not self._active, seconds)

    def _run(self, job: str) -> str:
        from dbos import DBOS

        ident = DBOS.workflow_id
        assert ident is not None
        if self._ending:
            raise Stopped
        with self._changed:
            self._active.add(ident)
        try:
            return json.dumps(self._work(ident, json.loads(job)))
        finally:
            with self._changed:
                self._active.discard(ident)
                self._changed.notify_all()


@contextlib.contextmanager
def _told(database: Database) -> Iterator[None]:
    """Errors of libraries as ours: their texts may hold the address with its password."""
    try:
        yield
    except KeepwellError:
        raise
    except Exception as error:
        raise unusable(database, error) from None


def _quiet() -> None:
    """DBOS prints by itself; its lines shall go where all lines go."""
    logger = logging.getLogger("dbos")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
    logger.propagate = True
