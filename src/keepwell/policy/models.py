"""keepwell.toml as the program sees it. What each key means for people: docs/reference/policy.md."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field, StrictInt, field_validator, model_validator

from keepwell.core import units
from keepwell.policy.audit import AuditPolicy
from keepwell.policy.copies import CopyPolicy
from keepwell.policy.expect import Expect
from keepwell.policy.keep import Keep, KeepRule
from keepwell.policy.lock import too_short
from keepwell.policy.schedules import Schedules, too_much_jitter
from keepwell.policy.secret import SecretRef
from keepwell.policy.source import (
    DATABASES,
    BucketSource,
    Check,
    FilesSource,
    GitSource,
    PostgresSource,
    Source,
    SqliteSource,
)
from keepwell.policy.values import Duration, Level, Name, Schedule, Span, Table, Tier, Timezone, nearest, wrong
from keepwell.policy.vault import SECRET_OPTIONS, VaultKey, VaultPolicy
from keepwell.policy.watch import Channel, Contacts, EnvironmentWatch, WatchPolicy, check_names
from keepwell.vault.layout import RESERVED, TIERS

VERSION = 1
RETENTION = {"production": "30d", "staging": "14d", "development": "7d"}
"""The strategy's retention by environment; any other keeps as production does."""


class Objectives(Table):
    """How fast a recovery must be, and how much data may be at risk: the target and the most that is acceptable."""

    rto: Span = Field(default="4h", validate_default=True, description="Time to recover: the target.")
    rto_max: Span = Field(default="8h", validate_default=True, description="Time to recover: the maximum.")
    rpo: Span = Field(default="24h", validate_default=True, description="Age of the newest backup: the target.")
    rpo_max: Span = Field(default="24h", validate_default=True, description="Age of the newest backup: the maximum.")

    @model_validator(mode="after")
    def _target_below_maximum(self) -> Objectives:
        for name in ("rto", "rpo"):
            target, most = getattr(self, name), getattr(self, f"{name}_max")
            if target > most:
                given = f"{name}_max" if f"{name}_max" in self.model_fields_set else name
                other = name if given == f"{name}_max" else f"{name}_max"
                default = "" if other in self.model_fields_set else ", by default"
                raise wrong(
                    f"the target {name} is longer than the maximum {name}_max ({other} is "
                    f"{units.show_duration(getattr(self, other).total_seconds())}{default})",
                    f"Set {name} and {name}_max, the maximum at least as long as the target.",
                    (given,),
                )
        return self


class Environment(Table):
    """A set of sources that are backed up together, with one schedule, retention and objectives."""

    schedule: Schedule | None = Field(
        default=None, description="When backups are due, as five cron fields; none: only by hand."
    )
    timezone: Timezone = Field(default="UTC", description="The time zone of the schedule and of the tiers.")
    jitter: Duration = Field(
        default="0s",
        validate_default=True,
        description="By how much at the most a run begins later than it is due, so that not all begin at once.",
    )
    site: Name | None = Field(default=None, description="Which workers of a fleet do its runs.")
    objectives: Objectives = Field(default={}, validate_default=True, description="Time to recover and data at risk.")
    keep: Keep = Field(default={}, validate_default=True, description="How long backups stay.")
    verify: Level = Field(default="checks", description="How far `keepwell verify` goes unless told otherwise.")
    watch: EnvironmentWatch = Field(
        default={}, validate_default=True, description="What the watch does otherwise here."
    )
    sources: dict[Name, Source] = Field(description="What to protect, by name.")

    @model_validator(mode="after")
    def _in_turn(self) -> Environment:
        if self.schedule and (gap := too_much_jitter(self.schedule, self.timezone, self.jitter)):
            raise wrong(
                f"a backup could begin after the next one, which is due {units.show_duration(gap.total_seconds())} later",
                "Write a jitter that is shorter than the time between two backups.",
                ("jitter",),
            )
        return self

    @model_validator(mode="after")
    def _refer_to_files(self) -> Environment:
        for name, source in self.sources.items():
            for number, reference in enumerate(getattr(source, "references", ())):
                there = self.sources.get(reference.source)
                if isinstance(there, FilesSource | BucketSource):
                    continue
                raise wrong(
                    "is no source of this environment" if there is None else f"is of type {there.type}, not of files",
                    nearest(reference.source, self.sources) or "Name a source of type files or bucket beside this one.",
                    ("sources", name, "references", str(number), "source"),
                )
        return self

    @field_validator("sources", mode="after")
    @classmethod
    def _something_to_do(cls, value: dict[str, Source]) -> dict[str, Source]:
        if not value:
            raise wrong("has nothing to protect", "Add a table [environments.<name>.sources.<source>].")
        return value


