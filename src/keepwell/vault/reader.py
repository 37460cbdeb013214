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
from typing import Generic, Protocol, TypeVar

import blake3
import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keepwell.core.errors import Damaged, ObjectMissing, StoreError, UsageError
from keepwell.core.streams import Buffer
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store
from keepwell.vault.cutter import check_of, identify
from keepwell.vault.layout import pack_name
from keepwell.vault.manifest import Extents, Manifest, Row, StoredStream
from keepwell.vault.pack import HEAD_GUESS, head_size, open_frame, sections, starts

_FETCH = 1 << 20
"""Stored bytes in one ranged read, about."""
_WINDOW, _MOST_EXTENTS = 4 << 20, 4096
_FRAMES_KEPT, _RUNS_KEPT = 96, 48
"""Of frames of 512 KiB and reads of 1 MiB: some of each of the last weeks' backups."""
_GAP = 32 << 10
"""Unneeded bytes that are cheaper to read than to skip."""
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
        """The stream in its order, extent by extent; of frames that lie scattered over packs each is (nearly always) fetched and
        decoded once: of each backup whose pieces are still in use, the frames are met in the order in which it wrote them, so
        a few of each at hand are enough. The digest of the whole stream is not compared. Raises Damaged.
        """
        stream = self._stream(name)
        extents = stream.extents
        at = (np.cumsum(extents.bytes, dtype=np.int64) - extents.bytes).tolist()
        runs, run_of = _runs(extents)
        first = _first_met(extents)
        frames: _Kept[_Frame] = _Kept(_FRAMES_KEPT)
        fetched: _Kept[_Run] = _Kept(_RUNS_KEPT)

        def load(window: slice) -> None:
            for number in np.unique(run_of[window][first[window]]).tolist():
                fetched.get(runs[number], functools.partial(self._run, runs[number]))

        def work(window: slice, _: None) -> list[tuple[int, memoryview]]:
            found: list[tuple[int, memoryview]] = []
            near: dict[tuple[int, int], _Frame] = {}
            rows = extents.slice(window.start, window.stop).rows()
            for place, number, row in zip(at[window], run_of[window].tolist(), rows, strict=True):
                key = row.pack, row.offset
                frame = near.get(key)
                if frame is None:
                    frame = near[key] = frames.get(key, functools.partial(made, row, runs[number]))
                found.append((place, self._part_of(frame, row)[0]))
            return found

        def made(row: Row, run: tuple[int, int, int]) -> _Frame:
            return self._frame_of(row, fetched.get(run, functools.partial(self._run, run)))

        given = 0
        for found in self._ahead(_windows(extents), load, work):
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
        return self._ahead(
            _plan(stream.extents, first, last),
            lambda fetch: self._run((fetch.pack, fetch.start, fetch.end)),
            lambda fetch, run: self._fetch(stream, fetch, run),
        )

    def _ahead(self, items: Sequence[P], load: Callable[[P], L], work: Callable[[P, L], T]) -> Iterator[T]:
        """What `work` makes of the items and of what `load` brought for them, in order. Loads are begun some items before, since a
        store may be far away and a disk may be slow; some results are made while the last one is used.
        """
        if not items:
            return
        with ThreadPoolExecutor(_LOADERS, "load") as loaders, ThreadPoolExecutor(self._jobs, "decode") as workers:
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
                    results.append(workers.submit(_made_of, work, item, loaded))
                    if len(results) > self._jobs + 1:
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
            return _Run(start, data, self._keys.box(birth, name), None)
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
            if run.box is not None:
                frame = run.data[row.offset - run.start : row.offset - run.start + row.length]
                found = open_frame(run.box, self._keyring.vault, birth, row.frame, frame, what=what)
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
    box: AESGCM | None
    """None: the pack is gone, or cannot be reached."""
    unreachable: StoreError | Damaged | None


class _Kept(Generic[T]):
    """What was made last, by key: made once, also where two threads want it at the same time."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._made: OrderedDict[tuple[int, ...], Future[T]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, ...], make: Callable[[], T]) -> T:
        with self._lock:
            future = self._made.get(key)
            mine = future is None
            if future is None:
                future = self._made[key] = Future()
                if len(self._made) > self._most:
                    self._made.popitem(last=False)
            else:
                self._made.move_to_end(key)
        if mine:
            try:
                future.set_result(make())
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    self._made.pop(key, None)
        return future.result()


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


def _windows(extents: Extents) -> list[slice]:
    """Consecutive extents of some MiB each."""
    ends = np.cumsum(extents.bytes, dtype=np.int64)
    edges = [0]
    while edges[-1] < len(extents):
        reached = int(ends[edges[-1] - 1]) if edges[-1] else 0
        stop = int(np.searchsorted(ends, reached + _WINDOW, side="left")) + 1
        edges.append(min(stop, len(extents), edges[-1] + _MOST_EXTENTS))
    return [slice(*edge) for edge in itertools.pairwise(edges)]


def _first_met(extents: Extents) -> npt.NDArray[np.bool_]:
    """The extents at which a frame is met for the first time."""
    _, places = np.unique(extents.pack.astype(np.uint64) << np.uint64(32) | extents.offset, return_index=True)
    first = np.zeros(len(extents), np.bool_)
    first[places] = True
    return first


def _runs(extents: Extents) -> tuple[list[tuple[int, int, int]], npt.NDArray[np.int64]]:
    """What to read at once, as (pack, start, end); and for each extent which of these has its frame."""
    order = np.lexsort((extents.offset, extents.pack))
    packs, offsets = extents.pack[order].tolist(), extents.offset[order].tolist()
    lengths = extents.length[order].tolist()
    runs: list[tuple[int, int, int]] = []
    of = np.empty(len(extents), np.int64)
    for index, pack, offset, length in zip(order.tolist(), packs, offsets, lengths, strict=True):
        if runs and runs[-1][0] == pack and offset <= runs[-1][2] + _GAP and offset + length - runs[-1][1] <= _FETCH:
            runs[-1] = (pack, runs[-1][1], max(runs[-1][2], offset + length))
        elif not (runs and runs[-1][0] == pack and offset + length <= runs[-1][2]):
            runs.append((pack, offset, offset + length))
        of[index] = len(runs) - 1
    return runs, of


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
            and (offsets[stop] == offsets[stop - 1] or end <= offsets[stop] <= end + _GAP)
            and end - start < _FETCH
            and raw < 8 * _FETCH
        ):
            end = max(end, offsets[stop] + lengths[stop])
            raw += int(extents.bytes[stop])
            stop += 1
        fetches.append(_Fetch(pack, start, end, slice(begin, stop)))
        begin = stop
    return fetches
