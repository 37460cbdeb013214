"""What a valid policy had better not do: warnings, each with the mend."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from pathlib import Path

from keepwell.core import units
from keepwell.core.clock import UTC
from keepwell.policy import schedule
from keepwell.policy.models import BucketSource, Environment, FilesSource, GitSource, Policy, PostgresSource
from keepwell.policy.secret import SecretRef
from keepwell.vault.layout import TIERS

_ANY_MONDAY = dt.datetime(2024, 1, 1, tzinfo=UTC)
"""Schedules repeat: how far apart due times are does not depend on today."""
_SHORT_GRACE = dt.timedelta(hours=1)
_UPLOADS = dt.timedelta(days=90)
"""The strategy: File Storage, retention."""


def warnings_of(policy: Policy, base: Path) -> Iterator[str]:
    """`base` is the policy's folder."""
    vault = policy.vault
    if vault.key.file:
        yield from _readable("vault.key.file", vault.key.file)
        if (folder := vault.folder()) and _inside(vault.key.file, folder):
            yield (
                f"vault.key.file: {vault.key.file} lies inside the vault, so whoever gets the vault gets the key with it. "
                "Keep it elsewhere, and a copy of it away from this machine."
            )
    for where, ref in _references(policy):
        if path := ref.path(base):
            yield from _readable(f"{where}.file", path)
    if vault.grace < _SHORT_GRACE:
        yield (
            "vault.grace: below an hour, what prune took out can hardly be brought back, and a slow backup from another "
            'machine may need what is deleted. Write for example grace = "24h".'
        )
    for name, environment in policy.environments.items():
        yield from _late(name, environment)
        yield from _uploads(name, environment, policy)
        for source_name, source in environment.sources.items():
            if isinstance(source, FilesSource) and (folder := vault.folder()):
                yield from _backs_up_itself(f"environments.{name}.sources.{source_name}", source, folder)


def _references(policy: Policy) -> Iterator[tuple[str, SecretRef]]:
    if policy.vault.key.passphrase:
        yield "vault.key.passphrase", policy.vault.key.passphrase
    for name, value in policy.vault.options.items():
        if isinstance(value, SecretRef):
            yield f"vault.options.{name}", value
    for name, environment in policy.environments.items():
        for source_name, source in environment.sources.items():
            if isinstance(source, PostgresSource):
                yield f"environments.{name}.sources.{source_name}.url", source.url
                if source.provider:
                    yield f"environments.{name}.sources.{source_name}.provider.token", source.provider.account.token
            elif isinstance(source, BucketSource):
                for option, value in source.options.items():
                    if isinstance(value, SecretRef):
                        yield f"environments.{name}.sources.{source_name}.options.{option}", value
            elif isinstance(source, GitSource) and source.password:
                yield f"environments.{name}.sources.{source_name}.password", source.password


def _readable(where: str, path: Path) -> Iterator[str]:
    """A secret that other users of the machine can read. A missing file is not this function's matter."""
    try:
        mode = path.stat().st_mode & 0o777
    except (OSError, ValueError):
        return
    if mode & 0o044:
        yield f"{where}: {path} can be read by other users (mode {mode:03o}). Run: chmod 600 {path}"


def _late(name: str, environment: Environment) -> Iterator[str]:
    """Only for a maximum that was written: by the strategy, staging is weekly although the maximum is a day."""
    if environment.schedule is None or "rpo_max" not in environment.objectives.model_fields_set:
        return
    gap = schedule.longest_gap(environment.schedule, _ANY_MONDAY, environment.timezone)
    if gap > environment.objectives.rpo_max:
        yield (
            f"environments.{name}.objectives.rpo_max: the schedule {environment.schedule!r} puts up to "
            f"{units.show_duration(gap.total_seconds())} of data at risk, more than "
            f"{units.show_duration(environment.objectives.rpo_max.total_seconds())}. Back up more often."
        )


def _uploads(name: str, environment: Environment, policy: Policy) -> Iterator[str]:
    """Backups are taken and kept by environment: what is uploaded cannot stay longer than the database beside it."""
    buckets = [source for source, what in environment.sources.items() if isinstance(what, BucketSource)]
    rules = [rule for tier in TIERS if (rule := policy.keep(name).rule(tier))]
    ages = [rule.age for rule in rules if rule.age]
    if buckets and ages and max(ages) < _UPLOADS and not any(rule.count for rule in rules):
        yield (
            f"environments.{name}.keep: backups of {', '.join(buckets)} stay at most "
            f"{units.show_duration(max(ages).total_seconds())}; the strategy keeps uploaded files 90 days. Write "
            'keep = { daily = "30d", weekly = "90d" }, or give the bucket an environment of its own with '
            'keep = { daily = "90d" }.'
        )


def _backs_up_itself(where: str, source: FilesSource, vault: Path) -> Iterator[str]:
    if not _inside(vault, source.path):
        return
    from keepwell.sources.files.spec import excluder

    parts = Path(os.path.relpath(os.path.realpath(vault), os.path.realpath(source.path))).parts
    left_out = excluder(source.exclude)
    if not any(left_out("/".join(parts[:depth]), True) for depth in range(1, len(parts) + 1)):
        pattern = "/" + "/".join(parts) + "/" if parts else "the vault"
        yield f"{where}: the vault lies inside this folder and would be backed up into itself. Add {pattern!r} to exclude."


def _inside(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
