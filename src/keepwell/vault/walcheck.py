"""Whether the log in a vault is whole: its names and heads, and with a reader key every byte of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from keepwell.core.errors import Damaged, ObjectMissing
from keepwell.core.progress import Progress
from keepwell.core.streams import Finding
from keepwell.core.wal import show_lsn
from keepwell.stores.base import ObjectInfo
from keepwell.vault import walobject
from keepwell.vault.vault import Vault
from keepwell.vault.wal import WalArchive
from keepwell.vault.walcoverage import Coverage, Part, coverage_of
from keepwell.vault.walkeep import holder_of

_AT_ONCE = 8
Chosen = Callable[[str], bool]
"""Whether a check of a share reads what has this SHA-256 (hex) for its name."""


@dataclass
class LogReport:
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    bytes_read: int = 0
    """Bytes of objects that were read whole."""

    def find(self, what: str, problem: str) -> None:
        self.findings.append(Finding(what, problem))


def check_log(vault: Vault, objects: Iterable[ObjectInfo], progress: Progress, chosen: Chosen | None) -> LogReport:
    """`objects`: those below `wal/`. `chosen`: what to read whole; None: nothing, only the heads.

    Raises StoreError where the store cannot be read. With a writer key the heads are all that can be looked at.
    """
    report = LogReport()
    folders: dict[str, list[ObjectInfo]] = {}
    for info in objects:
        parts = info.name.split("/")
        if len(parts) < 6 or not parts[3].isdecimal():
            report.notes.append(f"{info.name} is not keepwell's")
        else:
            folders.setdefault("/".join(parts[:4]) + "/", []).append(info)
    progress.begin("Log", sum(map(len, folders.values())), "objects")
    for folder, infos in sorted(folders.items()):
        _Folder(vault, folder, sorted(infos, key=lambda i: i.name), report, chosen).check(progress)
    progress.end("Log")
    return report


class _Folder:
    """The log of one cluster."""

    def __init__(
        self, vault: Vault, folder: str, infos: list[ObjectInfo], report: LogReport, chosen: Chosen | None
    ) -> None:
        self.vault, self.folder, self.infos, self.report = vault, folder, infos, report
        _, environment, source, system, _ = folder.split("/")
        self.environment, self.source = environment, source
        self.archive = WalArchive(vault, environment, source, system)
        self.chosen = chosen if vault.keyring.private is not None else None
        self.coverage: Coverage = coverage_of(folder, infos, self.archive.read_file, self.archive.read)

    def check(self, progress: Progress) -> None:
        known = {part.name for part in self.coverage.parts} | {f"{self.folder}files/{n}" for n in self.coverage.files}
        self.report.notes += [f"{i.name} is not keepwell's" for i in self.infos if i.name not in known]
        sound = self._heads(progress)
        self._contents([part for part in self.coverage.parts if part.name in sound], sound)
        self._histories()
        self._gaps([part for part in self.coverage.parts if part.name in sound])

    def _heads(self, progress: Progress) -> set[str]:
        sizes = {info.name: info.size for info in self.infos}
        parts = {part.name: part for part in self.coverage.parts}

        def look(name: str) -> str:
            try:
                if name in parts:
                    self.archive.head(parts[name])
                else:
                    head = walobject.read_head(self.vault.store, self.vault.keyring, name)
                    if head.about.get("file") != name.rpartition("/")[2]:
                        return "is another file than its name says"
                    if head.stored != sizes[name]:
                        return f"has {sizes[name]} bytes instead of {head.stored}: it was cut short or altered"
            except Damaged as error:
                return str(error)
            except ObjectMissing:
                return "gone"
            return ""

        names = [*parts, *(f"{self.folder}files/{name}" for name in self.coverage.files)]
        sound = set()
        with ThreadPoolExecutor(_AT_ONCE, "check-log") as pool:
            for name, problem in zip(names, pool.map(look, names), strict=True):
                progress.advance("Log")
                if problem == "gone":
                    self.report.notes.append(f"{name} went away while the check ran")
                elif problem:
                    self.report.find(name, problem)
                else:
                    sound.add(name)
        return sound

    def _contents(self, parts: list[Part], sound: set[str]) -> None:
        if self.chosen is None:
            return
        for _, group in groupby(parts, key=lambda part: (part.timeline, part.segment)):
            self._segment(list(group))
        for name in self.coverage.files:
            whole = f"{self.folder}files/{name}"
            if whole in sound and self.chosen(hashlib.sha256(whole.encode()).hexdigest()):
                self._read(whole, partial(self.archive.read_file, name))

    def _segment(self, parts: list[Part]) -> None:
        """The parts of one segment, together: where they overlap, they must be the same."""
        assert self.chosen is not None
        if not self.chosen(hashlib.sha256(parts[0].segment.encode()).hexdigest()):
            return
        before: list[tuple[Part, bytes]] = []
        for part in parts:
            data = self._read(part.name, partial(self._whole, part))
            if data is None:
                continue
            self.report.bytes_read += part.size
            for other, theirs in before:
                start, end = max(part.start, other.start), min(part.end, other.end)
                if (
                    start < end
                    and data[start - part.start : end - part.start] != (theirs[start - other.start : end - other.start])
                ):
                    self.report.find(
                        part.name,
                        f"holds other log than {other.name.rpartition('/')[2]} of the same segment: two servers wrote to one "
                        "source",
                    )
            before = [(o, d) for o, d in before if o.end > part.start]
            before.append((part, data))

    def _whole(self, part: Part) -> bytes:
        return self.archive.content(part).read(0, part.length)

    def _read(self, name: str, read: Callable[[], bytes]) -> bytes | None:
        try:
            return read()
        except Damaged as error:
            self.report.find(name, str(error))
        except ObjectMissing:
            self.report.notes.append(f"{name} went away while the check ran")
        return None

    def _histories(self) -> None:
        for timeline in self.coverage.timelines():
            name = f"{timeline:08X}.history"
            if timeline > 1 and name not in self.coverage.files:
                self.report.find(
                    f"{self.folder}files/{name}",
                    f"is missing: the log of timeline {timeline} cannot be followed from the one before. Store the server's file "
                    "with `keepwell wal push`",
                )

    def _gaps(self, sound: list[Part]) -> None:
        """A gap between the newest backup and the newest log is damage; one that a later backup leads over is history."""
        coverage = Coverage(sound)
        if not _gaps_of(coverage):
            return
        # Segments are stored side by side: what was on its way during our listing is there now.
        known = {part.name for part in self.coverage.parts}
        new = [part for part in self.archive.coverage().parts if part.name not in known]
        gaps = _gaps_of(Coverage([*sound, *new]))
        stops = []
        for backup in self.vault.scan(self.environment, with_proofs=False).backups:
            try:
                holder = holder_of(backup, self.source, backup.time)
            except Damaged as error:
                self.report.find(backup.metadata, str(error))
                continue
            if holder is not None and holder.system == self.archive.system:
                stops.append((holder.timeline, holder.stop))
        for timeline, start, end in gaps:
            text = f"log is missing from {show_lsn(start)} to {show_lsn(end)} of timeline {timeline}"
            before = any(t <= timeline and stop <= start for t, stop in stops)
            after = any(t == timeline and stop >= end for t, stop in stops)
            if before and not after:
                self.report.find(
                    self.folder,
                    f"{text}: nothing behind it can be recovered to, since no backup is from behind it. Take one now",
                )
            elif before:
                self.report.notes.append(f"{self.folder}: {text}; moments in it cannot be recovered to")


def _gaps_of(coverage: Coverage) -> list[tuple[int, int, int]]:
    return [(timeline, *gap) for timeline in coverage.timelines() for gap in coverage.gaps(timeline)]
