"""Reading a bucket into the streams `objects` and `content`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from blake3 import blake3

from keepwell.core.errors import Interrupted, ObjectMissing, SourceError
from keepwell.core.objects import ObjectState
from keepwell.core.streams import Buffer, Context, Facts, Sink, StreamWriter
from keepwell.sources.bucket.entries import CONTENT, OBJECTS, Entry, encode, identity
from keepwell.sources.bucket.known import Known, Memory
from keepwell.sources.bucket.reading import Content, ObjectReader
from keepwell.sources.bucket.spec import Spec, asked, chooser

_SMALL = 1 << 20
"""Objects up to this size are read whole, some at a time: a request takes as long as many small objects do."""
_AT_ONCE = 24
_LINES = 256 << 10
_MOST_NAMED = 20
_NOTHING = blake3(b"").hexdigest()


def capture(spec: Spec, sink: Sink, context: Context) -> Facts:
    """Read the bucket into the streams `objects` (see `entries`) and `content` (objects one after another).

    Raises SourceError where the bucket is not there, has nothing to take (unless `allow_empty`), or anything in it cannot be
    read. Facts, besides the common ones: `root` (address), `files` (objects), `reused` (bytes not read again),
    `reused_files`, `excluded`, `markers` (of folders), `verified` (objects read whose MD5 was compared), `digest`.
    """
    started = context.clock.now().timestamp()
    memory = Memory(context.cache if spec.remember else None, spec.objects.url, started)
    done = False
    try:
        facts = _Capture(spec, sink, context, memory).run()
        done = True
        return facts
    finally:
        memory.close(keep=done)


@dataclass(slots=True)
class _Task:
    state: ObjectState
    known: Known | None = None
    data: bytearray = field(default_factory=bytearray)
    reading: Future[Content] | None = None


class _Capture:
    def __init__(self, spec: Spec, sink: Sink, context: Context, memory: Memory) -> None:
        self.spec, self.sink, self.context, self.memory = spec, sink, context, memory
        self.objects = spec.objects
        self.reader = ObjectReader(spec.objects)
        self.task = f"{spec.objects.url}: objects"
        self.lines: StreamWriter = sink.stream(OBJECTS)
        self.content: StreamWriter = sink.stream(CONTENT)
        self.pending = bytearray()
        self.seen: set[int] = set()
        self.missing: dict[str, ObjectState] = {}
        """Listed, and not there when it was to be read."""
        self.doubles: list[ObjectState] = []
        """Listed under a name that another one has: names that differ in slashes alone look the same."""
        self.listed = self.excluded = self.files = self.size = self.reused = self.reused_files = self.markers = 0
        self.digest = 0
        self.vanished: list[str] = []

    def run(self) -> Facts:
        self.context.progress.begin(self.task)
        with ThreadPoolExecutor(max(4, min(_AT_ONCE, 4 * self.context.jobs)), "bucket") as pool:
            try:
                self.take_all(pool)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        self.settle_missing()
        self.require_something()
        self.lines.write(self.pending)
        self.lines.close()
        self.content.close()
        self.context.progress.end(self.task)
        for name in self.vanished:
            self.context.progress.note(f"{name} was deleted during the backup and is not in it")
        return {
            "type": "bucket",
            "root": self.objects.url,
            "streams": [OBJECTS, CONTENT],
            "files": self.files,
            "bytes": self.size,
            "digest": f"{self.digest % 2**256:064x}",
            "reused": self.reused,
            "reused_files": self.reused_files,
            "excluded": self.excluded,
            "markers": self.markers,
            "verified": self.reader.verified,
            "warnings": self.warnings(),
        }

    def take_all(self, pool: ThreadPoolExecutor) -> None:
        takes = chooser(self.spec.include, self.spec.exclude)
        queue: deque[_Task] = deque()
        for state in self.listing():
            self.between()
            self.listed += 1
            if not takes(state.name):
                self.excluded += 1
                continue
            if hash(state.name) in self.seen:
                self.doubles.append(state)
                continue
            self.seen.add(hash(state.name))
            queue.append(self.begin(state, pool))
            if len(queue) >= _AT_ONCE:
                self.finish(queue.popleft())
        while queue:
            self.finish(queue.popleft())

    def listing(self) -> Iterator[ObjectState]:
        with asked():
            yield from self.objects.list()

    def begin(self, state: ObjectState, pool: ThreadPoolExecutor) -> _Task:
        task = _Task(state)
        known = self.memory.find(state)
        if known is not None and (not known.entry.size or self.sink.find(known.ids) is not None):
            task.known = known
        elif state.size <= _SMALL:

            def again() -> Callable[[Buffer], object]:
                task.data.clear()
                return task.data.extend

            task.reading = pool.submit(self.reader.read, state, again)
        return task

    def finish(self, task: _Task) -> None:
        self.between()
        if task.known is not None and self.reuse(task.state, task.known):
            return
        try:
            if task.reading is not None:
                entry, ids = self.keep(task.reading.result(), task.data)
            else:
                entry, ids = self.stream(task.state)
        except ObjectMissing:
            self.missing[task.state.name] = task.state
            return
        self.memory.remember(task.state, entry, ids)
        self.add(entry)

    def reuse(self, listed: ObjectState, known: Known) -> bool:
        self.content.boundary()
        entry = known.entry
        entry.offset = self.content.position
        if entry.size and not self.content.reuse(known.ids, entry.size):
            return False
        self.reused += entry.size
        self.reused_files += 1
        self.memory.remember(listed, entry, known.ids)
        self.context.progress.advance(self.task, entry.size)
        self.add(entry)
        return True

    def keep(self, found: Content, data: bytearray) -> tuple[Entry, bytes]:
        offset, ids = self.content.position, b""
        if data:
            self.content.boundary()
            offset = self.content.position
            self.content.write(data)
            ids = self.content.take_ids()
        self.context.progress.advance(self.task, len(data))
        return _entry(found, offset), ids

    def stream(self, state: ObjectState) -> tuple[Entry, bytes]:
        """As it is read; a try that fails leaves bytes that nothing refers to and that deduplicate."""
        offset = 0

        def again() -> Callable[[Buffer], object]:
            nonlocal offset
            self.content.boundary()
            offset = self.content.position
            return self.write

        found = self.reader.read(state, again)
        return _entry(found, offset), self.content.take_ids()

    def write(self, block: Buffer) -> None:
        self.between()
        self.content.write(block)
        self.context.progress.advance(self.task, len(block))

    def add(self, entry: Entry) -> None:
        if entry.folder:
            self.markers += 1
        else:
            self.files += 1
            self.size += entry.size
            self.digest += identity(entry)
        self.pending += encode(entry)
        if len(self.pending) >= _LINES:
            self.lines.write(self.pending)
            self.pending = bytearray()

    def settle_missing(self) -> None:
        """What was listed and could not be had: deleted meanwhile, a marker of a folder, or of a name that cannot be asked for."""
        unreadable = []
        there: dict[str, ObjectState] = {}
        if self.missing:
            there = {state.name: state for state in self.listing() if state.name in self.missing}
            self.vanished = [name for name in self.missing if name not in there]
        for state in [*there.values(), *self.doubles]:
            if state.size:
                unreadable.append(state.name or "/")
            elif state.name:
                self.add(Entry(state.name, 0, 0, _NOTHING, state.modified, folder=True))
        if unreadable:
            named = ", ".join(repr(name) for name in unreadable[:_MOST_NAMED])
            more = f" and {len(unreadable) - _MOST_NAMED} more" if len(unreadable) > _MOST_NAMED else ""
            raise SourceError(
                f"{len(unreadable)} objects in {self.objects.url} cannot be read: {named}{more}. They are listed, and not found "
                "under these names: perhaps theirs begin or end with a slash",
                hint="Rename them, or name them in `exclude` if they do not matter.",
            )

    def require_something(self) -> None:
        if self.files or self.spec.allow_empty:
            return
        if self.listed:
            raise SourceError(
                f"of {self.listed} objects in {self.objects.url} none was left to back up",
                hint="Correct include and exclude, or write allow_empty = true.",
            )
        raise SourceError(
            f"there is nothing in {self.objects.url}",
            hint="Correct the bucket or the prefix, or write allow_empty = true where nothing is right.",
        )

    def warnings(self) -> list[str]:
        names = self.reader.unmatched
        if not names:
            return []
        named = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
        if not self.reader.verified:
            text = (
                "the ETags in this bucket are no MD5 (a key of the service's key management encrypts it), so contents were "
                "compared with their sizes only"
            )
            return [text]
        text = (
            f"the ETag of {named} is not the MD5 of the content, which was read twice and was the same: a key of the service's "
            "key management encrypts it, or it is damaged in the bucket"
        )
        return [text]

    def between(self) -> None:
        if self.context.cancelled():
            raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")


def _entry(found: Content, offset: int) -> Entry:
    state = found.state
    return Entry(
        state.name, state.size, offset, found.digest, state.modified, state.etag, state.version, dict(found.attributes)
    )
