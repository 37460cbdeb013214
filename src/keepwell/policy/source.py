"""Sources as the policy names them, and the policy's own questions to them."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, model_validator

from keepwell.policy import expect as expectation
from keepwell.policy.expect import Expect
from keepwell.policy.provider import Provider
from keepwell.policy.references import References
from keepwell.policy.secret import SecretRef
from keepwell.policy.values import PolicyPath, Span, Table, Tier, wrong
from keepwell.policy.vault import Address

DATABASES = ("postgres", "sqlite")
_GIT_URLS = 'Write for example url = "https://git.example.org/leads.git" or url = "git@git.example.org:leads.git".'


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
    references: References = Field(
        default=(),
        description="What the database refers to in a source of files or objects: every proof looks whether it is there.",
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
    provider: Provider | None = Field(
        default=None, description="Who runs the database, so that the backups they take themselves are looked at too."
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
        _refuse_queries(self.checks, "files")
        return self


class BucketSource(_Source, Address):
    """The objects of a bucket, or those below a prefix."""

    type: Literal["bucket"]
    include: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="Patterns of what to take; left out: everything.", examples=[["avatars/", "*.pdf"]]
    )
    exclude: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="Patterns of what to leave out.", examples=[["*.tmp", "cache/"]]
    )
    allow_empty: StrictBool = Field(default=False, description="Whether nothing at all is a backup too.")

    @model_validator(mode="after")
    def _a_bucket(self) -> BucketSource:
        scheme = urlsplit(self.store).scheme
        if scheme not in {"s3", "gs", "az"}:
            raise wrong(
                "is not the address of a bucket: s3://, gs:// or az://",
                'For a folder write type = "files" and path.' if scheme == "file" else "",
                ("store",),
            )
        _refuse_queries(self.checks, "objects")
        return self


def _refuse_queries(checks: tuple[Check, ...], what: str) -> None:
    for number, check in enumerate(checks):
        if check.sql is not None:
            raise wrong(
                f"{what} answer no queries",
                'Use command = ["program", "argument"] instead.',
                ("checks", str(number), "sql"),
            )


def _git_url(url: str) -> str:
    """`https://host/path`, `ssh://[user@]host/path` or `user@host:path`; http on this machine only."""
    try:
        parts = urlsplit(url)
        password, host = parts.password, parts.hostname
    except ValueError:
        raise wrong("is not a URL", _GIT_URLS) from None
    if password is not None or (parts.scheme.startswith("http") and parts.username is not None):
        raise wrong(
            "holds a password or user name",
            'Write them as username = "…" and password = { env = "NAME" }. If a real secret stood here, change it where it '
            "is used.",
        )
    if "://" not in url:
        if not re.fullmatch(r"[A-Za-z0-9_.][^\s:/]*:[^\s:][^\s]*", url):
            raise wrong("is not a URL; a folder on this machine is a path", _GIT_URLS)
        return url
    if parts.scheme == "http" and host not in {"localhost", "127.0.0.1", "::1"}:
        raise wrong("is not encrypted: anyone on the way can change what is backed up", "Write https://….")
    if parts.scheme not in {"https", "http", "ssh"} or not host or host.startswith("-"):
        raise wrong("is not a URL that repositories are read from", _GIT_URLS)
    return url


class GitSource(_Source):
    """A Git repository with all its refs."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["url"]}]})

    type: Literal["git"]
    path: PolicyPath | None = Field(
        default=None, description="A working clone or a bare repository; relative to the policy file."
    )
    url: Annotated[str, AfterValidator(_git_url)] | None = Field(
        default=None,
        description="A repository on a server, without a password.",
        examples=["https://git.example.org/leads.git", "git@git.example.org:leads.git"],
    )
    username: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="For https: who logs in. Default: git, which hosting services take with a token."
    )
    password: SecretRef | None = Field(
        default=None, description="For https: where the password or token is to be found."
    )
    ssh_key: PolicyPath | None = Field(
        default=None, description="For ssh: the private key's file. Default: what ssh itself would use."
    )
    known_hosts: PolicyPath | None = Field(
        default=None, description="For ssh: the file with the server's host key. Default: that of the user."
    )

    @model_validator(mode="after")
    def _one_place(self) -> GitSource:
        if (self.path is None) == (self.url is None):
            given = "both path and url" if self.url else "neither path nor url"
            raise wrong(
                f"has {given}", 'Write path = "/srv/git/leads.git" or url = "https://git.example.org/leads.git".'
            )
        web = self.url is not None and self.url.startswith("http")
        for name in ("username", "password"):
            if name in self.model_fields_set and not web:
                raise wrong("is for a url that begins with https", "Take it out.", (name,))
        for name in ("ssh_key", "known_hosts"):
            if name in self.model_fields_set and (web or self.url is None):
                raise wrong("is for a url of ssh", "Take it out.", (name,))
        _refuse_queries(self.checks, "repositories")
        return self


Source: TypeAlias = Annotated[
    PostgresSource | SqliteSource | FilesSource | BucketSource | GitSource, Field(discriminator="type")
]
