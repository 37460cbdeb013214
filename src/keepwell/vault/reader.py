"""Streams being read back: verified, in order, a few fetches ahead (docs/format.md, section 6)."""

from __future__ import annotations

import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import blake3
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core.errors import Damaged, ObjectMissing, StoreError, UsageError
from keepwell.core.streams import Buffer
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store
from keepwell.vault.cutter import check_of, identify
from keepwell.vault.layout import pack_name
from keepwell.vault.manifest import Extents, Manifest, StoredStream
from keepwell.vault.pack import HEAD_GUESS, head_size, open_frame, sections, starts

_FETCH = 1 << 20
"""Stored bytes in one ranged read, about."""
_GAP = 32 << 10
"""Unneeded bytes that are cheaper to read than to skip."""
_TOKEN = struct.Struct("<16sI")
T = TypeVar("T")


@dataclass(frozen=True)
class Location:
    """A frame's place in some pack object."""

    pack: str
    offset: int
    length: int


class Locate(Protocol):
    def __call__(self, birth: bytes, number: int, *, anew: bool = False) -> Location | None: ...


class Elsewhere(Protocol):
    """Where frames are looked for that the vault itself does not give."""

    def __call__(self, birth: bytes, number: int, place: Location) -> tuple[list[int], memoryview] | None:
        """The lengths of the pieces and their bytes; None where nobody has the frame whole."""
        ...


class PackKeys:
    """The keys of packs, unsealed once each; at the most some thousands are kept."""

    _MOST = 4096

    def __init__(self, store: Store, keyring: Keyring) -> None:
        self._store, self._keyring = store, keyring
        self._boxes: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._lock = threading.Lock()

    def box(self, birth: bytes, pack: str) -> AESGCM:
        """Raises Damaged, ObjectMissing, KeyCannotRead."""
        with self._lock:
            if birth in self._boxes:
                self._boxes.move_to_end(birth)
                return self._boxes[birth]
        name = pack_name(pack)
        sealed = dict(self._sections(name)).get(birth)
        if sealed is None:
            raise Damaged(f"{name} does not hold the frames that the manifest expects there")
        box = AESGCM(self._keyring.unseal("pack", birth, sealed, what=name))
        with self._lock:
            self._boxes[birth] = box
            if len(self._boxes) > self._MOST:
                self._boxes.popitem(last=False)
        return box

    def _sections(self, name: str) -> list[tuple[bytes, bytes]]:
        head = self._store.get_range(name, 0, HEAD_GUESS)
        if len(head) == HEAD_GUESS and (count := struct.unpack_from("<H", head, 6)[0]) > 1:
            head = self._store.get_range(name, 0, head_size(count))
        return sections(head, what=name)


@dataclass(frozen=True)
class _Fetch:
    """Consecutive extents that one ranged read serves."""

    pack: int
    start: int
    end: int
    extents: slice


