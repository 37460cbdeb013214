"""Sources as the policy names them, and the policy's own questions to them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, model_validator

from keepwell.policy import expect as expectation
from keepwell.policy.expect import Expect
from keepwell.policy.secret import SecretRef
from keepwell.policy.values import PolicyPath, Span, Table, Tier, wrong

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
    method: Literal["logical", "physical"] = Field(
        default="logical",
        description="How it is read: logical is pg_dump under one snapshot; physical is the whole cluster over the "
        "replication protocol, with recovery to any moment.",
    )
    pitr: Span = Field(
        default="7d",
        validate_default=True,
        description="Physical: how far back recovery to any moment is kept possible.",
    )
    on_damaged_page: Literal["fail", "keep"] = Field(
        default="fail",
        description="Physical: whether a page with a wrong checksum on the server fails the backup, or is kept and named.",
    )
    read_from: Literal["auto", "server", "files"] = Field(
        default="auto",
        description="Physical: whether the server sends its files, or they are read themselves, on its host.",
    )
    checkpoint: Literal["fast", "spread"] = Field(
        default="fast", description="Physical: whether the checkpoint that a backup begins with is made at once."
    )
    slot: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,63}$")] | None = Field(
        default=None,
        description="Physical: the replication slot of `keepwell wal receive`. Default: keepwell_ENVIRONMENT_SOURCE.",
    )
    database: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Physical: the database that a proof asks the checks of. Default: postgres."
    )
    canary: StrictBool = Field(
        default=False,
        description="Physical: whether each backup writes a row into public.keepwell_canary, which proofs look for.",
    )

    @model_validator(mode="after")
    def _of_one_method(self) -> PostgresSource:
        if self.method == "logical":
            for name in ("pitr", "on_damaged_page", "read_from", "checkpoint", "slot", "database", "canary"):
                if name in self.model_fields_set:
                    raise wrong(
                        'is for method = "physical", and this source is logical',
                        f'Take out {name}, or write method = "physical".',
                        (name,),
                    )
        elif self.portable:
            raise wrong(
                "is for logical backups: a cluster of files is no portable copy",
                "Take it out, or add a second source with the logical method.",
                ("portable",),
            )
        return self


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
