"""Whether a directory may be restored into, and whose it shall be."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import SourceError, TargetNotEmpty, UsageError
from keepwell.sources.physical.entries import Entry
from keepwell.sources.postgres.server import unprivileged_user

CONTROL = "global/pg_control"
MARKER = "keepwell-restoring"
"""Holds the system identifier while a restore is under way. Without `global/pg_control`, which comes last, no server starts."""


@dataclass(frozen=True)
class Owner:
    """Whom the files shall belong to; only where we are root."""

    user: int
    group: int


def owner_of(path: Path) -> Owner | None:
    """The one that an existing directory has, else the user whom PostgreSQL runs as here. None: not root, so ourselves."""
    if os.geteuid() != 0:
        return None
    if path.is_dir() and (found := path.stat()).st_uid != 0:
        return Owner(found.st_uid, found.st_gid)
    user = unprivileged_user()
    return Owner(user.pw_uid, user.pw_gid) if user else None


def is_empty(path: Path) -> bool:
    """Nothing there, or a directory with nothing in it. Raises SourceError."""
    if not os.path.lexists(path):
        return True
    try:
        return path.is_dir() and not any(path.iterdir())
    except OSError as error:
        raise SourceError(f"cannot look into {path}: {error.strerror}", hint="Check your rights there.") from error


def require_restorable(path: Path, system: str, *, delta: bool) -> bool:
    """Whether it is an older state to be rewritten; False: there is nothing yet.

    Raises TargetNotEmpty for a directory with something else in it, and for a cluster that may be running.
    """
    if is_empty(path):
        return False
    if not path.is_dir():
        raise TargetNotEmpty(f"{path} is there and is no directory", hint="Name a new directory with --to.")
    refuse_running(path)
    found = system_of(path)
    if not delta:
        raise TargetNotEmpty(
            f"{path} is not empty",
            hint="Nothing was changed. Name a new directory, or give --delta to rewrite what differs there."
            if found
            else "Nothing was changed. Name a new directory.",
        )
    if found is None:
        raise TargetNotEmpty(
            f"{path} has no {CONTROL}, so it is not known whether it is this cluster",
            hint="Nothing was changed. --delta rewrites an older state of the same cluster; else name a new directory.",
        )
    if found != system:
        raise TargetNotEmpty(
            f"{path} is another cluster: its system identifier is {found}, that of the backup {system}",
            hint="Nothing was changed. Name the directory of the right cluster, or a new one.",
        )
    return True


def refuse_running(path: Path) -> None:
    """Also where the process cannot be seen: the server may run in another container."""
    try:
        first = (path / "postmaster.pid").read_text(errors="replace").split("\n", 1)[0].strip()
    except FileNotFoundError:
        return
    except OSError as error:
        raise SourceError(
            f"cannot read {path / 'postmaster.pid'}: {error.strerror}", hint="Check your rights."
        ) from error
    if _alive(first):
        raise TargetNotEmpty(
            f"a PostgreSQL server (process {first}) is running in {path}",
            hint="Nothing was changed. Stop it first, or name a new directory.",
        )
    raise TargetNotEmpty(
        f"{path} has a postmaster.pid, so a server may be running there (in another container, or it crashed)",
        hint="Nothing was changed. Remove postmaster.pid only when you are certain that no server runs.",
    )


def system_of(path: Path) -> str | None:
    """The system identifier of a cluster, or of the one that an unfinished restore was about."""
    try:
        with (path / CONTROL).open("rb") as file:
            raw = file.read(8)
        if len(raw) == 8:
            return str(struct.unpack("=Q", raw)[0])
    except FileNotFoundError:
        pass
    except OSError as error:
        raise SourceError(f"cannot read {path / CONTROL}: {error.strerror}", hint="Check your rights.") from error
    try:
        return (path / MARKER).read_text().strip() or None
    except OSError:
        return None


def places_of(links: list[Entry], mapping: Mapping[str, str], path: Path, *, delta: bool) -> dict[str, Path]:
    """Where each tablespace shall lie, by the path of its link; all of them looked at. Raises UsageError, TargetNotEmpty."""
    known = {link.target for link in links}
    for old, new in mapping.items():
        if old not in known:
            raise UsageError(
                f"the backup has no tablespace at {old}",
                hint=f"It has them at: {', '.join(sorted(known))}." if known else "It has no tablespaces.",
            )
        if not new.startswith("/"):
            raise UsageError(f"the new place of a tablespace must be a whole path, and {new} is none")
    places = {link.path: Path(mapping.get(link.target, link.target)) for link in links}
    whole = path.resolve()
    taken: dict[Path, str] = {}
    for link in links:
        place = places[link.path]
        real = place.resolve()
        if real == whole or real.is_relative_to(whole) or whole.is_relative_to(real):
            raise UsageError(
                f"the tablespace at {place} and the data directory {path} would lie in one another",
                hint=f"Give it another place: --tablespace {link.target}=/another/place",
            )
        for other, name in taken.items():
            if real == other or real.is_relative_to(other) or other.is_relative_to(real):
                raise UsageError(f"the tablespaces {name} and {link.target} would lie in one another, at {place}")
        taken[real] = link.target
        own = delta and _same_place(path / link.path, place)
        if not own and not is_empty(place):
            raise TargetNotEmpty(
                f"the tablespace of the backup at {link.target} would go to {place}, which is not empty",
                hint=f"Nothing was changed. Give it a new place: --tablespace {link.target}=/new/place",
            )
    return places


def _same_place(link: Path, place: Path) -> bool:
    try:
        return stat.S_ISLNK(link.lstat().st_mode) and link.resolve() == place.resolve() and place.is_dir()
    except OSError:
        return False


def _alive(text: str) -> bool:
    try:
        os.kill(abs(int(text)), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
