"""The log of physical sources in a prune: what must stay for it, and what of it may go."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from keepwell.core import units
from keepwell.core.clock import iso
from keepwell.core.streams import Json
from keepwell.operations.wal_sources import physical_sources
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.retention import Decision
from keepwell.vault.vault import Vault
from keepwell.vault.walprune import LogPrune, LogPruned, LogSource

DEFAULT_WINDOW = dt.timedelta(days=7)


def look(
    loaded: LoadedPolicy, vault: Vault, environment: str | None, now: dt.datetime, *, log_of: Vault | None = None
) -> LogPrune | None:
    """None where there is no log and no physical source. Sources that left the policy keep the default window.

    What the vault has of environments that the policy does not know is not touched, as their backups are not.
    """
    known = physical_sources(loaded)
    listed = (log_of or vault).store.list("wal/")
    inside = {(parts[1], parts[2]) for info in listed if len(parts := info.name.split("/")) > 4}
    wanted = [
        place
        for place in [*known, *sorted(inside - set(known))]
        if place[0] in loaded.policy.environments and environment in {None, place[0]}
    ]
    if not wanted:
        return None
    sources = [LogSource(name, source, window_of(loaded, name, source)) for name, source in wanted]
    return LogPrune(vault, sources, now, loaded.policy.vault.grace, log_of)


def window_of(loaded: LoadedPolicy, environment: str, source: str) -> dt.timedelta:
    """For how long back every moment is to stay recoverable."""
    known = loaded.policy.environments.get(environment)
    window: dt.timedelta | None = getattr(known and known.sources.get(source), "pitr", None)
    return window or DEFAULT_WINDOW


def with_anchors(decisions: Sequence[Decision], log: LogPrune | None) -> list[Decision]:
    """The decisions, with those backups kept that recovery to any moment of the window begins with."""
    anchors = log.anchors if log else {}
    return [
        dataclasses.replace(decision, keep=True, reason=_reason(decision, anchors[decision.backup.id]))
        if not decision.keep and decision.backup.id in anchors
        else decision
        for decision in decisions
    ]


def _reason(decision: Decision, source: LogSource) -> str:
    window = units.show_duration(source.window.total_seconds())
    return (
        f"recovery to any moment of the last {window} of {source.source} begins with it (otherwise {decision.reason})"
    )


def as_json(pruned: LogPruned) -> dict[str, Json]:
    return {
        "environment": pruned.environment,
        "source": pruned.source,
        "objects": pruned.parts,
        "superfluous": pruned.doubled,
        "bytes": pruned.bytes,
        "lost": [
            {"system": lost.system, "from": iso(lost.begin), "to": iso(lost.end) if lost.end else None}
            for lost in pruned.lost
        ],
    }
