"""The first keepwell.toml of a project: commented, so that its owner learns each key where it is needed.

Prose comments begin with `# `. Examples of keys that are not set begin with `#` and no space: taking it away sets them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from keepwell.core.errors import UsageError
from keepwell.policy.models import RETENTION


@dataclass(frozen=True)
class SourceAnswer:
    name: str
    type: Literal["postgres", "sqlite", "files", "git"]
    at: str
    """postgres: the name of the environment variable that holds the URL; else the path as it shall stand in the policy."""
    critical_tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnvironmentAnswer:
    name: str
    sources: tuple[SourceAnswer, ...]
    schedule: str | None = None
    """None: only by hand."""
    timezone: str = "UTC"


@dataclass(frozen=True)
class Answers:
    """What `keepwell init` was told. Exactly one of `key_file` and `passphrase_env`."""

    project: str
    store: str
    environments: tuple[EnvironmentAnswer, ...]
    key_file: str | None = None
    passphrase_env: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)


def render(answers: Answers) -> str:
    """The text of keepwell.toml; `load.parse` tells whether the answers made a valid one.

    Raises UsageError where an answer cannot stand in a TOML file, or there is not exactly one key.
    """
    return "\n".join(_lines(answers)) + "\n"


def _lines(answers: Answers) -> Iterator[str]:
    if (answers.key_file is None) == (answers.passphrase_env is None):
        raise UsageError("a vault is made with one key: a key file or a passphrase", hint="Give one of the two.")
    yield "# What keepwell protects, where the backups go, and how fast they must be back."
    yield "# Every key: docs/reference/policy.md. Relative paths are relative to this file."
    yield '# A secret never stands here, only where it is: { env = "NAME" }, { file = "path" } or'
    yield '# { command = ["program", "argument"] }. Lines that begin with # and no space are examples: take the # away.'
    yield ""
    yield "# The version of this format."
    yield "version = 1"
    yield "# What the backups are of, for people."
    yield f"project = {_text(answers.project)}"
    yield ""
    yield from _vault(answers)
    for environment in answers.environments:
        yield ""
        yield from _environment(environment)


def _vault(answers: Answers) -> Iterator[str]:
    yield "[vault]"
    yield "# A folder (better on another disk), or s3://bucket/prefix, gs://…, az://…, sftp://user@host/path."
    yield f"store = {_text(answers.store)}"
    yield "# What opens the vault. Without it nobody can read the backups: keep a copy away from this machine."
    if answers.key_file is not None:
        yield f"key = {{ file = {_text(answers.key_file)} }}"
    else:
        yield f"key = {{ passphrase = {{ env = {_text(answers.passphrase_env or '')} }} }}"
    if not answers.store.startswith("file:"):
        yield "# Options of the store: docs/how-to/stores.md. Credentials come from the environment, or by reference."
        options = ", ".join(f"{name} = {_text(value)}" for name, value in answers.options.items())
        yield f"options = {{ {options} }}" if options else '#options = { endpoint = "https://objects.example.org" }'
    yield "# How long what `keepwell prune` took out can still be brought back."
    yield '#grace = "24h"'
    yield "# Zstandard level: 1 is fast, 19 small."
    yield "#compression = 9"


def _environment(environment: EnvironmentAnswer) -> Iterator[str]:
    name, days = environment.name, RETENTION.get(environment.name, RETENTION["production"])
    yield f"[environments.{name}]"
    yield "# When backups are due: minute, hour, day of the month, month, day of the week. Without: only by hand."
    yield f"schedule = {_text(environment.schedule)}" if environment.schedule else '#schedule = "0 2 * * *"'
    yield f"timezone = {_text(environment.timezone)}"
    yield '# How long backups of each tier stay: an age, a number (12), or { age = "12w", count = 12 }: whichever keeps more.'
    yield "# The first backup of a month is monthly, the first of a week weekly. The newest proven one is never removed."
    yield f'keep = {{ daily = "{days}", weekly = "{days}", monthly = "{days}", manual = "{days}" }}'
    yield "# Time to recover (RTO) and data at risk (RPO): the targets, and the most that is acceptable."
    yield 'objectives = { rto = "4h", rto_max = "8h", rpo = "24h", rpo_max = "24h" }'
    yield '# How far `keepwell verify` goes: "objects", "restore", "round-trip" or "checks".'
    yield '#verify = "checks"'
    for source in environment.sources:
        yield ""
        yield from _source(name, source)


def _source(environment: str, source: SourceAnswer) -> Iterator[str]:
    yield f"[environments.{environment}.sources.{source.name}]"
    yield f"type = {_text(source.type)}"
    if source.type == "postgres":
        yield "# Where the URL of the database is to be found. The server's own address, not that of a pooler."
        yield f"url = {{ env = {_text(source.at)} }}"
    else:
        yield f"path = {_text(source.at)}"
    if source.type == "git":
        yield "# Or, on a server (then without path):"
        yield '#url = "https://git.example.org/leads.git"'
        yield '#password = { env = "GIT_TOKEN" }'
        yield "# Your own questions to the restored repository: a program that must exit with 0."
        yield '#checks = [{ name = "the release is there", command = ["./check-release.sh"] }]'
        return
    if source.type == "files":
        yield "# What to leave out."
        yield '#exclude = ["*.tmp", "cache/"]'
        yield "# Your own questions to the restored files: a program that must exit with 0."
        yield '#checks = [{ name = "every upload opens", command = ["./check-uploads.sh"] }]'
        return
    yield "# Tables that must be there with rows in every proof."
    tables = ", ".join(_text(table) for table in source.critical_tables)
    yield f"critical_tables = [{tables}]" if tables else '#critical_tables = ["users"]'
    yield "# Your own questions to the restored data."
    yield '#checks = [{ name = "there are users", sql = "select count(*) from users", expect = "> 0" }]'
    yield "# Tiers that also get a copy that needs no keepwell, NOT encrypted, beside the backup in the store."
    yield '#portable = ["weekly", "monthly"]'


def _text(value: str) -> str:
    """A TOML string. JSON's escapes are TOML's too, apart from what TOML cannot hold at all."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"{value!a} is not UTF-8 and cannot stand in a policy", hint="Use a plain name: a link to it will do."
        ) from None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