class Policy(Table):
    """The whole of keepwell.toml."""

    version: StrictInt = Field(description="The version of this format: 1.", json_schema_extra={"const": VERSION})
    project: str = Field(min_length=1, description="What the backups are of, for people.")
    vault: VaultPolicy = Field(description="Where the backups go.")
    copies: tuple[CopyPolicy, ...] = Field(
        default=(), description="Further vaults that are kept in step with the first."
    )
    environments: dict[Name, Environment] = Field(description="What to back up, by environment.")
    schedules: Schedules = Field(
        default={}, validate_default=True, description="What is done by itself beside backups, and when."
    )
    engine: SecretRef | None = Field(
        default=None,
        description="Where the URL of the PostgreSQL database is to be found through which several machines share the work. "
        "Default: SQLite beside the policy, for one.",
    )
    audit: AuditPolicy = Field(
        default={},
        validate_default=True,
        description="How long is kept what was done to the vault, and what runs said.",
    )
    watch: WatchPolicy = Field(default={}, validate_default=True, description="What is watched, and how late is late.")
    notify: dict[Name, Channel] = Field(default={}, description="Ways to reach people, by name.")
    contacts: Contacts = Field(default={}, validate_default=True, description="Who is told, and who is told next.")

    @field_validator("version", mode="after")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != VERSION:
            raise wrong(
                f"is {value}, and this keepwell knows {VERSION}", f"Write version = {VERSION}, or update keepwell."
            )
        return value

    @field_validator("environments", mode="after")
    @classmethod
    def _usable_names(cls, value: dict[str, Environment]) -> dict[str, Environment]:
        if not value:
            raise wrong("has no environment", "Add a table [environments.production].")
        for name in value:
            if name in RESERVED:
                raise wrong(
                    "is the name of a folder that every vault has",
                    f"Choose another name; taken are: {', '.join(sorted(RESERVED))}.",
                    (name,),
                )
        return value

    @model_validator(mode="after")
    def _copies_apart(self) -> Policy:
        names, stores = [copy.name for copy in self.copies], [self.vault.store, *(copy.store for copy in self.copies)]
        for number, copy in enumerate(self.copies):
            if names.index(copy.name) != number:
                raise wrong("is the name of another copy", "Give each its own.", ("copies", str(number), "name"))
            if stores.index(copy.store) != number + 1:
                raise wrong(
                    "is a store that is in use already: a copy in the same place is no copy",
                    "Name another store, best at another provider.",
                    ("copies", str(number), "store"),
                )
        return self

    @model_validator(mode="after")
    def _known_names(self) -> Policy:
        if found := check_names(self.notify, self.contacts, self.environments):
            raise wrong(*found)
        return self

    @model_validator(mode="after")
    def _locked_long_enough(self) -> Policy:
        if error := too_short(self):
            raise error
        return self

    def keep(self, environment: str, given: Keep | None = None) -> Keep:
        """The rules of an environment, every tier filled in; of a copy, where `given` is what it says.

        daily and manual: the strategy's retention; weekly as daily, monthly as weekly: these took the place of a daily
        one, so they stay at least as long. Raises KeyError.
        """
        given = given or self.environments[environment].keep
        default = KeepRule(age=units.duration(RETENTION.get(environment, RETENTION["production"])))
        daily = given.daily or default
        weekly = given.weekly or daily
        return Keep(daily=daily, weekly=weekly, monthly=given.monthly or weekly, manual=given.manual or default)

    def keep_rules(self, copy: CopyPolicy | None = None) -> Mapping[str, Keep]:
        """`keep` of every environment, in the vault or in a copy: what `retention.decide` takes."""
        return {name: self.keep(name, copy.keep if copy else None) for name in self.environments}


__all__ = [
    "DATABASES",
    "RETENTION",
    "SECRET_OPTIONS",
    "TIERS",
    "VERSION",
    "BucketSource",
    "Check",
    "CopyPolicy",
    "Environment",
    "Expect",
    "FilesSource",
    "GitSource",
    "Keep",
    "KeepRule",
    "Level",
    "Objectives",
    "Policy",
    "PostgresSource",
    "SecretRef",
    "Source",
    "SqliteSource",
    "Tier",
    "VaultKey",
    "VaultPolicy",
]