class StreamReader:
    """Reads the streams of one source of a backup (a `core.streams.Streams`). Safe in several threads."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        manifest: Manifest,
        source: str,
        *,
        keys: PackKeys,
        locate: Locate,
        jobs: int = 2,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._store, self._keyring, self._manifest, self._keys, self._locate = store, keyring, manifest, keys, locate
        self._streams = {s.name: s for s in manifest.streams if s.source == source}
        self._source, self._jobs, self._elsewhere = source, jobs, elsewhere
        self._backup = str(manifest.about["backup"])

    def names(self) -> list[str]:
        return list(self._streams)

    def size(self, name: str) -> int:
        return self._stream(name).size

    def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Raises Damaged where anything is missing or altered; the whole stream's digest is compared at its end."""
        stream = self._stream(name)
        stop = stream.size if length is None else start + length
        if not 0 <= start <= stop <= stream.size:
            raise UsageError(f"stream {name} of {self._source} has {stream.size} bytes, not {stop}")
        whole = start == 0 and stop == stream.size
        digest = blake3.blake3(key=self._keyring.piece_key) if whole else None
        ends = np.cumsum(stream.extents.bytes, dtype=np.int64)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left")) + 1 if stop > start else first
        at = int(ends[first - 1]) if first else 0
        for tokens, block in self._blocks(stream, first, min(last, len(ends))):
            if digest is not None:
                digest.update(tokens)
            low, high = max(0, start - at), min(len(block), stop - at)
            at += len(block)
            yield block[low:high] if (low, high) != (0, len(block)) else block
        if digest is not None and digest.hexdigest() != stream.digest:
            raise Damaged(f"stream {name} of {self._source} in {self._backup} does not have the digest of backup time")

    def scatter(self, name: str) -> Iterator[tuple[int, Buffer]]:
        """Frame by frame in the order of the packs, each fetched and decoded once. Raises Damaged."""
        stream = self._stream(name)
        starts_at = np.cumsum(stream.extents.bytes, dtype=np.int64) - stream.extents.bytes
        order = np.lexsort((stream.extents.first, stream.extents.offset, stream.extents.pack))
        extents, at = stream.extents.take(order), starts_at[order].tolist()
        given = 0
        for found in self._ahead(
            _plan(extents, 0, len(extents), whole_frames=True), lambda fetch: self._fetch_apart(extents, at, fetch)
        ):
            for place, part in found:
                given += len(part)
                yield place, part
        if given != stream.size:
            raise Damaged(
                f"stream {name} of {self._source} in {self._backup} does not have the size that the manifest says"
            )

    def _stream(self, name: str) -> StoredStream:
        try:
            return self._streams[name]
        except KeyError:
            raise Damaged(f"{self._backup} has no stream {name} of source {self._source}") from None

    def _blocks(self, stream: StoredStream, first: int, last: int) -> Iterator[tuple[bytes, bytes]]:
        return self._ahead(_plan(stream.extents, first, last), lambda fetch: self._fetch(stream, fetch))

    def _ahead(self, fetches: list[_Fetch], work: Callable[[_Fetch], T]) -> Iterator[T]:
        """Their results in order, some of them being made while the last one is used."""
        if not fetches:
            return
        with ThreadPoolExecutor(self._jobs, "fetch") as pool:
            ahead: deque[Future[T]] = deque()
            try:
                for fetch in fetches:
                    ahead.append(pool.submit(work, fetch))
                    if len(ahead) > self._jobs + 1:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _fetch(self, stream: StoredStream, fetch: _Fetch) -> tuple[bytes, bytes]:
        tokens: list[bytes] = []
        out: list[memoryview] = []
        for part, ids, lengths in self._open(stream.extents.slice(fetch.extents.start, fetch.extents.stop), fetch):
            tokens.extend(map(_TOKEN.pack, ids, lengths))
            out.append(part)
        return b"".join(tokens), b"".join(out)

    def _fetch_apart(self, extents: Extents, at: list[int], fetch: _Fetch) -> list[tuple[int, memoryview]]:
        part = extents.slice(fetch.extents.start, fetch.extents.stop)
        places = at[fetch.extents.start : fetch.extents.stop]
        return [(place, view) for place, (view, *_) in zip(places, self._open(part, fetch), strict=True)]

    def _open(self, extents: Extents, fetch: _Fetch) -> Iterator[tuple[memoryview, list[bytes], list[int]]]:
        """Each extent's bytes, and the ids and lengths of its pieces, verified; consecutive extents share a decoded frame."""
        birth, pack = self._manifest.packs[fetch.pack]
        key = self._keyring.piece_key
        what = f"pack {pack_name(pack)} (needed by {self._backup}, source {self._source})"
        unreachable: StoreError | Damaged | None = None
        data, box = memoryview(b""), None
        try:
            data = memoryview(self._store.get_range(pack_name(pack), fetch.start, fetch.end - fetch.start))
            box = self._keys.box(birth, pack)
        except ObjectMissing:
            pass
        except (StoreError, Damaged) as error:
            if self._elsewhere is None:
                raise
            unreachable = error
        opened: _Frame | None = None
        for number, offset, length, begin, count, size, check in zip(
            extents.frame.tolist(),
            extents.offset.tolist(),
            extents.length.tolist(),
            extents.first.tolist(),
            extents.pieces.tolist(),
            extents.bytes.tolist(),
            extents.check.tolist(),
            strict=True,
        ):
            try:
                if opened is None or opened.number != number:
                    if unreachable is not None:
                        raise unreachable
                    if box is not None:
                        frame = data[offset - fetch.start : offset - fetch.start + length]
                        found = open_frame(box, self._keyring.vault, birth, number, frame, what=what)
                    else:
                        found = self._moved(birth, number, what)
                    opened = _Frame(number, *found, key)
                part, ids = opened.part(begin, count, size, check, what)
            except (Damaged, StoreError):
                other = self._elsewhere and self._elsewhere(birth, number, Location(pack, offset, length))
                if not other:
                    raise
                opened = _Frame(number, *other, key)
                part, ids = opened.part(begin, count, size, check, what)
            yield part, ids, opened.lengths[begin : begin + count]

    def _moved(self, birth: bytes, number: int, what: str) -> tuple[list[int], memoryview]:
        """A frame whose pack is gone: a prune moved it, or it is lost."""
        for anew in (False, True, True):
            found = self._locate(birth, number, anew=anew)
            if found is None:
                continue
            try:
                frame = memoryview(self._store.get_range(pack_name(found.pack), found.offset, found.length))
                box = self._keys.box(birth, found.pack)
            except ObjectMissing:  # moved once more since we looked
                continue
            return open_frame(box, self._keyring.vault, birth, number, frame, what=pack_name(found.pack))
        raise Damaged(
            f"{what} is missing from the store, and no other pack holds its frame {number}",
            hint="The data in it is lost from this vault. Restore another backup (`keepwell list`; "
            "`keepwell check` names those that are affected), or use a copy of the vault.",
        )


