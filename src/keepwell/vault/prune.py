"""Deleting backups and what only they needed, in two phases (docs/format.md, section 8)."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from keepwell.core.clock import iso
from keepwell.core.errors import Busy, Damaged, ObjectExists, ObjectMissing, StoreDenied
from keepwell.core.progress import Progress
from keepwell.stores.base import ObjectInfo
from keepwell.stores.lockable import held
from keepwell.stores.probe import PREFIX as PROBES
from keepwell.stores.probe import store_now
from keepwell.vault import checklog, inventory
from keepwell.vault.catalog import Backup, decode_metadata
from keepwell.vault.documents import sign
from keepwell.vault.index import MOST_PIECES, PackEntry, encode_index
from keepwell.vault.inventory import Needed
from keepwell.vault.layout import PACK_SIZE, pack_name, parse_name
from keepwell.vault.manifest import Reference
from keepwell.vault.repack import Repacker
from keepwell.vault.trash import Mark, put_mark
from keepwell.vault.vault import Vault

_SWEEP, _UNDO = b"sweep\n", b"undo\n"
_WORTH_KEEPING = 0.6
"""A pack in which a smaller share of the frames' bytes is needed is repacked."""
_PROBE_LASTS = dt.timedelta(days=1)
_MANY_INDEXES = 16
"""So many index objects are worth consolidating even where nothing else is to do."""


@dataclass
class PruneReport:
    """What a prune did, or (dry run) would do."""

    marked: list[str] = field(default_factory=list)
    """Backups that are gone from the list, and will be deleted after the grace time."""
    abandoned: list[str] = field(default_factory=list)
    """Backups that died before their commit, given up now."""
    packs: int = 0
    """Packs condemned, and their bytes."""
    bytes: int = 0
    moved: int = 0
    """Bytes of live frames moved out of mostly dead packs."""
    deleted: list[str] = field(default_factory=list)
    """Backups deleted for good by the sweep of earlier marks."""
    deleted_packs: int = 0
    deleted_bytes: int = 0
    spared_packs: int = 0
    """Condemned packs of which a later backup had begun to use something: that was moved before they were deleted."""
    withheld: list[str] = field(default_factory=list)
    """Backups that were to be removed and stay, since a proof of them cannot be read: it may be what protects them."""
    waiting: list[dict[str, object]] = field(default_factory=list)
    """Marks whose grace time is not over, or whose objects a lock protects."""


def prune(
    vault: Vault, remove: Sequence[Backup], *, grace: dt.timedelta, progress: Progress, dry_run: bool = False
) -> PruneReport:
    """Condemns `remove` and all garbage, then sweeps what earlier prunes condemned longer than `grace` ago.

    Safe at any time, beside backups and other prunes on any machine. Raises Damaged where a manifest cannot be read: then
    nothing is known to be unneeded.
    """
    vault.config.require("delete")
    report = PruneReport()
    if not dry_run:
        vault.prove_store()
    now = store_now(vault.store)
    if not dry_run:
        _clear_probes(vault, now)
        _clear_log(vault, progress)
        _sweep_due(vault, now, grace, report, progress)
    _condemn(vault, remove, now, grace, report, progress, dry_run=dry_run)
    if not dry_run and grace <= dt.timedelta(0):
        _sweep_due(vault, store_now(vault.store), grace, report, progress)
    for mark in vault.trash().marks:
        report.waiting.append({"backups": len(mark.backups), "packs": len(mark.packs), "due": iso(mark.made + grace)})
    return report


def _clear_probes(vault: Vault, now: dt.datetime) -> None:
    """What processes left that were killed while they asked the store something; young ones may be in use."""
    for info in vault.store.list(PROBES):
        if now - info.modified >= _PROBE_LASTS:
            vault.store.delete(info.name)


def _clear_log(vault: Vault, progress: Progress) -> None:
    """Records of checks that later ones have made useless."""
    try:
        for name in checklog.outdated(vault):
            vault.store.delete(name)
    except StoreDenied as error:
        progress.warn(f"{error} (old records of checks stay until then)")


def undo(vault: Vault) -> list[str]:
    """Takes back every mark whose sweep has not begun; returns the backups (folders) that are back."""
    vault.config.require("delete")
    trash = vault.trash()
    back: list[str] = []
    for mark in trash.marks:
        claimed = _claim(vault, mark, _UNDO)
        if claimed == _UNDO:
            _end(vault, mark)
        if claimed != _SWEEP:
            # Where it was over before us, it may have been swept: what is there tells.
            back += [folder for folder in mark.backups if _is_back(vault, folder + "metadata.json")]
    return back


