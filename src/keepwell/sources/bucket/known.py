"""What the objects of a bucket were at the last backup."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from keepwell.core.objects import ObjectState
from keepwell.sources.bucket.entries import Entry
from keepwell.sources.remembered import Remembered

_RACY_SECONDS = 2
"""The services' clocks tick in seconds, and metadata may change without the ETag."""


@dataclass(slots=True)
class Known:
    entry: Entry
    ids: bytes


class Memory:
    def __init__(self, folder: Path | None, url: str, started: float) -> None:
        name = f"bucket-{blake3(url.encode()).hexdigest()[:32]}.sqlite"
        self._rows = Remembered(folder and folder / name)
        self._started = started

    def find(self, now: ObjectState) -> Known | None:
        """What is known of exactly this state. Without an ETag nothing is."""
        row = self._rows.find(now.name.encode()) if now.etag else None
        if row is None:
            return None
        size, modified, etag, listed, version, digest, attributes, ids = json.loads(row)
        same = (size, modified, etag) == (now.size, now.modified.isoformat(), now.etag)
        if not same or listed != now.version:
            return None
        return Known(Entry(now.name, size, 0, digest, now.modified, etag, version, attributes), b64decode(ids))

    def remember(self, listed: ObjectState, entry: Entry, ids: bytes) -> None:
        """`listed`: as listings tell it, which may name no versions where readings do."""
        if entry.etag is None or (entry.size and not ids) or entry.modified.timestamp() > self._started - _RACY_SECONDS:
            return
        if (listed.size, listed.etag) != (entry.size, entry.etag):
            return  # it changed after it was listed: what the next listing tells is not known
        fields: list[Any] = [entry.size, listed.modified.isoformat(), entry.etag, listed.version, entry.version]
        fields += [entry.digest, dict(entry.attributes), b64encode(ids).decode()]
        self._rows.remember(entry.name.encode(), json.dumps(fields, separators=(",", ":")).encode())

    def close(self, *, keep: bool) -> None:
        self._rows.close(keep=keep)
