"""The schedules as files for systemd, cron or Kubernetes: for those who want no daemon."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croniter import croniter
from pydantic import BaseModel

from keepwell.core.clock import UTC
from keepwell.core.errors import SourceError, TargetNotEmpty, UsageError
from keepwell.core.newfile import beside
from keepwell.engine import calendar
from keepwell.engine.calendar import Plan
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import Policy
from keepwell.policy.schedule import next_due, zone
from keepwell.policy.secret import SecretRef
from keepwell.policy.values import nearest

MARK = "Written by `keepwell schedule export`"
"""In the first line of every file: such a file may be written anew."""
WARNINGS = 3
"""The exit code of a run that did what it could."""
LASTING = (2, 4, 5, 7)
"""Exit codes of what no further try mends: usage, the proof, the policy, the key."""
AGAIN = "Where the copy after a backup fails, the next try also takes the backup again."
_ABOUT = {
    "backup": "backup of {}",
    "verify": "proof of the newest backup of {}",
    "drill": "rehearsed recovery of {}",
    "copy": "copy {} of the vault",
    "prune": "deletion of backups that are no longer kept",
    "check": "check of the vault's objects",
}
_FORMS = {
    "--user": "Give the name of a user of that machine, for example keepwell.",
    "--prefix": "Up to 30 of a-z, 0-9 and hyphens, for example keepwell-leads.",
    "--image": "Give the name of an image, for example registry.example.com/keepwell:1.2.",
    "--secrets": "Give the whole path of a file, without blanks: /etc/keepwell/environment.",
}
_YEARS = 10
"""For how far ahead changes to summer time are looked up."""


@dataclass(frozen=True)
class Place:
    """Where the files will be used."""

    program: str = "/usr/bin/keepwell"
    user: str = "keepwell"
    secrets: str = "/etc/keepwell/environment"
    """The file (of the Secret: its name) that sets the variables that the policy refers to."""
    image: str = "keepwell"
    prefix: str = "keepwell"
    """Begins the names of units, cron files and objects: two policies on one machine need two."""
    sites: tuple[str, ...] = ()
    """Only the environments of these sites. Empty: everything."""

    def check(self) -> None:
        """Raises UsageError where a value cannot stand in the files as it is."""
        for option, value, form in (
            ("--user", self.user, r"[A-Za-z_][A-Za-z0-9_.-]*"),
            ("--prefix", self.prefix, r"[a-z0-9][a-z0-9-]{0,29}"),
            ("--image", self.image, r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*"),
            ("--secrets", self.secrets, r"/[^\s\x00-\x1f]*"),
        ):
            if not re.fullmatch(form, value):
                raise UsageError(f"{option}: {value!r} cannot be used there", hint=_FORMS[option])


@dataclass(frozen=True)
class Errand:
    """What one timer does."""

    name: str
    about: str
    arguments: tuple[tuple[str, ...], ...]
    """Of keepwell, one command after the other; the next only where the one before did its work."""
    plan: Plan
    delay: int = 0
    """Seconds: a share of the jitter, always the same, for schedulers that know no jitter."""
    skipped: tuple[dt.datetime, ...] = ()
    """Due times of the coming years (UTC) that the local clock skips in spring."""


@dataclass(frozen=True)
class Export:
    target: str
    files: dict[str, str]
    """Text by name."""
    cannot: tuple[str, ...]
    """What this scheduler does otherwise than `keepwell serve`. Also in the comments of the files."""

    def json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "files": [{"name": name, "text": text} for name, text in self.files.items()],
            "cannot": list(self.cannot),
        }


@dataclass
class References:
    """What the policy refers to and must be there where it is used."""

    variables: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)


def errands(loaded: LoadedPolicy, place: Place, now: dt.datetime) -> tuple[Errand, ...]:
    """One for each plan of the policy, and the look of the watch."""
    policy = loaded.policy
    following = tuple(("copy", copy.name) for copy in policy.copies if copy.after_backup)
    found = []
    for plan in calendar.plans(policy):
        if place.sites and plan.site not in place.sites:
            continue
        own = (plan.kind, plan.target) if plan.target else (plan.kind,)
        commands = (own, *following) if plan.kind == "backup" else (own,)
        about = _ABOUT[plan.kind].format(plan.target)
        name = "-".join(own)
        found.append(Errand(name, about, commands, plan, _share(plan), tuple(skipped(plan, now))))
    if not place.sites:
        look = Plan("check", None, "*/5 * * * *", catch_up=False)
        found.append(Errand("watch", "look whether all is well", (("watch", "--once"),), look))
    return tuple(found)


def expanded(cron: str) -> list[list[int] | None]:
    """Minute, hour, day of the month, month, day of the week (Sunday is 0): their values, None for all.

    Every scheduler reads lists alike; what a step of a star means beside another day, each reads its own way.
    """
    fields = croniter.expand(" ".join(cron.lower().split()))[0]
    return [None if values == ["*"] else [int(value) for value in values] for values in fields]


def five_fields(cron: str) -> str:
    """The schedule in the form that every cron understands."""
    return " ".join("*" if values is None else ",".join(map(str, values)) for values in expanded(cron))


def skipped(plan: Plan, now: dt.datetime) -> Iterator[dt.datetime]:
    """Occurrences of the coming years whose local time does not exist, since the clock jumps over it."""
    local, day = zone(plan.timezone), now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if local is UTC:
        return
    fields = expanded(plan.cron)
    before = day.astimezone(local).utcoffset()
    for _ in range(_YEARS * 366):
        day, begin = day + dt.timedelta(days=1), day
        offset = day.astimezone(local).utcoffset()
        if before is not None and offset is not None and offset > before:
            due = next_due(plan.cron, begin, plan.timezone)
            while due <= day:
                wall = due.astimezone(local)
                if any(
                    values is not None and value not in values
                    for values, value in zip(fields[:2], (wall.minute, wall.hour), strict=True)
                ):
                    yield due
                due = next_due(plan.cron, due, plan.timezone)
        before = offset


def the_sites(policy: Policy, given: Iterable[str]) -> tuple[str, ...]:
    """Raises UsageError where no environment is of that site."""
    known = sorted({table.site for table in policy.environments.values() if table.site is not None})
    for name in given:
        if name not in known:
            listed = f"The policy has: {', '.join(known)}." if known else "No environment of the policy names one."
            raise UsageError(f"there is no site {name!r}", hint=f"{nearest(name, known)} {listed}".strip())
    return tuple(given)


def put(export: Export, folder: Path, prefix: str) -> list[str]:
    """Writes the files, over those of earlier exports and nothing else. The names of those that are not in it any more.

    Raises TargetNotEmpty, SourceError.
    """
    taken = [name for name in export.files if os.path.lexists(folder / name) and not _ours(folder / name)]
    if taken:
        raise TargetNotEmpty(
            f"{folder / taken[0]} exists already and was not written by keepwell",
            hint="Nothing was written. Take another folder or --prefix, or move this file away first.",
        )
    for name, text in export.files.items():
        path = folder / name
        unfinished = beside(path)
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.chmod(0o644)
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise SourceError(
                f"cannot write {path}: {error.strerror}", hint="Check the rights and the free space there."
            ) from None
    alike = sorted(path.name for path in folder.glob(f"{prefix}*") if path.name not in export.files and _ours(path))
    kinds = {Path(name).suffix for name in export.files}
    return [name for name in alike if Path(name).suffix in kinds]


def references(policy: Policy) -> References:
    """All of them, each once."""
    found = References()
    _collect(policy, found)
    return References(*(list(dict.fromkeys(names)) for names in (found.variables, found.files, found.commands)))


def label(*parts: str, most: int) -> str:
    """A name of a-z, 0-9 and hyphens, not longer than `most`, another one for other parts."""
    plain = "-".join(parts)
    name = plain.replace("_", "-")
    if name == plain and len(name) <= most:
        return name
    return f"{name[: most - 7].rstrip('-')}-{hashlib.sha256(plain.encode()).hexdigest()[:6]}"


def _ours(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return MARK in file.readline()
    except OSError:
        return False


def _share(plan: Plan) -> int:
    digest = hashlib.sha256(f"{plan.kind}/{plan.target}".encode()).digest()
    return int(plan.jitter.total_seconds() * int.from_bytes(digest[:4]) / 2**32)


def _collect(value: Any, found: References) -> None:
    if isinstance(value, SecretRef):
        found.variables += [value.env] if value.env else []
        found.files += [value.file] if value.file else []
        found.commands += [value.command[0]] if value.command else []
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name == "key_file" or (name == "file" and isinstance(getattr(value, name), Path)):
                found.files.append(str(getattr(value, name)))
            else:
                _collect(getattr(value, name), found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)
    elif isinstance(value, tuple):
        for item in value:
            _collect(item, found)
