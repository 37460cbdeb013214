"""The audit log (docs/format.md, section 13): a chain of entries that many machines append to, and nobody rewrites."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from keepwell.core.errors import Busy, Damaged, ObjectExists, ObjectMissing
from keepwell.core.streams import Json
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import ObjectInfo, Store

PREFIX = "logs/audit/"
CHECKPOINTS = PREFIX + "checkpoints/"
SEGMENT = 100
"""Entries in a folder: they go together, and one listing finds the head."""
_NAME = re.compile(r"logs/audit/(\d{8})/(\d{10})")
_CHECKPOINT = re.compile(r"logs/audit/checkpoints/(\d{10})")
FRESH = 86400
"""Seconds for which what was seen is the head or has younger entries behind it: far less than anybody may keep them."""
_TRIES = 10_000
"""Others that append at the same time; each try means that one of them got on."""
_STRANGE = 1000
_READERS = 8


@dataclass(frozen=True)
class Head:
    """An entry as somebody has seen it: enough to notice that it is gone or another one."""

    number: int
    sha256: str

    def json(self) -> dict[str, Json]:
        return {"entry": self.number, "sha256": self.sha256}


NOTHING = Head(0, "")


@dataclass(frozen=True)
class Entry:
    """One entry. `document` is what its writer said, with `event`, `run`, `time`, …"""

    number: int
    previous: str
    sha256: str
    document: dict[str, Json]

    @property
    def head(self) -> Head:
        return Head(self.number, self.sha256)

    def json(self) -> dict[str, Json]:
        return {"number": self.number, "previous": self.previous, "sha256": self.sha256} | self.document


@dataclass(frozen=True)
class Checkpoint:
    """Entries before `first` were removed on purpose; `previous` is the SHA-256 of the last of them."""

    first: int
    previous: str
    name: str = ""


def segment_of(number: int) -> str:
    return f"{PREFIX}{(number - 1) // SEGMENT:08d}/"


def name_of(number: int) -> str:
    return f"{segment_of(number)}{number:010d}"


def number_of(name: str) -> int | None:
    """None where no entry has that name."""
    found = _NAME.fullmatch(name)
    number = int(found[2]) if found else 0
    return number if number and name_of(number) == name else None


def checkpoint_name(first: int) -> str:
    return f"{CHECKPOINTS}{first:010d}"


def sha256_of(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def encode(keyring: Keyring, number: int, previous: str, document: dict[str, Json]) -> bytes:
    whole = document | {"number": number, "previous": previous}
    return keyring.envelope(name_of(number), _canonical(whole))


def decode(keyring: Keyring, name: str, raw: bytes) -> Entry:
    """Raises Damaged."""
    document = _opened(keyring, name, raw)
    number, previous = document.pop("number", None), document.pop("previous", None)
    if not isinstance(number, int) or name_of(number) != name or not isinstance(previous, str):
        raise Damaged(f"{name} is no entry of that number")
    return Entry(number, previous, sha256_of(raw), document)


def encode_checkpoint(keyring: Keyring, first: int, previous: str, more: dict[str, Json]) -> bytes:
    return keyring.envelope(checkpoint_name(first), _canonical(more | {"first": first, "previous": previous}))


def decode_checkpoint(keyring: Keyring, name: str, raw: bytes) -> Checkpoint:
    """Raises Damaged."""
    document = _opened(keyring, name, raw)
    first, previous = document.get("first"), document.get("previous")
    if not isinstance(first, int) or checkpoint_name(first) != name or not isinstance(previous, str):
        raise Damaged(f"{name} is no checkpoint of that entry")
    return Checkpoint(first, previous, name)


def _canonical(document: dict[str, Json]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _opened(keyring: Keyring, name: str, raw: bytes) -> dict[str, Any]:
    plain = keyring.open(name, raw)
    try:
        document = json.loads(plain)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Damaged(f"{name} holds no document")
    return document


def append(
    store: Store, keyring: Keyring, document: dict[str, Json], known: Head = NOTHING, *, fresh: bool = False
) -> tuple[Entry, Head]:
    """Puts one entry behind all others, durably; also gives the head that the store had before.

    `known` is the last entry that this machine has seen: numbers up to there are never given again, even where they
    are gone. `fresh`: it was seen just now, so the number behind it is tried before anything is listed. Raises StoreError,
    Busy.
    """
    if fresh:
        raw = encode(keyring, known.number + 1, known.sha256, document)
        try:
            store.put(name_of(known.number + 1), raw)
        except ObjectExists:
            pass
        else:
            store.flush()
            return decode(keyring, name_of(known.number + 1), raw), known
    before = head(store, keyring, known)
    last = before if before.number >= known.number else known
    for _ in range(_TRIES):
        number = last.number + 1
        raw = encode(keyring, number, last.sha256, document)
        try:
            store.put(name_of(number), raw)
        except ObjectExists:
            try:
                last = Head(number, sha256_of(store.get(name_of(number))))
            except ObjectMissing:
                continue  # taken away in this moment: the next try tells
            continue
        store.flush()
        return decode(keyring, name_of(number), raw), before
    raise Busy("others append to the audit log without an end", hint="Try again.")


def head(store: Store, keyring: Keyring, known: Head = NOTHING) -> Head:
    """The last entry that the store has, in one listing where `known` lies in the last segment."""
    newest = 0
    number = max(known.number, 1)
    while found := [n for info in store.list(segment_of(number)) if (n := number_of(info.name))]:
        newest = max(found)
        if newest % SEGMENT:
            break
        number = newest + 1
    if not newest:
        return _greatest(store, keyring)
    if newest == known.number:
        return known
    try:
        return Head(newest, sha256_of(store.get(name_of(newest))))
    except ObjectMissing:
        return Head(newest, "")


def _greatest(store: Store, keyring: Keyring) -> Head:
    """By a listing of everything. Who has no key could put anything under the greatest numbers: the first that opens counts."""
    numbers = sorted((n for info in store.list(PREFIX) if (n := number_of(info.name))), reverse=True)
    for number in numbers[:_STRANGE]:
        try:
            return decode(keyring, name_of(number), store.get(name_of(number))).head
        except (Damaged, ObjectMissing):
            continue
    return NOTHING


def objects(store: Store) -> tuple[dict[int, ObjectInfo], list[ObjectInfo], list[str]]:
    """Everything below `logs/audit/`: entries by number, checkpoints in order, and names that are neither."""
    entries: dict[int, ObjectInfo] = {}
    checkpoints, strange = [], []
    for info in store.list(PREFIX):
        if (number := number_of(info.name)) is not None:
            entries[number] = info
        elif _CHECKPOINT.fullmatch(info.name):
            checkpoints.append(info)
        else:
            strange.append(info.name)
    return entries, sorted(checkpoints, key=lambda info: info.name), strange


def last_checkpoint(store: Store, keyring: Keyring, checkpoints: Iterable[ObjectInfo]) -> Checkpoint | None:
    """The newest. Raises Damaged."""
    names = sorted(info.name for info in checkpoints)
    return decode_checkpoint(keyring, names[-1], store.get(names[-1])) if names else None


def fetched(store: Store, names: Iterable[str]) -> Iterator[tuple[str, bytes | None]]:
    """Objects side by side, in order; None where one went away."""

    def one(name: str) -> tuple[str, bytes | None]:
        try:
            return name, store.get(name)
        except ObjectMissing:
            return name, None

    with ThreadPoolExecutor(_READERS, "audit") as pool:
        yield from pool.map(one, names)
