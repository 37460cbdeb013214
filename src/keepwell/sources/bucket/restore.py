"""Getting objects back: into a folder, or into an empty bucket or prefix."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from blake3 import blake3

from keepwell.core.errors import Damaged, Interrupted, ObjectMissing, SourceError, TargetNotEmpty, UsageError
from keepwell.core.objects import Objects
from keepwell.core.streams import Buffer, Context, Facts, Streams
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.bucket.entries import Entry, read_objects
from keepwell.sources.bucket.folder import NAMES, FolderObjects
from keepwell.sources.bucket.spec import Target, asked
from keepwell.sources.files.selection import Reader, Selection

_SMALL = 1 << 20
_AT_ONCE = 24


def restore(facts: Facts, streams: Streams, target: Target, request: RestoreRequest, context: Context) -> RestoreReport:
    """Write the objects into `target`, each under its name, with its metadata.

    `request.paths` chooses objects, or all below a prefix. Every object is compared with its digest before it counts. In a
    folder the metadata is in `keepwell-objects.jsonl`; a bucket gets it with the objects, and must have none yet. Raises
    TargetNotEmpty, UsageError for a path that is not there, Damaged naming the object, SourceError.
    """
    if request.tables or request.sql:
        raise UsageError("a bucket has no tables", hint="Choose objects with --path.")
    started = context.clock.monotonic()
    selection = _Chosen(request.paths)
    extents, size = selection.survey(entry.as_file() for entry in read_objects(streams))
    if target.objects is not None:
        objects: Objects = target.objects
        _require_empty(objects)
        folder = None
    else:
        assert target.path is not None
        objects = folder = FolderObjects(target.path)
        folder.make()
    work = _Restore(facts, objects, folder, Reader(streams, extents), context)
    context.progress.begin(work.task, size)
    with ThreadPoolExecutor(max(4, min(_AT_ONCE, 4 * context.jobs)), "bucket") as pool:
        try:
            for entry in read_objects(streams):
                work.between()
                if selection.takes(entry.name.encode()):
                    work.take(entry, pool)
            work.settle(0)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    context.progress.end(work.task)
    report = work.report
    report.seconds["restore"] = context.clock.monotonic() - started
    if not request.paths and report.files != facts["files"]:
        raise Damaged(
            f"{report.files} objects came out of the vault; {facts['files']} went in",
            hint="Run `keepwell check`, and restore an older backup or a copy.",
        )
    if folder is not None and folder.moved:
        report.warnings.append(
            f"{folder.moved} objects have names that are no paths here; {NAMES} in the folder says which files they are"
        )
    if work.markers and folder is None:
        report.warnings.append(f"{work.markers} empty markers of folders were not made: only consoles show them")
    return report


class _Chosen(Selection):
    """An object that is called as a folder above the wanted ones does not lead to them, and stays out."""

    def takes(self, path: bytes) -> bool:
        return self.asked(path)


class _Restore:
    def __init__(
        self, facts: Facts, objects: Objects, folder: FolderObjects | None, reader: Reader, context: Context
    ) -> None:
        self.objects, self.folder, self.reader, self.context = objects, folder, reader, context
        self.task = f"{facts['root']}: objects"
        self.report = RestoreReport()
        self.markers = 0
        self.queue: deque[Future[None]] = deque()

    def take(self, entry: Entry, pool: ThreadPoolExecutor) -> None:
        if entry.folder:
            self.markers += 1
            if self.folder is not None:
                self.folder.folder(entry)
            return
        blocks = self.verified(entry)
        if self.folder is None and entry.size <= _SMALL:
            # A request takes as long as many small objects do, so some are on their way at a time.
            data = b"".join(blocks)
            self.queue.append(pool.submit(self.put, entry, lambda: iter([data])))
            self.settle(_AT_ONCE)
        else:
            self.put(entry, lambda: blocks)
        self.report.files += 1
        self.report.bytes += entry.size
        self.context.progress.advance(self.task, entry.size)

    def settle(self, most: int) -> None:
        while len(self.queue) > most:
            self.queue.popleft().result()

    def put(self, entry: Entry, content: Callable[[], Iterator[Buffer]]) -> None:
        trouble: list[BaseException] = []

        def passing() -> Iterator[Buffer]:
            try:
                yield from content()
            except BaseException as error:
                trouble.append(error)
                raise

        try:
            with asked():
                self.objects.put(entry.name, passing(), entry.size, entry.state, entry.attributes)
        except Exception as error:
            if trouble and trouble[0] is not error:
                raise trouble[0] from None  # what went wrong on our side, not what the library made of it
            raise

    def verified(self, entry: Entry) -> Iterator[Buffer]:
        hasher = blake3()
        for block in self.reader.read(entry.as_file(), self.between):
            hasher.update(block)
            yield block
        if hasher.hexdigest() != entry.digest:
            raise Damaged(
                f"{entry.name} came out of the vault with other bytes than went in",
                hint="The object was not kept. Restore it from an older backup or a copy; others can be restored by their paths.",
            )

    def between(self) -> None:
        if self.context.cancelled():
            raise Interrupted(
                "the restore was interrupted", hint=f"Remove what is in {self.objects.url}, and start it again."
            )


def _require_empty(objects: Objects) -> None:
    try:
        with asked():
            found = next(iter(objects.list()), None)
    except ObjectMissing as error:
        raise SourceError(error.message, hint=error.hint) from None
    if found is not None:
        raise TargetNotEmpty(
            f"{objects.url} is not empty: {found.name} is in it",
            hint="Nothing was overwritten. Name a prefix that nothing lies below: s3://bucket/restored",
        )
