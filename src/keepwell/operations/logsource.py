"""The log of a vault as a server asks for it: one file by its name, or the end."""

from __future__ import annotations

from collections.abc import Callable

from keepwell.core.errors import Damaged, ObjectMissing
from keepwell.core.wal import DEFAULT_SEGMENT, is_segment, parse_segment, segment_name, show_lsn
from keepwell.sources.physical.target import LogMissing
from keepwell.vault.wal import WalArchive
from keepwell.vault.walcoverage import Coverage


def log_source(archive: WalArchive) -> Callable[[str], bytes | None]:
    """Whole segments (what is not there yet of the last one: zeros, which end the log) and histories; None: there is none.

    What is there is looked up once. The function is safe in several threads; it raises LogMissing where more log
    follows, so that a gap is never taken for the end, and KeyCannotRead, StoreError.
    """
    coverage = archive.coverage()
    size = archive.segment_size(coverage) or DEFAULT_SEGMENT

    def give(name: str) -> bytes | None:
        if not is_segment(name):
            try:
                return archive.read_file(name) if name in coverage.files else None
            except ObjectMissing as error:
                raise Damaged(f"{name} went away while it was read: {error.message}") from error
        timeline, start = parse_segment(name, size)
        return _segment(archive, coverage, timeline, start, size)

    return give


def _segment(archive: WalArchive, coverage: Coverage, timeline: int, start: int, size: int) -> bytes | None:
    spans = coverage.spans(timeline)
    first = next(((low, high) for low, high in spans if high > start and low < start + size), None)
    head = b""
    if first and start < first[0]:
        head = _inherited(archive, coverage, timeline, start, first[0])
        if len(head) < first[0] - start:
            raise _missing(archive, timeline, start + len(head), first[0])
    end = min(first[1], start + size) if first else start
    if end < start + size:
        partial = f"{segment_name(timeline, start, size)}.partial"
        if partial in coverage.files:
            # A server that was promoted hands over the last segment of the old timeline under this name.
            return archive.read_file(partial)
        later = [low for low, _ in spans if low > end]
        later += [
            f.end for forks in coverage.histories.values() for f in forks if f.timeline == timeline and f.end > end
        ]
        if later:
            raise _missing(archive, timeline, end, min(later))
    if first is None:
        return None
    begin = max(start, first[0])
    return (head + archive.read(timeline, begin, end - begin)).ljust(size, b"\0")


def _inherited(archive: WalArchive, coverage: Coverage, timeline: int, start: int, end: int) -> bytes:
    """The beginning of a timeline's first segment, which the server copied from the timeline before."""
    for fork in reversed(coverage.history(timeline)):
        if start < fork.end <= end and coverage.has(fork.timeline, start, fork.end):
            return archive.read(fork.timeline, start, fork.end - start)
    return b""


def _missing(archive: WalArchive, timeline: int, start: int, end: int) -> LogMissing:
    return LogMissing(
        f"log of timeline {timeline} is missing in the vault from {show_lsn(start)} to {show_lsn(end)} "
        f"({archive.environment}/{archive.source})",
        hint="Recover to a moment before it (`keepwell wal status` shows them), or from a backup that was taken after it.",
    )
