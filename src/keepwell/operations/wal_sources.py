"""Which source the log belongs to, and of which cluster it is."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import SourceError, UsageError
from keepwell.core.wal import is_segment, parse_segment, show_lsn, valid_segment_size
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.values import nearest

_PAGE = struct.Struct("=HHIQI4xQII")
"""XLogLongPageHeaderData: magic, flags, timeline, position, rest of a record; system, segment size, block size."""
_LONG = 0x0002
_SYSTEM = struct.Struct("=Q")


def physical_sources(loaded: LoadedPolicy) -> list[tuple[str, str]]:
    """(environment, source) of every physical source of the policy."""
    return [
        (environment, name)
        for environment, table in loaded.policy.environments.items()
        for name, source in table.sources.items()
        if getattr(source, "method", "") == "physical"
    ]


def physical_source(loaded: LoadedPolicy, environment: str | None, source: str | None) -> tuple[str, str]:
    """The one that is meant; what is not said must be the only one of its kind. Raises UsageError."""
    if environment is not None:
        loaded.environment(environment)
    known = physical_sources(loaded)
    fits = [one for one in known if environment in {None, one[0]} and source in {None, one[1]}]
    if len(fits) == 1:
        return fits[0]
    listed = ", ".join(f"{e}/{s}" for e, s in known)
    if not known:
        raise UsageError(
            f"{loaded.path} has no physical source, and only these have a log",
            hint='Give the PostgreSQL source method = "physical".',
        )
    if not fits:
        wanted = "/".join(part for part in (environment, source) if part)
        near = nearest(source or "", [s for _, s in known])
        raise UsageError(f"there is no physical source {wanted}", hint=f"{near} The policy has: {listed}.".strip())
    raise UsageError(
        f"the log of which source? The policy has {listed}", hint="Say --source, and --environment where it needs both."
    )


@dataclass(frozen=True)
class SegmentHead:
    """What the first page of a segment says of itself."""

    timeline: int
    position: int
    system: str
    segment_size: int


def read_segment_head(name: str, raw: bytes) -> SegmentHead:
    """From the first 40 bytes or more of the file. Raises SourceError where it is not the segment `name`."""
    if len(raw) >= _PAGE.size:
        _, flags, timeline, position, _, system, size, block = _PAGE.unpack_from(raw)
        if flags & _LONG and valid_segment_size(size) and block and timeline:
            head = SegmentHead(timeline, position, str(system), size)
            _check_place(name, head)
            return head
    raise SourceError(
        f"{name} is no segment of a write-ahead log: it does not begin as one",
        hint="PostgreSQL hands over %p in archive_command; this must be the first argument. On a machine with another byte order "
        "than the server's this does not work.",
    )


def _check_place(name: str, head: SegmentHead) -> None:
    try:
        timeline, start = parse_segment(name, head.segment_size)
    except ValueError as error:
        raise SourceError(str(error)) from None
    # After a switch, the first segment of the new timeline begins with a page of the old one.
    if start != head.position or head.timeline > timeline:
        raise SourceError(
            f"{name} holds other log than its name says: position {show_lsn(head.position)} of timeline {head.timeline}",
            hint="It was renamed, or is one that the server had set aside for later use. Nothing was stored.",
        )


def system_of(folder: Path) -> str:
    """The system identifier of the cluster whose log lies in `folder` (`pg_wal`). Raises SourceError."""
    for control in (folder.parent / "global" / "pg_control", Path("global", "pg_control")):
        found = system_in(control)
        if found:
            return found
    # pg_wal is somewhere else, and we were not called from the cluster's folder.
    for path in sorted(folder.glob("0*"), reverse=True):
        if is_segment(path.name):
            try:
                with path.open("rb") as file:
                    return read_segment_head(path.name, file.read(_PAGE.size)).system
            except (OSError, SourceError):  # one that was set aside for later use
                continue
    raise SourceError(
        f"it cannot be told of which cluster the log in {folder} is",
        hint="Run this in the cluster's data directory, as archive_command and restore_command do.",
    )


def system_in(control: Path) -> str | None:
    """From `pg_control`; None where it cannot be read."""
    try:
        with control.open("rb") as file:
            raw = file.read(_SYSTEM.size)
    except OSError:
        return None
    return str(_SYSTEM.unpack(raw)[0]) if len(raw) == _SYSTEM.size else None
