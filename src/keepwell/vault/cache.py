"""Copies of immutable objects in the user's cache folder. May be deleted at any time; never trusted unverified."""

from __future__ import annotations

import contextlib
import secrets
from pathlib import Path

import platformdirs


def cache_folder(vault: bytes) -> Path | None:
    """`~/.cache/keepwell/<vault id>` (XDG), made private; None where it cannot be made (read-only home)."""
    folder = platformdirs.user_cache_path("keepwell") / vault.hex()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder


class ObjectCache:
    """Objects by name. The caller verifies what it gets: an entry may be damaged, a store's is the truth."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def get(self, name: str) -> bytes | None:
        if self._folder is None:
            return None
        try:
            return (self._folder / name).read_bytes()
        except OSError:
            return None

    def has(self, name: str) -> bool:
        return self._folder is not None and (self._folder / name).exists()

    def put(self, name: str, data: bytes) -> None:
        if self._folder is None:
            return
        path = self._folder / name
        temporary = path.with_name(f".{secrets.token_hex(8)}")
        # A full or read-only disk costs speed, nothing else.
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)

    def keep_only(self, prefix: str, names: set[str]) -> None:
        """Removes cached objects below `prefix` (one folder) that are no longer in the store."""
        if self._folder is None:
            return
        with contextlib.suppress(OSError):
            for path in (self._folder / prefix).iterdir():
                if prefix + path.name not in names:
                    path.unlink(missing_ok=True)

    def drop(self, name: str) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)
