"""keepwell.toml as the program sees it. What each key means for people: docs/reference/policy.md."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from keepwell.core import units
from keepwell.core.errors import StoreError
from keepwell.policy import expect as expectation
from keepwell.policy.expect import Expect
from keepwell.policy.secret import SecretRef
from keepwell.policy.values import (
    Duration,
    Level,
    Name,
    PackSize,
    PolicyPath,
    Schedule,
    Span,
    Table,
    Tier,
    Timezone,
    nearest,
    wrong,
)
from keepwell.vault.layout import RESERVED, TIERS

VERSION = 1
SECRET_OPTIONS = frozenset(
    {"account_key", "client_secret", "sas_key", "secret_access_key", "service_account_key", "session_token", "token"}
)
"""Options of a store that must be references."""
RETENTION = {"production": "30d", "staging": "14d", "development": "7d"}
"""The strategy's retention by environment; any other keeps as production does."""
DATABASES = ("postgres", "sqlite")


def _expect(text: str) -> str:
    try:
        expectation.parse(text)
    except ValueError as error:
        raise wrong(str(error)) from None
    return text


class Check(Table):
    """One of the policy's own questions to a restored source: a query with an expectation, or a command."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["sql", "expect"]}, {"required": ["command"]}]})

    name: str = Field(min_length=1, description="What the check makes sure of, as it shall stand in reports.")
    sql: str | None = Field(
        default=None, min_length=1, description="A query; the first column of its first row is looked at."
    )
    expect: Annotated[str, AfterValidator(_expect)] | None = Field(
        default=None, description="What the query must answer.", examples=["= 0", "> 10", "between 1 and 5", "= 'done'"]
    )
    command: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="A program and its arguments; it must exit with 0. Run without a shell."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Check:
        if (self.sql is None) == (self.command is None):
            given = "both sql and command" if self.sql else "neither sql nor command"
            raise wrong(
                f"has {given}", 'Write sql = "select …" with expect = "= 0", or command = ["program", "argument"].'
            )
        if self.sql is not None and self.expect is None:
            raise wrong("has a query but says not what it must answer", 'Add for example expect = "= 0".')
        if self.command is not None and self.expect is not None:
            raise wrong("is only for queries; a command must exit with 0", "Take it out.", ("expect",))
        return self

    @property
    def expectation(self) -> Expect | None:
        """`expect`, ready to use; None for a command."""
        return None if self.expect is None else expectation.parse(self.expect)


class _Source(Table):
    """What all kinds of source have."""

    checks: tuple[Check, ...] = Field(default=(), description="Your own questions to the restored source.")
    portable: tuple[Tier, ...] = Field(
        default=(),
        description="Tiers whose backups also get a copy that needs no keepwell, NOT encrypted, beside them in the store.",
    )

    @model_validator(mode="after")
    def _different_names(self) -> _Source:
        names = [check.name for check in self.checks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise wrong(f"two checks are called {twice[0]!r}", "Give each its own name.", ("checks",))
        return self


class _Database(_Source):
    critical_tables: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(),
        description="Tables that must exist and have rows in every proof.",
        examples=[["users", "public.leads"]],
    )


class PostgresSource(_Database):
    """A PostgreSQL database."""

    type: Literal["postgres"]
    url: SecretRef = Field(description="Where the database's URL is to be found: postgresql://user:password@host/name.")
    method: Literal["logical"] = Field(
        default="logical", description="How it is read: logical is pg_dump under one snapshot."
    )

    @field_validator("method", mode="before")
    @classmethod
    def _not_yet(cls, value: Any) -> Any:
        if value == "physical":
            raise wrong("physical backups come in a later version of keepwell", 'Write method = "logical".')
        return value


class SqliteSource(_Database):
    """A SQLite database file."""

    type: Literal["sqlite"]
    path: PolicyPath = Field(description="The database file; relative to the policy file.")


class FilesSource(_Source):
    """A folder with everything in it."""

    type: Literal["files"]
    path: PolicyPath = Field(description="The folder; relative to the policy file.")
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="Patterns of what to leave out.", examples=[["*.tmp", "cache/"]]
    )

    @model_validator(mode="after")
    def _no_queries(self) -> FilesSource:
        for number, check in enumerate(self.checks):
            if check.sql is not None:
                raise wrong(
                    "files answer no queries",
                    'Use command = ["program", "argument"] instead.',
                    ("checks", str(number), "sql"),
                )
        return self


Source: TypeAlias = Annotated[PostgresSource | SqliteSource | FilesSource, Field(discriminator="type")]
LATER_TYPES = {"git": "Git repositories", "bucket": "buckets of files"}
"""Kinds of source that a later version brings."""


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
    sources: dict[Name, Source] = Field(description="What to protect, by name.")

    @field_validator("sources", mode="after")
    @classmethod
    def _something_to_do(cls, value: dict[str, Source]) -> dict[str, Source]:
        if not value:
            raise wrong("has nothing to protect", "Add a table [environments.<name>.sources.<source>].")
        return value


class VaultKey(Table):
    """What opens the vault: a key file, or a passphrase that is found by reference."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["file"]}, {"required": ["passphrase"]}]})

    file: PolicyPath | None = Field(default=None, description="The key file; relative to the policy file.")
    passphrase: SecretRef | None = Field(default=None, description="Where the passphrase is to be found.")

    @model_validator(mode="before")
    @classmethod
    def _no_literal(cls, value: Any) -> Any:
        if not isinstance(value, (dict, VaultKey)):
            raise wrong(
                "is not a reference to a key; a key or a passphrase never stands in the policy",
                'Write key = { file = "vault.key" } or key = { passphrase = { env = "KEEPWELL_PASSPHRASE" } }. A literal '
                "would be committed to Git with the policy and be seen by everyone who reads it.",
            )
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> VaultKey:
        if (self.file is None) == (self.passphrase is None):
            given = "both file and passphrase" if self.file else "neither file nor passphrase"
            raise wrong(
                f"has {given}",
                'Write key = { file = "vault.key" } or key = { passphrase = { env = "KEEPWELL_PASSPHRASE" } }.',
            )
        return self


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int, float)):
        return str(value)
    raise wrong("is not the value of an option", 'Write a text, a number, true or false, or { env = "NAME" }.')