def _is_back(vault: Vault, metadata: str) -> bool:
    return _there(vault, metadata) and not _given_up(vault, metadata, unknown=False)


def _condemn(
    vault: Vault,
    remove: Sequence[Backup],
    now: dt.datetime,
    grace: dt.timedelta,
    report: PruneReport,
    progress: Progress,
    *,
    dry_run: bool,
) -> None:
    progress.note("Looking for what no backup needs")
    old_indexes = [info.name for info in vault.store.list("index/")]
    there = inventory.packs(vault.store)
    catalogue = vault.scan(with_proofs=False)
    for bad in catalogue.damaged:
        # Its manifest counts like any other, so that what it may need stays; no rule can tell that it is not wanted.
        progress.warn(f"{bad.id} is damaged and is kept with all that it may need: {bad.message}")
    trash = vault.trash()
    for backup in remove:
        if backup.doubt:
            report.withheld.append(str(backup.id))
            progress.warn(
                f"{backup.id} stays although no rule keeps it: {backup.doubt} cannot be read, and may say that it is "
                f"proven. `keepwell verify {backup.id}` proves it anew"
            )
    backups = {b.folder: str(b.id) for b in remove if not b.doubt}
    for backup in catalogue.abandoned:
        backups[backup.folder] = str(backup.id)
    for info in catalogue.uncommitted:
        if now - info.modified >= grace and (folder := _abandon(vault, info, now, report, dry_run=dry_run)):
            backups[folder] = report.abandoned[-1]
    if report.abandoned and not dry_run:
        vault.store.flush()  # no mark may name a backup that is not given up for good
    # Condemned backups of other marks may come back (undo): they count as long as they are there.
    needed = Needed()
    for info in inventory.manifests(vault.store):
        if info.name.removesuffix("manifest") not in backups:
            needed.add(_references(vault, info))
    known, unindexed = inventory.entries(vault, there)
    already = trash.packs()
    condemned: list[PackEntry] = []
    sources: list[tuple[PackEntry, list[int]]] = []
    taken: dict[bytes, set[int]] = {}
    for entry in sorted(known.values(), key=lambda e: (-e.size, e.pack)):
        if entry.pack in already or now - there[entry.pack].modified < grace:
            continue
        rows = needed.rows(entry)
        # A frame that a crash left twice is kept once.
        rows = _first_time(entry, rows, taken)
        # Heads and trailers do not count: a tiny pack is mostly these, and moving it would not make it smaller.
        if not rows:
            condemned.append(entry)
        elif int(entry.length[rows].sum()) < _WORTH_KEEPING * int(entry.length.sum()):
            sources.append((entry, rows))
    report.marked = sorted(backups[f] for f in backups if backups[f] not in report.abandoned)
    report.packs = len(condemned) + len(sources)
    report.bytes = sum(e.size for e in condemned) + sum(e.size for e, _ in sources)
    report.moved = sum(int(e.length[r].sum()) for e, r in sources)
    stale = len(old_indexes) >= _MANY_INDEXES
    if dry_run or not (backups or condemned or sources or unindexed or stale):
        return
    new = _move(vault, sources, _overtaken)
    gone = {e.pack for e in condemned} | {e.pack for e, _ in sources}
    indexes: list[str] = []
    if gone or stale or unindexed:
        keep = [e for e in known.values() if e.pack not in gone]
        _write_index(vault, keep + new)
        indexes = old_indexes
    if backups or gone or indexes:
        put_mark(vault.store, vault.keyring, now, backups=list(backups), packs=sorted(gone), indexes=indexes)


def _first_time(entry: PackEntry, rows: list[int], taken: dict[bytes, set[int]]) -> list[int]:
    first = []
    for birth, frames in entry.births():
        seen = taken.setdefault(birth, set())
        for row in rows:
            if frames.start <= row < frames.stop and int(entry.number[row]) not in seen:
                seen.add(int(entry.number[row]))
                first.append(row)
    return first