class _Frame:
    """A decoded frame; the runs of pieces that were asked for are hashed once."""

    def __init__(self, number: int, lengths: list[int], plain: memoryview, key: bytes) -> None:
        self.number, self.lengths = number, lengths
        self._places, self._plain, self._key = starts(lengths), plain, key
        self._seen: dict[tuple[int, int], list[bytes]] = {}

    def part(self, begin: int, count: int, size: int, check: int, what: str) -> tuple[memoryview, list[bytes]]:
        """The bytes of a run of pieces, and their ids. Raises Damaged where they are not those of the extent."""
        if begin + count > len(self.lengths):
            raise Damaged(f"frame {self.number} of {what} holds fewer pieces than the manifest says")
        part = self._plain[self._places[begin] : self._places[begin + count]]
        if (begin, count) not in self._seen:
            self._seen[begin, count] = identify(self._key, part, self.lengths[begin : begin + count])
        ids = self._seen[begin, count]
        if len(part) != size or check_of(self._key, ids) != check:
            raise Damaged(f"frame {self.number} of {what} does not hold the pieces that the manifest says")
        return part, ids


def _plan(extents: Extents, first: int, last: int, *, whole_frames: bool = False) -> list[_Fetch]:
    """Groups extents in order, as long as they lie forward in one pack with small gaps.

    `whole_frames`: all extents of a frame that follow each other come into one group, however many bytes they make.
    """
    packs, offsets, lengths = extents.pack.tolist(), extents.offset.tolist(), extents.length.tolist()
    fetches: list[_Fetch] = []
    begin = first
    while begin < last:
        pack, start = packs[begin], offsets[begin]
        end, stop = start + lengths[begin], begin + 1
        raw = int(extents.bytes[begin])
        while (
            stop < last
            and packs[stop] == pack
            and (offsets[stop] == offsets[stop - 1] or end <= offsets[stop] <= end + _GAP)
            and ((end - start < _FETCH and raw < 8 * _FETCH) or (whole_frames and offsets[stop] == offsets[stop - 1]))
        ):
            end = max(end, offsets[stop] + lengths[stop])
            raw += int(extents.bytes[stop])
            stop += 1
        fetches.append(_Fetch(pack, start, end, slice(begin, stop)))
        begin = stop
    return fetches
