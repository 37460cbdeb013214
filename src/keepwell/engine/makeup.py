"""What failed because the store did not answer is made up for when it is back, and not only when it is due again.

Its tries are over after minutes, and a store may be away for days: until the next occurrence, which may be a week away, there would be
no new backup, and people would be told of each run that failed beside the one trouble that they know of.
"""

from __future__ import annotations

from keepwell.engine import calendar
from keepwell.engine.jobs import Job
from keepwell.policy.models import Policy
from keepwell.watch.look import Look
from keepwell.watch.seen import RunSeen
from keepwell.watch.signs import STORE, STORE_KINDS


def made_up(policy: Policy, look: Look) -> list[Job]:
    """Due when the run ended that failed: so each failure has one identity, whoever looks and how often.

    Only what failed while it was known that the store is away: where the store answers and a run fails all the same (a right is
    missing, a copy is away), the next try would, too.
    """
    trouble = look.alerts.get(STORE)
    if not look.seen.vault_known or trouble is None or trouble.over is None:
        return []
    planned = {(plan.kind, plan.target) for plan in calendar.plans(policy)}
    planned |= {("copy", copy.name) for copy in policy.copies if copy.after_backup}
    return [
        Job(kind, target, run.ended)
        for kind, target in sorted(planned, key=str)
        for run in look.seen.runs
        if (run.verb, run.environment) == (kind, target)
        and run.ended is not None
        and _for_the_store(run)
        and trouble.seen <= run.ended <= trouble.over
    ]


def _for_the_store(run: RunSeen) -> bool:
    return run.outcome == "failed" and run.kind in STORE_KINDS
