"""What this machine remembers of a vault's audit log: the last entry that it has put or seen.

It lies beside the policy, out of reach of who can only change the store, so that a log whose end was cut off is found out.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from pathlib import Path
from typing import Any

from keepwell.policy.load import LoadedPolicy
from keepwell.vault.audit import NOTHING, Head

FOLDER = ".keepwell"


def folder_of(loaded: LoadedPolicy) -> Path:
    """Where this machine keeps its state: as the watch does."""
    state = loaded.policy.watch.state
    return state.parent if state is not None else loaded.base / FOLDER


def make_folder(folder: Path) -> None:
    """Private, and not committed where it lies in a working copy. Raises OSError."""
    if not folder.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.name == FOLDER:
            (folder / ".gitignore").write_text("*\n")


class Heads:
    """By vault. Safe to use from several processes."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "audit.json"

    def known(self, vault: str) -> Head:
        found = self._read().get(vault)
        try:
            return Head(int(found["entry"]), str(found["sha256"])) if found else NOTHING
        except (KeyError, TypeError, ValueError):
            return NOTHING

    def remember(self, vault: str, head: Head) -> None:
        """Never goes back. Raises OSError."""
        make_folder(self.path.parent)
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if head.number <= self.known(vault).number:
                return
            fresh = self.path.with_name(f".audit-{secrets.token_hex(4)}")
            fresh.write_text(json.dumps(self._read() | {vault: head.json()}, indent=2, sort_keys=True) + "\n")
            fresh.replace(self.path)
        finally:
            os.close(lock)

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}
