"""keepwell.toml as the program sees it. What each key means for people: docs/reference/policy.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, StrictInt, WithJsonSchema, field_validator, model_validator

from keepwell.core import units
from keepwell.policy.expect import Expect
from keepwell.policy.secret import SecretRef
from keepwell.policy.source import DATABASES, LATER_TYPES, Check, FilesSource, PostgresSource, Source, SqliteSource
from keepwell.policy.values import Level, Name, Schedule, Span, Table, Tier, Timezone, wrong
from keepwell.policy.vault import SECRET_OPTIONS, VaultKey, VaultPolicy
from keepwell.policy.watch import Channel, Contacts, EnvironmentWatch, WatchPolicy, check_names
from keepwell.vault.layout import RESERVED, TIERS

VERSION = 1
RETENTION = {"production": "30d", "staging": "14d", "development": "7d"}
"""The strategy's retention by environment; any other keeps as production does."""


class KeepRule(Table):
    """How long backups of one tier stay: while they are younger than `age`, or among the newest `count`."""

    age: Span | None = None
    count: Annotated[StrictInt, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int, dict, KeepRule)):
            raise wrong(
                "is not a rule", 'Write an age such as "30d", a number such as 12, or { age = "30d", count = 12 }.'
            )
        if isinstance(value, str):
            return {"count": int(value)} if value.strip().isdecimal() else {"age": value}
        return {"count": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _says_something(self) -> KeepRule:
        if self.age is None and self.count is None:
            raise wrong("says neither age nor count", 'Write for example "30d", 12, or { age = "30d", count = 12 }.')
        return self


Rule: TypeAlias = Annotated[
    KeepRule,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\s*(\d+|(\d+\s*(s|m|h|d|w|y)\s*)+)\s*$"},
                {"type": "integer", "minimum": 1},
                {
                    "type": "object",
                    "properties": {"age": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
                    "minProperties": 1,
                    "additionalProperties": False,
                },
            ],
            "examples": ["30d", 12, {"age": "30d", "count": 12}],
        }
    ),
]


class Keep(Table):
    """How long backups stay, by tier. `Policy.keep` fills in what is left out."""

    daily: Rule | None = Field(default=None, description="Default: 30d; staging 14d; development 7d.")
    weekly: Rule | None = Field(default=None, description="Default: as daily.")
    monthly: Rule | None = Field(default=None, description="Default: as weekly.")
    manual: Rule | None = Field(default=None, description="Default: 30d; staging 14d; development 7d.")

    def rule(self, tier: str) -> KeepRule | None:
        """The rule of a tier; None where there is none."""
        return {"daily": self.daily, "weekly": self.weekly, "monthly": self.monthly, "manual": self.manual}.get(tier)


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
    objectives: Objectives = Field(default=Objectives(), description="Time to recover and data at risk.")
    keep: Keep = Field(default=Keep(), description="How long backups stay.")
    verify: Level = Field(default="checks", description="How far `keepwell verify` goes unless told otherwise.")
    watch: EnvironmentWatch = Field(default=EnvironmentWatch(), description="What the watch does otherwise here.")
    sources: dict[Name, Source] = Field(description="What to protect, by name.")

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
    environments: dict[Name, Environment] = Field(description="What to back up, by environment.")
    watch: WatchPolicy = Field(default=WatchPolicy(), description="What is watched, and how late is late.")
    notify: dict[Name, Channel] = Field(default={}, description="Ways to reach people, by name.")
    contacts: Contacts = Field(default=Contacts(), description="Who is told, and who is told next.")

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
    def _known_names(self) -> Policy:
        if found := check_names(self.notify, self.contacts, self.environments):
            raise wrong(*found)
        return self

    def keep(self, environment: str) -> Keep:
        """The rules of an environment, every tier filled in.

        daily and manual: the strategy's retention; weekly as daily, monthly as weekly: these took the place of a daily
        one, so they stay at least as long. Raises KeyError.
        """
        given = self.environments[environment].keep
        default = KeepRule(age=units.duration(RETENTION.get(environment, RETENTION["production"])))
        daily = given.daily or default
        weekly = given.weekly or daily
        return Keep(daily=daily, weekly=weekly, monthly=given.monthly or weekly, manual=given.manual or default)

    def keep_rules(self) -> Mapping[str, Keep]:
        """`keep` of every environment: what `retention.decide` takes."""
        return {name: self.keep(name) for name in self.environments}


__all__ = [
    "DATABASES",
    "LATER_TYPES",
    "RETENTION",
    "SECRET_OPTIONS",
    "TIERS",
    "VERSION",
    "Check",
    "Environment",
    "Expect",
    "FilesSource",
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
