"""Getting a folder back, or a part of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from keepwell.core.errors import Damaged, Interrupted, SourceError, TargetNotEmpty, UsageError
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.files.entries import FILE, HARDLINK, read_tree
from keepwell.sources.files.place import Place
from keepwell.sources.files.selection import Reader, Selection
from keepwell.sources.files.spec import Target

_MOST_WARNINGS = 100


def restore(facts: Facts, streams: Streams, target: Target, request: RestoreRequest, context: Context) -> RestoreReport:
    """Write the files into `target`, a new or empty folder, each where it was below the root.

    `request.paths` chooses files and folders; those that lead to them come too. Every file is compared with its
    digest. Owners are set by name as root only. What could not be set is a warning; what cannot be written is
    an error. Files are not synced to disk one by one. Raises TargetNotEmpty, UsageError for a path that is
    not there, Damaged naming the file, SourceError.
    """
    if request.tables or request.sql:
        raise UsageError("a folder of files has no tables", hint="Choose files and folders with --path.")
    started = context.clock.monotonic()
    selection = Selection(request.paths)
    extents, size = selection.survey(read_tree(streams))
    report = RestoreReport()
    task = f"{target.path.name}: files"
    with _opened(target.path) as root:
        context.progress.begin(task, size)
        place = Place(root)
        reader = Reader(streams, extents)

        def between() -> None:
            if context.cancelled():
                raise Interrupted(
                    "the restore was interrupted", hint=f"Remove what is in {target.path}, and start it again."
                )

        try:
            present: set[bytes] = set()
            for entry in read_tree(streams):
                between()
                if not selection.takes(entry.path):
                    continue
                linked = entry.type == HARDLINK and entry.target in present
                place.add(entry, reader.read(entry, between), linked=linked)
                if entry.type in (FILE, HARDLINK):
                    report.files += 1
                    report.bytes += 0 if linked else entry.size
                    context.progress.advance(task, 0 if linked else entry.size)
                    if entry.path in selection.first_names:
                        present.add(entry.path)
            place.finish()
        except OSError as error:
            raise SourceError(
                f"cannot write below {target.path}: {error.strerror}",
                hint="Check the rights and the free space there, empty the folder, and start again.",
            ) from error
        finally:
            place.abandon()
        context.progress.end(task)
    more = len(place.warnings) - _MOST_WARNINGS
    report.warnings = place.warnings[:_MOST_WARNINGS] + ([f"and {more} more like these"] if more > 0 else [])
    report.seconds["restore"] = context.clock.monotonic() - started
    if not request.paths and (report.files != facts["files"]):
        raise Damaged(
            f"{report.files} files came out of the vault; {facts['files']} went in",
            hint="Run `keepwell check`, and restore an older backup or a copy.",
        )
    return report


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A handle of the new or empty folder."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileExistsError, NotADirectoryError):
        raise TargetNotEmpty(
            f"{path} is a file", hint="Nothing was overwritten. Name a folder that does not exist yet."
        ) from None
    except OSError as error:
        raise SourceError(f"cannot make the folder {path}: {error.strerror}", hint="Check your rights.") from error
    try:
        if os.listdir(handle):  # noqa: PTH208 - by its handle: the name could mean another folder by now
            raise TargetNotEmpty(
                f"{path} is not empty",
                hint="Nothing was overwritten. Restore into a new folder, and move what you need from there.",
            )
        yield handle
    finally:
        os.close(handle)