def _references(vault: Vault, info: ObjectInfo) -> list[Reference]:
    try:
        return inventory.references(vault, info)
    except ObjectMissing:  # deleted by another prune meanwhile
        return []
    except Damaged as error:
        raise Damaged(
            f"{error} Nothing was deleted: what this backup needs is not known.",
            hint=f"Put {info.name} back from a copy of the vault. Without a copy the backup is lost, and where it was "
            f"condemned or never finished it was garbage anyway: delete {info.name.removesuffix('manifest')} in the store "
            "by hand and prune again. `keepwell check` looks for more damage.",
        ) from None


def _abandon(vault: Vault, info: ObjectInfo, now: dt.datetime, report: PruneReport, *, dry_run: bool) -> str | None:
    placed = parse_name(info.name)
    if placed is None:
        return None
    folder = placed.id.folder(placed.tier)
    if not dry_run:
        name = folder + "metadata.json"
        document = {
            "backup": str(placed.id),
            "environment": placed.id.environment,
            "tier": placed.tier,
            "timestamp": iso(placed.id.time),
            "database": "",
            "size": 0,
            "checksum": "",
            "status": "abandoned",
            "abandoned": iso(now),
        }
        try:
            vault.store.put(name, sign(vault.keyring, name, document))
        except ObjectExists:  # the writer was first: it is committed
            return None
    report.abandoned.append(str(placed.id))
    return folder


def _move(
    vault: Vault, sources: list[tuple[PackEntry, list[int]]], gone: Callable[[PackEntry], None]
) -> list[PackEntry]:
    """New packs with these frames. `gone` is told of a pack that another prune has deleted meanwhile."""
    new: list[PackEntry] = []
    repacker = Repacker(vault.keyring)
    for entry, rows in sources:
        try:
            # Damage is not moved about: the whole pack must be what its name says.
            raw = inventory.whole_pack(vault, entry)
        except ObjectMissing:
            gone(entry)
            continue
        except Damaged as error:
            raise Damaged(
                f"{error}. A backup needs a part of it, so nothing of it was moved or deleted.",
                hint=f"`keepwell check --data` names the backups that need it. Put {pack_name(entry.pack)} back from a copy "
                "of the vault. Without a copy these backups are lost: take new ones, delete the folders of the lost ones "
                "in the store by hand, and prune again.",
            ) from None
        repacker.add(entry, rows, raw)
        if repacker.size >= PACK_SIZE:
            new.append(_store(vault, repacker))
            repacker = Repacker(vault.keyring)
    if repacker.size:
        new.append(_store(vault, repacker))
    vault.store.flush()
    return new


def _overtaken(entry: PackEntry) -> None:
    raise Busy(f"another prune has just deleted pack {entry.pack[:12]}…", hint="Nothing was lost. Run it again.")


def _store(vault: Vault, repacker: Repacker) -> PackEntry:
    data, entry = repacker.finish()
    vault.store.put(pack_name(entry.pack), data)
    return entry


def _write_index(vault: Vault, entries: list[PackEntry]) -> None:
    batch: list[PackEntry] = []
    for entry in [*entries, None]:
        if batch and (entry is None or sum(len(e.ids) for e in batch) >= MOST_PIECES * 16):
            name = f"index/{secrets.token_hex(16)}"
            vault.store.put(name, encode_index(vault.keyring, name, batch))
            batch = []
        if entry is not None:
            batch.append(entry)
    vault.store.flush()


def _sweep_due(vault: Vault, now: dt.datetime, grace: dt.timedelta, report: PruneReport, progress: Progress) -> None:
    trash = vault.trash()
    for name in trash.stray_sweeps:
        # A listing is no snapshot: the mark may have been put, and its sweep begun, while it went on.
        if not _there(vault, name.removesuffix(".sweep") + ".json"):
            vault.store.delete(name)
    for mark in trash.marks:
        if now - mark.made >= grace or mark.id in trash.sweeping:
            if until := held(vault.store, _deleted_by(mark), now):
                progress.note(f"What was condemned at {iso(mark.made)} is locked until {iso(until)}")
                continue
            progress.note(f"Deleting what was condemned at {iso(mark.made)}")
            try:
                _sweep(vault, mark, report)
            except StoreDenied as error:
                progress.warn(f"{error} (what was condemned at {iso(mark.made)} stays until then)")


def _deleted_by(mark: Mark) -> Iterator[str]:
    """What a lock would have to let go of. The metadata of a backup is its youngest object."""
    yield from (folder + "metadata.json" for folder in mark.backups)
    yield from (pack_name(sha256) for sha256 in mark.packs)
    yield from mark.indexes


