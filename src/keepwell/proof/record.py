"""What is kept in the vault of a proof: evidence for whoever asks in a year."""

from __future__ import annotations

import datetime as dt
import getpass
import os
import platform
from collections.abc import Mapping

from keepwell import __version__
from keepwell.core.streams import Json
from keepwell.policy.values import Level
from keepwell.proof.prove import SourceProof
from keepwell.vault.catalog import Backup, Proof

_MOST_NAMED = 3


def record_of(
    backup: Backup,
    sources: Mapping[str, SourceProof],
    *,
    level: Level,
    whole: bool,
    time: dt.datetime,
    details: dict[str, Json],
) -> Proof:
    """`whole`: all sources of the backup were looked at. Only then, and from level restore on, a proof counts."""
    passed = all(source.passed for source in sources.values())
    return Proof(
        backup=str(backup.id),
        checksum=backup.checksum,
        time=time.replace(microsecond=0),
        level=level,
        passed=passed,
        summary=summary(sources, level=level),
        details=details | {"whole": whole, "who": who(), "program": program()},
    )


def summary(sources: Mapping[str, SourceProof], *, level: Level) -> str:
    """One line for people."""
    wrong = [
        f"{name}: {finding.what}: {finding.problem}" for name, source in sources.items() for finding in source.findings
    ]
    if wrong:
        more = f"; and {len(wrong) - _MOST_NAMED} more" if len(wrong) > _MOST_NAMED else ""
        return "; ".join(wrong[:_MOST_NAMED]) + more
    tables = sum(len(source.tables) for source in sources.values())
    asked = sum(len(source.checks) for source in sources.values())
    done = {
        "objects": "every byte was read and authenticates",
        "restore": "restored, examined, rows counted",
        "round-trip": "restored, and equal bit for bit",
        "checks": f"restored, and equal bit for bit; {asked} checks passed",
    }[level]
    return f"{', '.join(sources)} ({tables} tables): {done}"


def who() -> str:
    """`name@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        user = f"uid {os.getuid()}"
    return f"{user}@{platform.node()}"


def program() -> dict[str, str]:
    return {"keepwell": __version__, "python": platform.python_version(), "system": platform.platform()}
