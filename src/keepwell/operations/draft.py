"""The text of a first policy: commented, so that its owner learns the rest where it is needed."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass, field

from keepwell.core.errors import UsageError


@dataclass(frozen=True)
class DraftSource:
    type: str
    """postgres, sqlite or files."""
    at: str
    """The name of the environment variable with the URL, or a path as it shall stand in the policy."""


@dataclass(frozen=True)
class Draft:
    """What `init` was told."""

    project: str
    store: str
    environment: str = "production"
    sources: tuple[DraftSource, ...] = ()
    key_file: str | None = None
    passphrase_env: str | None = None
    schedule: str | None = "0 2 * * *"
    """None: only by hand."""
    keep: dict[str, str] = field(default_factory=dict)


def slug(text: str) -> str:
    """A name as environments and sources have it: a-z, 0-9, _ and -; empty where nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:40]


def names(sources: tuple[DraftSource, ...]) -> list[str]:
    """A name for each source, in order: the first database is `app`, folders are called as they are."""
    taken: list[str] = []
    for source in sources:
        last = re.split(r"[/\\]", source.at.rstrip("/"))[-1]
        wanted = slug(last.partition(".")[0] if source.type == "sqlite" else last) or source.type
        if source.type != "files" and "app" not in taken:
            wanted = "app"
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted[:36]}-{number}", number + 1
        taken.append(name)
    return taken


def render(draft: Draft) -> str:
    """keepwell.toml. Raises UsageError where something cannot stand in it."""
    environment = draft.environment
    key = (
        f"file = {_text(draft.key_file)}"
        if draft.key_file
        else f"passphrase = {{ env = {_text(draft.passphrase_env)} }}"
    )
    parts = [_HEAD.format(project=_text(draft.project), store=_text(draft.store), key=f"{{ {key} }}")]
    schedule = f"schedule = {_text(draft.schedule)}" if draft.schedule else '# schedule = "0 2 * * *"'
    parts.append(_ENVIRONMENT.format(environment=environment, schedule=schedule))
    for name, source in zip(names(draft.sources), draft.sources, strict=True):
        parts.append(
            _SOURCES[source.type].format(table=f"[environments.{environment}.sources.{name}]", at=_text(source.at))
        )
    return "\n".join(parts)


def _text(value: str | None) -> str:
    """A TOML string. JSON's escapes are TOML's, apart from what TOML cannot hold at all."""
    try:
        (value or "").encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"{value!a} is not UTF-8 and cannot stand in a policy", hint="Give the folder a link with a plain name."
        ) from None
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_HEAD = """\
# What keepwell protects, where it keeps it, and how fast it must be back.
# All keys: docs/reference/policy.md. Relative paths are relative to this file.
# A secret never stands here: write {{ env = "NAME" }}, {{ file = "path" }} or {{ command = ["program", "argument"] }}.
version = 1
project = {project}

[vault]
# A folder (better on another disk), or s3://bucket/prefix, gs://bucket/prefix, az://container/prefix.
store = {store}
# Whoever has this key reads the backups; without it nobody can. Keep a copy away from this machine.
key = {key}
# How long what `keepwell prune` took out can still be brought back.
grace = "24h"
"""

_ENVIRONMENT = """\
[environments.{environment}]
# When backups are due: minute, hour, day of the month, month, day of the week.
{schedule}
timezone = "UTC"

[environments.{environment}.objectives]
rto = "4h"        # time to recover: the target
rto_max = "8h"    # and the maximum
rpo = "24h"       # age of the newest backup: the target
rpo_max = "24h"

# How long backups stay: by age ("30d"), by number (12), or both ({{ age = "30d", count = 12 }}).
# The newest proven backup is never deleted.
[environments.{environment}.keep]
daily = "30d"
weekly = "12w"
monthly = "1y"
manual = "90d"
"""

_CHECKS = """\
# Tables that must have rows in every proof, and your own questions to the restored data:
# critical_tables = ["users"]
# checks = [{{ name = "every user has an address", sql = "select count(*) from users where email = ''", expect = "= 0" }}]
"""
_PORTABLE = """\
# Tiers that also get a copy that needs no keepwell, NOT encrypted, beside the backup in the store:
# portable = ["weekly", "monthly"]
"""
_SOURCES = {
    "postgres": '{table}\ntype = "postgres"\n# The address of the server itself, not of a pooler:\nurl = {{ env = {at} }}\n'
    + _CHECKS
    + _PORTABLE,
    "sqlite": '{table}\ntype = "sqlite"\npath = {at}\n' + _CHECKS + _PORTABLE,
    "files": '{table}\ntype = "files"\npath = {at}\n# exclude = ["*.tmp", "cache/"]\n',
}