def _claim(vault: Vault, mark: Mark, purpose: bytes) -> bytes:
    """What the mark's sweep is for: ours, or what was there first; empty where it is over already."""
    store = vault.store
    try:
        store.put(mark.sweep, purpose)
        claimed = purpose
    except ObjectExists:
        try:
            claimed = store.get(mark.sweep)
        except ObjectMissing:
            return b""
    # Another prune, or an undo, may have ended it between our look at the trash and now. The mark goes first, then the
    # sweep: whoever finds both knows that nobody has ended it.
    if not _there(vault, mark.name):
        store.delete(mark.sweep)
        return b""
    store.flush()
    return claimed


def _there(vault: Vault, name: str) -> bool:
    try:
        vault.store.head(name)
    except ObjectMissing:
        return False
    return True


def _end(vault: Vault, mark: Mark) -> None:
    """The mark goes first, for good: what it leaves is a sweep that means nothing."""
    vault.store.flush()
    vault.store.delete(mark.name)
    vault.store.flush()
    vault.store.delete(mark.sweep)


def _sweep(vault: Vault, mark: Mark, report: PruneReport) -> None:
    """Deletes all that the mark names. From the claim on its packs go for certain, whatever other prunes do.

    What a manifest still needs of them is moved first. A pack is never taken back: another prune that sweeps the same
    mark, or one that wakes up after a week, may be about to delete it.
    """
    claimed = _claim(vault, mark, _SWEEP)
    if claimed != _SWEEP:
        if claimed:  # an undo that died
            _end(vault, mark)
        return
    store = vault.store
    condemned = vault.trash().packs() | set(mark.packs)
    there = inventory.packs(store)
    needed = Needed()
    for info in inventory.manifests(store):
        if info.name.removesuffix("manifest") not in mark.backups:
            needed.add(_references(vault, info))
    known, _ = inventory.entries(vault, there)
    sources = _still_needed(mark, known, needed, condemned)
    # A pack that is gone meanwhile was deleted by a sweep that, like this one, first moved what is needed.
    new = _move(vault, sources, lambda _: None)
    if new:
        _write_index(vault, new)
    for folder in mark.backups:
        _delete_backup(vault, folder)
        report.deleted.append(folder.rstrip("/"))
    report.spared_packs += len(sources)
    for sha256 in mark.packs:
        if sha256 in known:
            store.delete(pack_name(sha256))
            report.deleted_packs += 1
            report.deleted_bytes += known[sha256].size
    for name in mark.indexes:
        store.delete(name)
    _end(vault, mark)


def _still_needed(
    mark: Mark, known: dict[str, PackEntry], needed: Needed, condemned: frozenset[str]
) -> list[tuple[PackEntry, list[int]]]:
    """The mark's packs that hold frames which are needed and which no pack provides that stays."""
    sources: list[tuple[PackEntry, list[int]]] = []
    taken: dict[bytes, set[int]] = {}
    for sha256 in mark.packs:
        entry = known.get(sha256)
        if entry is None:
            continue
        rows = needed.rows(entry)
        wanted = inventory.numbers(entry, rows)
        for other in known.values():
            if wanted and other.pack not in condemned:
                inventory.provided(wanted, other)
        kept = []
        for birth, frames in entry.births():
            numbers = wanted.get(birth, set())
            kept += [row for row in rows if frames.start <= row < frames.stop and int(entry.number[row]) in numbers]
        if kept := _first_time(entry, kept, taken):
            sources.append((entry, kept))
    return sources


def _delete_backup(vault: Vault, folder: str) -> None:
    """`metadata.json` first: a backup that is half gone must not be listed.

    That of a backup that was given up goes last: while it is there its writer, should it wake up, cannot commit. So does
    one that cannot be read: it may be of such a backup, and as long as the mark is there neither is listed.
    """
    metadata = folder + "metadata.json"
    last = _given_up(vault, metadata, unknown=True)
    names = [info.name for info in vault.store.list(folder)]
    for name in sorted(names, key=lambda n: ((n == metadata) == last, n.endswith("/manifest"), n)):
        vault.store.delete(name)
        vault.forget(name)


def _given_up(vault: Vault, metadata: str, *, unknown: bool) -> bool:
    """`unknown` is the answer where the object was altered."""
    try:
        return decode_metadata(vault.keyring, metadata, vault.store.get(metadata)).status == "abandoned"
    except ObjectMissing:
        return False
    except Damaged:
        return unknown
