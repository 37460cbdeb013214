"""What is due now goes into the queue. Any process may plan, and several at once: the identity of an occurrence is the
same everywhere, and the queue takes each only once.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass

from keepwell.core import logs
from keepwell.core.clock import Clock, iso
from keepwell.engine import calendar
from keepwell.engine.calendar import Plan
from keepwell.engine.jobs import Job
from keepwell.engine.ledger import Ledger
from keepwell.policy.load import LoadedPolicy

_LATE = dt.timedelta(minutes=5)
"""A run that begins later than this after its time was missed, and is caught up."""
_AHEAD = dt.timedelta(minutes=5)
"""A mark further in the future than this was made by a clock that was wrong."""

_LOG = logs.get("engine")


@dataclass
class Planner:
    policy: Callable[[], LoadedPolicy]
    ledger: Ledger
    enqueue: Callable[[Job], None]
    clock: Clock

    def look(self) -> list[Job]:
        """Enqueues what has become due since the last look, of each plan one run at the most. Raises EngineError.

        A plan that nobody has looked at before begins now. Enqueued first, marked as looked at after: where the process
        dies in between, the same occurrences are enqueued again, which changes nothing.
        """
        now, marks = self.clock.now(), self.ledger.marks()
        found: list[Job] = []
        new: dict[str, dt.datetime] = {}
        for plan in calendar.plans(self.policy().policy):
            name = name_of(plan)
            last = marks.get(name)
            if last is not None and last - now > _AHEAD:
                _LOG.warning("the clock ran backwards: planning goes on from now", plan=name, until=iso(last))
                last = None
            new[name] = now
            job = calendar.missed(plan, last, now) if last is not None else None
            if job is None:
                continue
            late = now - calendar.begins(plan, job.due) > _LATE
            if late and not plan.catch_up:
                _LOG.warning("was missed, and the policy does not want it caught up", job=job.ident)
                continue
            self.enqueue(job)
            found.append(job)
            _LOG.info("caught up" if late else "due", job=job.ident)
        self.ledger.mark({name: moment for name, moment in new.items() if marks.get(name) != moment})
        return found


def name_of(plan: Plan) -> str:
    return f"{plan.kind}/{plan.target}" if plan.target else plan.kind