Option: TypeAlias = Annotated[
    Annotated[SecretRef, Tag("reference")]
    | Annotated[
        str,
        BeforeValidator(_plain),
        WithJsonSchema({"type": ["string", "boolean", "number"]}),
        Tag("plain"),
    ],
    Discriminator(lambda value: "reference" if isinstance(value, (dict, SecretRef)) else "plain"),
]


class VaultPolicy(Table):
    """The vault: where it is, what opens it, how it is written."""

    store: str = Field(description="The store's address.", examples=["file:///var/backups/leads", "s3://bucket/prefix"])
    options: dict[str, Option] = Field(
        default={}, description="Options of the store: endpoint, region, and others. A secret one is a reference."
    )
    key: VaultKey = Field(description="What opens the vault.")
    grace: Duration = Field(
        default="24h",
        validate_default=True,
        description="How long what `keepwell prune` took out can still be brought back.",
    )
    compression: StrictInt = Field(default=3, ge=1, le=19, description="Zstandard level: 1 is fast, 19 small.")
    pack_size: PackSize = Field(
        default="32 MiB", validate_default=True, description="Size of the objects in the store."
    )

    @field_validator("store", mode="after")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        _check_store(value)
        return value

    @field_validator("options", mode="before")
    @classmethod
    def _secrets_by_reference(cls, value: Any) -> Any:
        for name in SECRET_OPTIONS & set(value if isinstance(value, dict) else ()):
            if not isinstance(value[name], (dict, SecretRef)):
                raise wrong(
                    "is written out in plain text; a secret is always a reference",
                    f'Write {name} = {{ env = "NAME" }}, or leave it out and set the variable of docs/how-to/stores.md. A '
                    "literal would be committed to Git with the policy.",
                    (name,),
                )
        return value

    @model_validator(mode="after")
    def _known_options(self) -> VaultPolicy:
        if not self.options:
            return self
        scheme = urlsplit(self.store).scheme
        if scheme == "file":
            raise wrong("are for buckets; a folder has none", "Take them out.", ("options",))
        from keepwell.stores.cloud import known_options

        known = known_options(scheme)
        for name in self.options:
            if name not in known:
                near = nearest(name, known)
                raise wrong(
                    f"is not an option of {scheme}:// stores",
                    f"{near} Known are: {', '.join(sorted(known))}.".strip(),
                    ("options", name),
                )
        return self

    def store_options(self, base: Path) -> dict[str, str]:
        """The options as `open_store` takes them, secrets resolved. Raises StoreError where one cannot be had."""
        return {
            name: value
            if isinstance(value, str)
            else value.resolve(base, what=f"the store's option {name}", error=StoreError).reveal()
            for name, value in self.options.items()
        }

    def folder(self) -> Path | None:
        """Where a `file://` vault is; None for a bucket."""
        parts = urlsplit(self.store)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _check_store(url: str) -> None:
    """Refuses what cannot be an address, without ever repeating what may be a password."""
    forms = "file:///folder, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix"
    try:
        parts = urlsplit(url)
        secret = parts.username or parts.password or parts.query or parts.fragment
    except ValueError:
        raise wrong("is not an address", f"Write {forms}.") from None
    if secret or "@" in parts.netloc:
        raise wrong(
            "has more in it than an address: a user, a password, or something after ? or #",
            "Take it out: it would be committed to Git with the policy. Credentials come from the environment "
            "(docs/how-to/stores.md) or by reference from [vault] options.",
        )
    if parts.scheme == "sftp":
        raise wrong("is a store over SFTP, which comes in a later version of keepwell", f"Write {forms}.")
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/"):
            raise wrong(
                "is not the address of a folder", "Write file:// and the absolute path: file:///var/backups/leads."
            )
    elif parts.scheme not in {"s3", "gs", "az"}:
        raise wrong("is not the address of a store", f"Write {forms}.")
    elif not parts.netloc:
        raise wrong("names no bucket", f"Write {parts.scheme}://bucket or {parts.scheme}://bucket/prefix.")


class Policy(Table):
    """The whole of keepwell.toml."""

    version: StrictInt = Field(description="The version of this format: 1.", json_schema_extra={"const": VERSION})
    project: str = Field(min_length=1, description="What the backups are of, for people.")
    vault: VaultPolicy = Field(description="Where the backups go.")
    environments: dict[Name, Environment] = Field(description="What to back up, by environment.")

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
    "TIERS",
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
