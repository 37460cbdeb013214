"""Streams being read back: verified, in order, a few fetches ahead (docs/format.md, section 6)."""

from __future__ import annotations

import functools
import itertools
import struct
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar

import blake3
import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core.errors import Damaged, ObjectMissing, StoreError, UsageError
from keepwell.core.streams import Buffer, Put
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store
from keepwell.vault.frame import open_frame, starts
from keepwell.vault.layout import pack_name
from keepwell.vault.manifest import Extents, Manifest, Row, StoredStream
from keepwell.vault.openers import Opened, Openers
from keepwell.vault.pack import HEAD_GUESS, head_size, sections
from keepwell.vault.piece import check_of, identify
from keepwell.vault.scattered import FETCH, GAP, Kept, Wanted

_FRAMES_KEPT, _RUNS_KEPT, _IN_USE = 96, 48, 64
"""Of frames of 512 KiB and reads of 1 MiB: some of each of the last weeks' backups."""
_WORTH_PROCESSES = 64 << 20
"""Bytes of a stream from which on it pays to start processes that decode."""
_PUTTING = 2
"""Threads beside those that feed the processes: what was read is put by the same thread, and may have to wait for a disk."""
_TOKEN = struct.Struct("<16sI")
_LOADERS, _LOADED_AHEAD = 4, 6
"""How many things are asked for at the same time, and how long before they are needed."""
L = TypeVar("L")
P = TypeVar("P")
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
        self._known: OrderedDict[bytes, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def box(self, birth: bytes, pack: str) -> AESGCM:
        """Raises Damaged, ObjectMissing, KeyCannotRead."""
        return AESGCM(self.key(birth, pack))

    def key(self, birth: bytes, pack: str) -> bytes:
        """Raises the same."""
        with self._lock:
            if birth in self._known:
                self._known.move_to_end(birth)
                return self._known[birth]
        name = pack_name(pack)
        sealed = dict(self._sections(name)).get(birth)
        if sealed is None:
            raise Damaged(f"{name} does not hold the frames that the manifest expects there")
        key = self._keyring.unseal("pack", birth, sealed, what=name)
        with self._lock:
            self._known[birth] = key
            if len(self._known) > self._MOST:
                self._known.popitem(last=False)
        return key

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

    def scatter(self, name: str, put: Put) -> None:
        """The stream in its order, some MiB at a time by each of several threads; of frames that lie scattered over packs each is (nearly always) fetched and
        decoded once: of each backup whose pieces are still in use, the frames are met in the order in which it wrote them, so
        a few of each at hand are enough. The digest of the whole stream is not compared. Raises Damaged.
        """
        stream = self._stream(name)
        extents, wanted = stream.extents, Wanted(stream.extents)
        frames: Kept[_Frame | Opened] = Kept(_FRAMES_KEPT)
        fetched: Kept[_Run] = Kept(_RUNS_KEPT)

        def load(window: slice) -> None:
            for run in wanted.runs_of(window):
                fetched.get(run, functools.partial(self._run, run))

        def work(window: slice, _: None) -> int:
            found: list[tuple[int, Buffer]] = []
            near: dict[tuple[int, int], _Frame | Opened] = {}
            for index, row in enumerate(extents.slice(window.start, window.stop).rows(), window.start):
                key = row.pack, row.offset
                frame = near.get(key)
                if frame is None:
                    frame = near[key] = frames.get(key, functools.partial(made, index, row))
                part = frame.bytes_of(*row.run) if isinstance(frame, Opened) else self._part_of(frame, row)[0]
                found.append((wanted.places[index], part))
            # By the thread that decoded it: the bytes are still in its caches, and no other waits for them.
            put(found)
            done = wanted.done_with(window)
            frames.drop(done.frames)
            fetched.drop(done.runs)
            return sum(len(part) for _, part in found)

        def made(index: int, row: Row) -> _Frame | Opened:
            place = wanted.run_of(index)
            run = fetched.get(place, functools.partial(self._run, place))
            if run.key is not None:
                frame = run.data[row.offset - run.start : row.offset - run.start + row.length]
                birth = self._manifest.packs[row.pack][0]
                if opened := openers.open(run.key, birth, row.frame, frame, wanted.of_frame(index)):
                    return opened
            return self._frame_of(row, run)

        ring, jobs = self._keyring, self._jobs if stream.size >= _WORTH_PROCESSES else 0
        with Openers(ring.vault, ring.piece_key, jobs=jobs, room=_FRAMES_KEPT + _IN_USE) as openers:
            # More than there are processes that decode: what is put may have to wait for a disk.
            given = sum(self._ahead(wanted.windows, load, work, self._jobs + _PUTTING))
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
        return self._ahead(
            _plan(stream.extents, first, last),
            lambda fetch: self._run((fetch.pack, fetch.start, fetch.end)),
            lambda fetch, run: self._fetch(stream, fetch, run),
            self._jobs,
        )

    def _ahead(
        self, items: Sequence[P], load: Callable[[P], L], work: Callable[[P, L], T], workers: int
    ) -> Iterator[T]:
        """What `work` makes of the items and of what `load` brought for them, in order. Loads are begun some items before, since a
        store may be far away and a disk may be slow; some results are made while the last one is used.
        """
        if not items:
            return
        with ThreadPoolExecutor(_LOADERS, "load") as loaders, ThreadPoolExecutor(workers, "decode") as pool:
            loads: deque[tuple[P, Future[L]]] = deque()
            results: deque[Future[T]] = deque()
            coming = iter(items)
            try:
                while True:
                    for item in itertools.islice(coming, _LOADED_AHEAD - len(loads)):
                        loads.append((item, loaders.submit(load, item)))
                    if not loads:
                        break
                    item, loaded = loads.popleft()
                    results.append(pool.submit(_made_of, work, item, loaded))
                    if len(results) > workers + 1:
                        yield results.popleft().result()
                while results:
                    yield results.popleft().result()
            finally:
                for result in results:
                    result.cancel()
                for _, loaded in loads:
                    loaded.cancel()

    def _fetch(self, stream: StoredStream, fetch: _Fetch, run: _Run) -> tuple[bytes, bytes]:
        tokens: list[bytes] = []
        out: list[memoryview] = []
        for part, ids, lengths in self._open(stream.extents.slice(fetch.extents.start, fetch.extents.stop), run):
            tokens.extend(map(_TOKEN.pack, ids, lengths))
            out.append(part)
        return b"".join(tokens), b"".join(out)

    def _open(self, extents: Extents, run: _Run) -> Iterator[tuple[memoryview, list[bytes], list[int]]]:
        """Each extent's bytes, and the ids and lengths of its pieces, verified; consecutive extents share a decoded frame."""
        opened: _Frame | None = None
        for row in extents.rows():
            if opened is None or opened.number != row.frame:
                opened = self._frame_of(row, run)
            part, ids = self._part_of(opened, row)
            yield part, ids, opened.lengths[row.first : row.first + row.pieces]

    def _run(self, run: tuple[int, int, int]) -> _Run:
        """The stored bytes from one place of a pack to another. What cannot be had is said when a frame of it is wanted."""
        pack, start, end = run
        birth, name = self._manifest.packs[pack]
        try:
            data = memoryview(self._store.get_range(pack_name(name), start, end - start))
            return _Run(start, data, self._keys.key(birth, name), None)
        except ObjectMissing:
            return _Run(start, memoryview(b""), None, None)
        except (StoreError, Damaged) as error:
            if self._elsewhere is None:
                raise
            return _Run(start, memoryview(b""), None, error)

    def _frame_of(self, row: Row, run: _Run) -> _Frame:
        birth, pack = self._manifest.packs[row.pack]
        what = self._what(pack)
        try:
            if run.unreachable is not None:
                raise run.unreachable
            if run.key is not None:
                frame = run.data[row.offset - run.start : row.offset - run.start + row.length]
                found = open_frame(AESGCM(run.key), self._keyring.vault, birth, row.frame, frame, what=what)
            else:
                found = self._moved(birth, row.frame, what)
        except (Damaged, StoreError) as error:
            return self._from_elsewhere(row, error)
        return _Frame(row.frame, *found, self._keyring.piece_key, what)

    def _part_of(self, frame: _Frame, row: Row) -> tuple[memoryview, list[bytes]]:
        try:
            return frame.part(row.first, row.pieces, row.bytes, row.check)
        except Damaged as error:
            return self._from_elsewhere(row, error).part(row.first, row.pieces, row.bytes, row.check)

    def _from_elsewhere(self, row: Row, error: Exception) -> _Frame:
        """Raises the error where nobody else has the frame."""
        birth, pack = self._manifest.packs[row.pack]
        other = self._elsewhere and self._elsewhere(birth, row.frame, Location(pack, row.offset, row.length))
        if not other:
            raise error
        return _Frame(row.frame, *other, self._keyring.piece_key, self._what(pack))

    def _what(self, pack: str) -> str:
        return f"pack {pack_name(pack)} (needed by {self._backup}, source {self._source})"

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


def _made_of(work: Callable[[P, L], T], item: P, loaded: Future[L]) -> T:
    return work(item, loaded.result())


@dataclass(frozen=True)
class _Run:
    """Stored bytes of a pack, and what opens them."""

    start: int
    data: memoryview
    key: bytes | None
    """None: the pack is gone, or cannot be reached."""
    unreachable: StoreError | Damaged | None


class _Frame:
    """A decoded frame; the runs of pieces that were asked for are hashed once."""

    def __init__(self, number: int, lengths: list[int], plain: memoryview, key: bytes, what: str) -> None:
        """`what`: the pack, and who needs it, for errors."""
        self.number, self.lengths, self._what = number, lengths, what
        self._places, self._plain, self._key = starts(lengths), plain, key
        self._seen: dict[tuple[int, int], list[bytes]] = {}

    def part(self, begin: int, count: int, size: int, check: int) -> tuple[memoryview, list[bytes]]:
        """The bytes of a run of pieces, and their ids. Raises Damaged where they are not those of the extent."""
        if begin + count > len(self.lengths):
            raise Damaged(f"frame {self.number} of {self._what} holds fewer pieces than the manifest says")
        part = self._plain[self._places[begin] : self._places[begin + count]]
        if (begin, count) not in self._seen:
            self._seen[begin, count] = identify(self._key, part, self.lengths[begin : begin + count])
        ids = self._seen[begin, count]
        if len(part) != size or check_of(self._key, b"".join(ids)) != check:
            raise Damaged(f"frame {self.number} of {self._what} does not hold the pieces that the manifest says")
        return part, ids


def _plan(extents: Extents, first: int, last: int) -> list[_Fetch]:
    """Groups extents in order, as long as they lie forward in one pack with small gaps."""
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
            and (offsets[stop] == offsets[stop - 1] or end <= offsets[stop] <= end + GAP)
            and end - start < FETCH
            and raw < 8 * FETCH
        ):
            end = max(end, offsets[stop] + lengths[stop])
            raw += int(extents.bytes[stop])
            stop += 1
        fetches.append(_Fetch(pack, start, end, slice(begin, stop)))
        begin = stop
    return fetches
