"""Reading a vault to see whether it is whole: its structure, and all or a share of its bytes."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TypeVar

from keepwell.core.errors import Damaged, ObjectMissing
from keepwell.core.progress import Progress
from keepwell.core.streams import Finding
from keepwell.keys import slots
from keepwell.stores.base import ObjectInfo
from keepwell.vault import audit, auditverify, checklog, config, inventory, layout
from keepwell.vault.audit import Head
from keepwell.vault.auditverify import Anchor
from keepwell.vault.catalog import Backup, checksum_of, decode_metadata, decode_proof
from keepwell.vault.checklog import Share
from keepwell.vault.documents import verify
from keepwell.vault.frame import open_frame
from keepwell.vault.holdings import Holdings
from keepwell.vault.index import PackEntry, decode_index, encode_entry
from keepwell.vault.layout import pack_name, parse_name
from keepwell.vault.manifest import Manifest, Reference, decode, decode_references
from keepwell.vault.piece import identify
from keepwell.vault.reader import PackKeys
from keepwell.vault.vault import RECOVERY, Vault
from keepwell.vault.walcheck import Chosen, check_log

_T = TypeVar("_T")


@dataclass
class CheckReport:
    """What was looked at, and what is wrong. Notes are leftovers of interrupted runs: harmless."""

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    affected: list[str] = field(default_factory=list)
    """Backups that cannot be restored whole."""
    backups: int = 0
    packs: int = 0
    objects: int = 0
    bytes_read: int = 0
    share: str = ""
    depth: str = "structure"
    """structure; checksums (a writer key: SHA-256 of packs); or bytes (a reader key: every frame and piece)."""

    @property
    def passed(self) -> bool:
        return not self.findings


def check(
    vault: Vault, *, progress: Progress, now: dt.datetime, data: bool = False, share: int | None = None
) -> CheckReport:
    """Looks at everything; with `data` at every byte, with `share` = n at an n-th of them, another one each time.

    Never raises for damage: that is what the report is for. Raises StoreError where the store cannot be read.
    """
    return _Check(vault, progress).run(now, data=data, share=share)


class _Check:
    def __init__(self, vault: Vault, progress: Progress) -> None:
        self.vault, self.progress = vault, progress
        self.report = CheckReport()
        self.objects = {info.name: info for info in vault.store.list("")}
        self.packs = {n.rsplit("/", 1)[-1]: i for n, i in self.objects.items() if n.startswith("packs/")}
        self.deep = False
        self.users: dict[str, list[str]] = defaultdict(list)
        self.entries: dict[str, PackEntry] = {}
        self.anchors: list[Anchor] = []

    def run(self, now: dt.datetime, *, data: bool, share: int | None) -> CheckReport:
        report = self.report
        self.deep = data or bool(share)
        report.objects, report.packs = len(self.objects), len(self.packs)
        self._own_objects()
        condemned = self._trash()
        self._indexes(condemned)
        references = self._backups()
        self._references(references)
        self._record()
        self._strangers()
        if data or share:
            self._read(now, share)
        else:
            self._log(None)
        report.affected = sorted(set(report.affected))
        return report

    def find(self, what: str, problem: str) -> None:
        self.report.findings.append(Finding(what, problem))

    def _own_objects(self) -> None:
        vault, store = self.vault, self.vault.store
        try:
            if store.get(config.NAME) != vault.config.raw:
                self.find(config.NAME, "changed while the check ran")
        except ObjectMissing:
            self.find(config.NAME, "is missing: without it no key opens the vault; put it back from a copy")
        for name in RECOVERY:
            try:
                if hashlib.sha256(store.get(name)).hexdigest() != vault.config.recovery.get(name):
                    self.find(name, "was altered: do not run it; put it back from a copy, or take it from the project")
            except ObjectMissing:
                self.find(name, "is missing: put it back from a copy, or take it from the project")
        names = [n for n in self.objects if n.startswith("keys/")]
        if f"keys/{vault.keyring.slot}.json" not in names:
            self.find(f"keys/{vault.keyring.slot}.json", "is missing: add a new slot with `keepwell key add` now")
        for name in names:
            self._document(name, lambda n, raw: slots.verify(n, raw, vault.keyring))

    def _document(self, name: str, decoded: Callable[[str, bytes], _T]) -> _T | None:
        try:
            raw = self.vault.store.get(name)
            return decoded(name, raw)
        except Damaged as error:
            self.find(name, str(error))
        except ObjectMissing:
            # Deleted by a prune meanwhile is fine; lost is found by whoever refers to it.
            self.report.notes.append(f"{name} went away while the check ran")
        return None

    def _trash(self) -> frozenset[str]:
        try:
            return self.vault.trash().packs()
        except Damaged as error:
            self.find("trash/", str(error))
            return frozenset()

    def _indexes(self, condemned: frozenset[str]) -> None:
        for name in [n for n in self.objects if n.startswith("index/")]:
            try:
                found = decode_index(self.vault.keyring, name, self.vault.store.get(name))
            except Damaged as error:
                self.find(name, str(error))
                continue
            except ObjectMissing:
                continue
            for entry in found:
                info = self.packs.get(entry.pack)
                if info is None:
                    # Left by prunes that overlapped or died. Where a backup needs it, `_references` finds it.
                    if entry.pack not in condemned:
                        self.report.notes.append(f"{pack_name(entry.pack)} is gone, although {name} names it")
                elif info.size != entry.size:
                    self.find(
                        pack_name(entry.pack),
                        f"has {info.size} bytes instead of {entry.size}: it was cut short or altered",
                    )
                else:
                    known = self.entries.setdefault(entry.pack, entry)
                    if known is not entry and encode_entry(known) != encode_entry(entry):
                        self.find(
                            name, f"says other things of pack {entry.pack[:12]}… than another index: one of them lies"
                        )
        for sha256, info in self.packs.items():
            if sha256 not in self.entries:
                try:
                    self.entries[sha256] = inventory.trailer(self.vault, info)
                    self.users.setdefault(f"unindexed {sha256}", [])
                except Damaged as error:
                    self.find(info.name, str(error))
                except ObjectMissing:
                    pass

    def _backups(self) -> list[tuple[str, list[Reference]]]:
        folders: dict[str, set[str]] = defaultdict(set)
        for name in self.objects:
            if placed := parse_name(name):
                folders[placed.id.folder(placed.tier)].add(placed.file)
        references = []
        self.progress.begin("Backups", len(folders), "backups")
        condemned = self._condemned_folders()
        for folder, files in sorted(folders.items()):
            if folder not in condemned:
                found = self._backup(folder, files)
                if found is not None:
                    references.append((folder, found))
            self.progress.advance("Backups")
        self.progress.end("Backups")
        return references

    def _condemned_folders(self) -> frozenset[str]:
        try:
            return self.vault.trash().backups()
        except Damaged:
            return frozenset()

    def _backup(self, folder: str, files: set[str]) -> list[Reference] | None:
        store, keyring = self.vault.store, self.vault.keyring
        metadata, manifest = folder + "metadata.json", folder + "manifest"
        backup: Backup | None = None
        if "metadata.json" not in files:
            if _there(store.list(folder), metadata):  # committed since our listing
                return None
            self.find(
                metadata,
                "is missing: either a backup died in its last step, or the object was deleted. It is not listed and cannot "
                "be restored by name; `keepwell prune` clears it after the grace time",
            )
        else:
            backup = self._document(metadata, partial(decode_metadata, keyring))
            if backup is None:
                self.report.affected.append(folder.rstrip("/"))
            elif backup.status == "abandoned":
                return None
            else:
                self.report.backups += 1
                if isinstance(seen := backup.document.get("audit"), dict):
                    self.anchors.append(Anchor(Head(int(seen["entry"]), str(seen["sha256"])), str(backup.id)))
        for file in sorted(files):
            if file.startswith("proof-"):
                self._document(folder + file, partial(decode_proof, keyring))
        if backup is not None:
            self._portable(backup, files)
        if "manifest" not in files:
            self.find(manifest, "is missing: the backup cannot be restored")
            self.report.affected.append(folder.rstrip("/"))
            return None
        try:
            raw = store.get(manifest)
        except ObjectMissing:
            self.report.notes.append(f"{manifest} went away while the check ran")
            return None
        try:
            if backup is not None and checksum_of(raw) != backup.checksum:
                raise Damaged("does not have the checksum that metadata.json says: it was altered or cut short")
            placed = parse_name(manifest)
            references = decode_references(keyring, manifest, raw)
            if keyring.private is not None and placed is not None:
                inner = decode(keyring, manifest, str(placed.id), raw)
                if backup is not None:
                    self._promises(folder, inner, references)
                references = inner.references()
        except Damaged as error:
            self.find(manifest, str(error))
            self.report.affected.append(folder.rstrip("/"))
            return None
        # What a backup needs that was never committed may be gone: a prune that took it made the commit fail.
        return references if backup is not None else None

    def _promises(self, folder: str, manifest: Manifest, outer: list[Reference]) -> None:
        """What a prune goes by must be what a restore needs, and the pieces must be those that the streams want."""
        if _frames(outer) != _frames(manifest.references()):
            self.find(
                folder + "manifest", "its references are not those of its streams: a prune would delete what it needs"
            )
            self.report.affected.append(folder.rstrip("/"))
        if self.deep:
            for stream in self.holdings.wrong_streams(self.vault.keyring, manifest):
                self.find(
                    folder + "manifest",
                    f"stream {stream.name} of {stream.source} wants pieces that are not where it looks for them: "
                    "it was written with an index that lied",
                )
                self.report.affected.append(folder.rstrip("/"))

    @cached_property
    def holdings(self) -> Holdings:
        return Holdings(self.entries.values())

    def _portable(self, backup: Backup, files: set[str]) -> None:
        for file, expected in dict(backup.document.get("portable") or {}).items():
            name = backup.folder + file
            if file not in files:
                self.find(name, "is missing: the portable copy that the backup was taken with")
            elif self.objects[name].size != expected["size"]:
                self.find(name, f"has {self.objects[name].size} bytes instead of {expected['size']}")

    def _references(self, references: list[tuple[str, list[Reference]]]) -> None:
        missing: dict[bytes, set[int]] = {}
        for folder, found in references:
            for reference in found:
                entry = self.entries.get(reference.pack)
                wanted = set(reference.numbers.tolist())
                if entry is not None:
                    self.users[reference.pack].append(folder.rstrip("/"))
                    left = {reference.birth: wanted}
                    inventory.provided(left, entry)
                    wanted = left.get(reference.birth, set())
                if wanted:
                    missing.setdefault(reference.birth, set()).update(wanted)
        if missing:
            left = {birth: set(numbers) for birth, numbers in missing.items()}
            for entry in self.entries.values():
                inventory.provided(left, entry)
            for folder, found in references:
                lost = [r for r in found if r.birth in left and left[r.birth] & set(r.numbers.tolist())]
                for reference in lost:
                    self.find(
                        pack_name(reference.pack),
                        f"is missing or damaged; {folder.rstrip('/')} needs it and cannot be restored whole",
                    )
                    self.report.affected.append(folder.rstrip("/"))
        for sha256 in [key.removeprefix("unindexed ") for key in self.users if key.startswith("unindexed ")]:
            if self.users.get(sha256):
                self.find(
                    pack_name(sha256),
                    "is in no index: an index object was lost. Restores work; `keepwell prune` writes the index anew",
                )
            else:
                self.report.notes.append(f"{pack_name(sha256)} was left by an interrupted backup; prune clears it")

    def _record(self) -> None:
        """The audit log: entries that are missing, and with the bytes those that were altered, too."""
        numbers = sorted(n for name in self.objects if (n := audit.number_of(name)))
        begins = [
            int(name[-10:]) for name in self.objects if name.startswith(audit.CHECKPOINTS) and name[-10:].isdecimal()
        ]
        first = max(begins, default=1)
        seen = max((anchor.head.number for anchor in self.anchors), default=0)
        there = [n for n in numbers if n >= first]
        if seen > max(there, default=first - 1):
            there.append(seen + 1)
        for begin, end in auditverify.gaps(first, there):
            for number in range(begin, min(end + 1, begin + audit.SEGMENT)):
                self.find(
                    audit.name_of(number), f"is missing: entry {number} of the audit log (`keepwell audit verify`)"
                )
        if self.deep:
            told = {finding.what for finding in self.report.findings}
            for finding in auditverify.verify(self.vault, self.anchors).findings:
                if finding.what not in told:
                    self.report.findings.append(finding)

    def _strangers(self) -> None:
        for name in self.objects:
            top = name.partition("/")[0]
            if top == "probes":
                self.report.notes.append(f"{name} was left by an interrupted run")
            elif name in {config.NAME, *RECOVERY} or top in layout.RESERVED or parse_name(name):
                continue
            else:
                self.report.notes.append(f"{name} is not keepwell's")

    def _log(self, chosen: Chosen | None) -> None:
        report = self.report
        found = check_log(
            self.vault, [i for n, i in self.objects.items() if n.startswith("wal/")], self.progress, chosen
        )
        report.findings += found.findings
        report.notes += found.notes
        report.bytes_read += found.bytes_read

    def _read(self, now: dt.datetime, share: int | None) -> None:
        part, report = None, self.report
        if share:
            part, spoilt = checklog.next_share(self.vault, self.objects, share)
            report.findings += spoilt
        report.depth = "bytes" if self.vault.keyring.private else "checksums"
        chosen = [s for s in sorted(self.packs) if part is None or part.holds(s)]
        self.progress.begin("Reading", sum(self.packs[s].size for s in chosen), "bytes")
        keys = PackKeys(self.vault.store, self.vault.keyring)
        for sha256 in chosen:
            info = self.packs[sha256]
            try:
                self._pack(sha256, info, keys)
            except Damaged as error:
                self.find(info.name, str(error))
                self.report.affected += self.users.get(sha256, [])
            except ObjectMissing:
                report.notes.append(f"{info.name} went away while the check ran")
            report.bytes_read += info.size
            self.progress.advance("Reading", info.size)
        self._read_portable(part)
        self.progress.end("Reading")
        self._log(part.holds if part else lambda _: True)
        if part is not None:
            report.share = f"{part.number + 1}/{part.of}"
            checklog.record(self.vault, now, part, passed=report.passed)

    def _pack(self, sha256: str, info: ObjectInfo, keys: PackKeys) -> None:
        raw = self.vault.store.get(info.name)
        if hashlib.sha256(raw).hexdigest() != sha256:
            raise Damaged("was altered or cut short: its content does not have the SHA-256 that its name says")
        entry = self.entries.get(sha256)
        if entry is None or self.vault.keyring.private is None:
            return
        view, at = memoryview(raw), 0
        for birth, frames in entry.births():
            box = keys.box(birth, sha256)
            for row in range(frames.start, frames.stop):
                offset, length, count = int(entry.offset[row]), int(entry.length[row]), int(entry.pieces[row])
                number = int(entry.number[row])
                frame = view[offset : offset + length]
                lengths, data = open_frame(box, self.vault.keyring.vault, birth, number, frame, what=info.name)
                ids = b"".join(identify(self.vault.keyring.piece_key, data, lengths))
                if ids != entry.ids[16 * at : 16 * (at + count)]:
                    raise Damaged(f"frame {number} does not hold the pieces that the index says")
                at += count

    def _read_portable(self, part: Share | None) -> None:
        for name in self.objects:
            placed = parse_name(name)
            if placed is None or placed.file != "metadata.json":
                continue
            try:
                document = verify(self.vault.keyring, name, self.vault.store.get(name))
            except (Damaged, ObjectMissing):
                continue  # reported by _backup
            folder = name.removesuffix("metadata.json")
            for file, expected in dict(document.get("portable") or {}).items():
                info = self.objects.get(folder + file)
                if info is None or (part is not None and not part.holds(expected["sha256"])):
                    continue
                digest = hashlib.sha256()
                for at in range(0, info.size, 8 << 20):
                    digest.update(self.vault.store.get_range(info.name, at, 8 << 20))
                self.report.bytes_read += info.size
                if digest.hexdigest() != expected["sha256"]:
                    self.find(info.name, "was altered: it does not have the SHA-256 of backup time")


def _frames(references: list[Reference]) -> dict[tuple[bytes, str], list[int]]:
    return {(r.birth, r.pack): r.numbers.tolist() for r in references if len(r.numbers)}


def _there(objects: Iterable[ObjectInfo], name: str) -> bool:
    return any(info.name == name for info in objects)
