"""All rules, in the order in which they are shown. They are pure functions of what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from keepwell.watch import rules_around as around
from keepwell.watch import rules_backups as backups
from keepwell.watch.seen import Seen, Symptom


@dataclass(frozen=True)
class Rule:
    name: str
    look: Callable[[Seen], Iterable[Symptom]]
    of_vault: bool
    """It needs the vault: while that cannot be read, its alerts stay as they are."""

    @property
    def about(self) -> str:
        return (self.look.__doc__ or "").strip()


RULES: Mapping[str, Rule] = {
    look.__name__.replace("_", "-"): Rule(look.__name__.replace("_", "-"), look, of_vault)
    for look, of_vault in (
        (around.store_unreachable, False),
        (around.vault_unusable, False),
        (around.watch_away, True),
        (around.clock_off, True),
        (backups.backup_missing, True),
        (backups.backup_incomplete, True),
        (backups.backup_damaged, True),
        (backups.run_failed, False),
        (backups.run_long, False),
        (backups.data_at_risk, True),
        (backups.recovery_slow, True),
        (backups.proof_failed, True),
        (backups.proof_overdue, True),
        (backups.size_unusual, True),
        (backups.duration_unusual, True),
        (around.store_full, True),
        (around.audit_broken, True),
        (around.copy_behind, True),
        (around.wal_behind, True),
        (around.wal_gap, True),
        (around.provider_stopped, False),
        (around.drill_overdue, True),
        (around.review_overdue, True),
        (around.key_untested, True),
        (around.channel_failed, False),
    )
}


def examine(seen: Seen) -> list[Symptom]:
    """What all rules find, without those that the policy has turned off."""
    found = []
    for rule in RULES.values():
        if rule.name in seen.off or (rule.of_vault and not seen.vault_known):
            continue
        for symptom in rule.look(seen):
            env = seen.environment(symptom.environment)
            if env is None or rule.name not in env.off:
                found.append(symptom)
    return found


def blind(seen: Seen) -> frozenset[str]:
    """Rules that could not look."""
    return frozenset() if seen.vault_known else frozenset(rule.name for rule in RULES.values() if rule.of_vault)
