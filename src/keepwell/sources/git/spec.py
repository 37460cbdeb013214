"""What to protect, and where to restore to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from keepwell.core.secrets import Secret

BARE_SUFFIX = ".git"


@dataclass(frozen=True)
class Spec:
    """A repository with all its refs: exactly one of `path` and `url`."""

    path: Path | None = None
    """A working clone (the folder that has `.git`) or a bare repository."""
    url: str = ""
    """`https://…`, `ssh://…` or `user@host:path`, without a password."""
    username: str = ""
    password: Secret | None = None
    """Of https: also what a hosting service calls a token."""
    ssh_key: Path | None = None
    known_hosts: Path | None = None

    @property
    def shown(self) -> str:
        """For messages and facts."""
        return self.url or str(self.path)


@dataclass(frozen=True)
class Target:
    """A folder that does not exist yet, or is empty."""

    path: Path
    bare: bool = True
    """A mirror, that others clone from; else a working clone with its files."""
