"""`restore_command`: a segment out of the vault, and the next ones ahead; and what is the end of the log, and what a gap."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core import walnote
from keepwell.core.errors import Damaged, KeepwellError, SourceError, UsageError
from keepwell.core.streams import Buffer, Context, Json
from keepwell.core.wal import is_segment, parse_segment, segment_name, show_lsn
from keepwell.operations.opening import open_vault
from keepwell.operations.wal_sources import physical_source, system_in
from keepwell.policy.load import LoadedPolicy
from keepwell.vault.vault import Vault
from keepwell.vault.wal import WalArchive
from keepwell.vault.walcoverage import Coverage

_MOST_AHEAD, _FIRST_AHEAD = 16, 2
_MOST_BYTES = 512 << 20
"""Of segments that lie ready."""
_PATIENCE = 10.0
"""Seconds for which a gap may be a segment that is on its way into the vault."""


@dataclass(frozen=True)
class FetchRequest:
    name: str
    """`%f`"""
    target: Path
    """`%p`"""
    source: str | None = None
    environment: str | None = None
    system: str | None = None
    """None: that of the cluster in whose data directory this runs."""
    caller: tuple[str, ...] = ()
    """Of `core.walnote`: for it further segments are brought ahead. Empty: none are."""


@dataclass
class FetchResult:
    name: str
    found: bool
    """False: the log ends before it."""
    bytes: int = 0
    log: int = 0
    """So many of them are log; what follows is zeros, since the log ends there."""
    ahead: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def json(self) -> dict[str, Json]:
        return {
            "name": self.name,
            "found": self.found,
            "bytes": self.bytes,
            "log": self.log,
            "ahead": self.ahead,
            "remarks": self.remarks,
            "seconds": round(self.seconds, 3),
        }


class WalGap(Damaged):
    """Log is missing that there must have been."""


def fetch(loaded: LoadedPolicy, request: FetchRequest, context: Context) -> FetchResult:
    """Writes the file to `target`; `found` is False only at the genuine end of the log.

    Raises WalGap where log is missing although there is or was more behind it; SourceError, UsageError, Damaged, the StoreError
    and VaultKeyError families. Whatever is raised must not look to PostgreSQL like the end of the log.
    """
    began = context.clock.monotonic()
    if not walnote.is_log_name(request.name):
        raise UsageError(
            f"{request.name!r} is not the name of a file of the write-ahead log",
            hint="In restore_command write: keepwell wal fetch %f %p --source NAME",
        )
    environment, source = physical_source(loaded, request.environment, request.source)
    vault = open_vault(loaded)
    vault.config.require("read")
    archive = vault.wal(environment, source, _system(vault, environment, source, request))
    result = FetchResult(request.name, found=False)
    coverage, data = _patiently(archive, request, result, context)
    if data is not None:
        _write(request.target, data)
        result.found, result.bytes = True, len(data)
        result.log = result.log or len(data)
        if request.caller and is_segment(request.name) and result.log == result.bytes:
            _ahead(archive, coverage, request, result, context)
    result.seconds = context.clock.monotonic() - began
    return result


def _system(vault: Vault, environment: str, source: str, request: FetchRequest) -> str:
    known = vault.wal_systems(environment, source)
    where = [Path("global", "pg_control"), request.target.parent.parent / "global" / "pg_control"]
    wanted = request.system or next((found for path in where if (found := system_in(path))), None)
    if wanted is None and len(known) == 1:
        return known[0]
    if wanted in known:
        return wanted
    if wanted is None and known:
        raise UsageError(
            f"{environment}/{source} has log of several clusters ({', '.join(known)}), and it cannot be told which is meant",
            hint="Run this in the cluster's data directory, as restore_command does, or say --system.",
        )
    has = f"it has log of cluster {', '.join(known)}" if known else "it has no log of this source at all"
    raise SourceError(
        f"the vault has no log of cluster {wanted or '(unknown)'} for {environment}/{source}: {has}",
        hint="Is it the right source, environment and vault? To bring a backup up without any log: keepwell restore --immediate.",
    )


def _patiently(
    archive: WalArchive, request: FetchRequest, result: FetchResult, context: Context
) -> tuple[Coverage, Buffer | None]:
    """Segments are stored side by side, so that one may be there before the one that it follows: a gap is looked at again."""
    until = context.clock.monotonic() + _PATIENCE
    while True:
        coverage = archive.coverage()
        try:
            if is_segment(request.name):
                return coverage, _segment(archive, coverage, request, result)
            return coverage, _small(archive, coverage, request.name)
        except WalGap:
            if context.clock.monotonic() >= until or context.cancelled():
                raise
            context.clock.sleep(1)


def _small(archive: WalArchive, coverage: Coverage, name: str) -> bytes | None:
    if name in coverage.files:
        return archive.read_file(name)
    timeline = int(name[:8], 16)
    # The first timeline has no history; PostgreSQL asks for it all the same.
    if name.endswith(".history") and timeline > 1 and coverage.spans(timeline):
        raise WalGap(
            f"the vault has log of timeline {timeline}, and not its history, {name}: it cannot be followed",
            hint="Put the file back into the vault: `keepwell wal push` with the server's pg_wal/"
            + name
            + ". To recover "
            "along an older timeline, say it: --timeline.",
        )
    return None


def _segment(archive: WalArchive, coverage: Coverage, request: FetchRequest, result: FetchResult) -> Buffer | None:
    size = archive.segment_size(coverage)
    partial = f"{request.name}.partial"
    if size is None:
        return archive.read_file(partial) if partial in coverage.files else None
    try:
        timeline, start = parse_segment(request.name, size)
    except ValueError as error:
        raise UsageError(str(error)) from None
    end = start + size
    upto = next((min(high, end) for low, high in coverage.spans(timeline) if low <= start < high), start)
    if upto == end:
        return archive.read(timeline, start, size)
    if partial in coverage.files:
        # A server that was promoted hands over the last segment of the old timeline under this name.
        data = archive.read_file(partial)
        result.log = len(data)
        return data
    missing = _missing(coverage, timeline, upto)
    if missing is not None:
        if upto == start and _at_hand(request.name, size):
            return None
        raise WalGap(
            f"log of timeline {timeline} is missing from {show_lsn(upto)} to {show_lsn(missing)}, for "
            f"{archive.environment}/{archive.source}",
            hint="Recovery goes no further than there with this backup. `keepwell wal status` shows what can be reached: a moment "
            "before it (--at), or a later one with a backup from behind the gap.",
        )
    if upto == start:
        return None
    log = archive.read(timeline, start, upto - start)
    result.log = len(log)
    return log + bytes(end - upto)


def _missing(coverage: Coverage, timeline: int, at: int) -> int | None:
    """Up to where log of the timeline is known to have gone on, where it is not there from `at` on."""
    later = [low for low, _ in coverage.spans(timeline) if low > at]
    if later:
        return min(later)
    left = [fork.end for forks in coverage.histories.values() for fork in forks if fork.timeline == timeline]
    return max((end for end in left if end > at), default=None)


def _at_hand(name: str, size: int) -> bool:
    """Whether the cluster has the segment itself, from its backup: then PostgreSQL takes that one."""
    with contextlib.suppress(OSError):
        return Path("pg_wal", name).stat().st_size == size
    return False


def _write(target: Path, data: Buffer) -> None:
    try:
        with target.open("wb") as file:
            file.write(data)
    except OSError as error:
        with contextlib.suppress(OSError):
            target.unlink()
        raise SourceError(
            f"{target} cannot be written: {error.strerror}", hint="Look at its folder: rights, and room on the disk."
        ) from None


def _ahead(
    archive: WalArchive, coverage: Coverage, request: FetchRequest, result: FetchResult, context: Context
) -> None:
    """What fails here is not told: its turn comes, and then it is an error."""
    caller = list(request.caller)
    place = walnote.folder("fetch", caller, make=True)
    size = archive.segment_size(coverage)
    if place is None or not size:
        return
    timeline, start = parse_segment(request.name, size)
    # What the last call brought ahead was all used where this one is what comes next: then more is worth it.
    before = walnote.read(place, caller)
    most = min(_MOST_AHEAD, _MOST_BYTES // size)
    count = min(most, max(_FIRST_AHEAD, 2 * len(before)))
    wanted: list[int] = []
    for number in range(1, count + 1):
        at = start + number * size
        if context.cancelled() or not coverage.has(timeline, at, at + size):
            break
        wanted.append(at)

    def bring(at: int) -> tuple[str, str]:
        name = segment_name(timeline, at, size)
        waiting = os.path.join(place, name)  # noqa: PTH118  (walnote speaks of texts)
        _write(Path(waiting), archive.read(timeline, at, size))
        with Path(waiting).open("rb") as file:  # a power loss must not leave it short
            os.fsync(file.fileno())
        return name, walnote.state_of(waiting)

    done: dict[str, str] = {}
    with ThreadPoolExecutor(max(1, min(2, context.jobs)), "wal-fetch") as pool:
        brought: list[Future[tuple[str, str]]] = [pool.submit(bring, at) for at in wanted]
        for one in brought:
            try:
                name, state = one.result()
            except (KeepwellError, OSError) as error:
                result.remarks.append(f"not brought ahead: {error}")
                break
            done[name] = state
    try:
        walnote.keep(place, caller, done)
    except OSError as error:
        result.remarks.append(f"what was brought ahead cannot be noted: {error.strerror}")
        return
    result.ahead = list(done)
