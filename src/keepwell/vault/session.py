"""One backup being written, from its first stream to its commit (docs/format.md, section 2, invariant 2)."""

from __future__ import annotations

import contextlib
import datetime as dt
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import numpy as np

from keepwell import __version__
from keepwell.core import zstd
from keepwell.core.clock import iso
from keepwell.core.errors import Busy, ObjectExists, ObjectMissing, UsageError
from keepwell.core.streams import Buffer, Cut, Facts, Held, Json, StreamWriter
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store
from keepwell.vault.attachments import Attachment, put_attachment, read_attachment
from keepwell.vault.catalog import Backup, checksum_of, decode_metadata
from keepwell.vault.documents import sign
from keepwell.vault.index import MOST_PIECES, FrameTable, PackEntry, PieceTable, encode_index
from keepwell.vault.layout import PACK_SIZE, BackupId, new_id, pack_name
from keepwell.vault.manifest import Extents, Manifest, StoredStream, encode
from keepwell.vault.naming import Naming
from keepwell.vault.packer import Packer
from keepwell.vault.trash import read_trash
from keepwell.vault.writer import Desk, StreamBuilder, as_columns

Permit: TypeAlias = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass(frozen=True)
class Snapshot:
    """What a session knows of the vault when it begins."""

    entries: Sequence[PackEntry]
    """Packs that may be used for deduplication: present, whole, and not condemned."""
    previous: BackupId | None
    """The environment's newest backup."""


class SourceSink:
    """The streams of one source (a `core.streams.Sink`)."""

    def __init__(self, session: Session, source: str) -> None:
        self._session, self._source = session, source
        self.streams: list[StreamBuilder] = []
        self._lock = threading.Lock()

    def stream(self, name: str, cut: Cut = "content") -> StreamWriter:
        with self._lock:
            if any(s.name == name for s in self.streams):
                raise ValueError(f"stream {name!r} of {self._source} was begun twice")
            builder = StreamBuilder(self._session.desk, self._source, name, cut)
            self.streams.append(builder)
        return builder

    def find(self, ids: Buffer) -> Held | None:
        return self._session.desk.find(ids)

    def spread(self, held: Held) -> float:
        return self._session.desk.spread(held)


class Session:
    """A backup being taken. Use as a context manager; without `commit` nothing becomes visible."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        snapshot: Snapshot,
        *,
        environment: str,
        tier: str,
        now: dt.datetime,
        level: int = zstd.OWN,
        jobs: int = 2,
        pack_size: int = PACK_SIZE,
        anchor: dict[str, Json] | None = None,
    ) -> None:
        self._anchor = anchor
        self.id, self.tier, self.time = new_id(environment, now, snapshot.previous), tier, now
        self._store, self._keyring, self._previous = store, keyring, snapshot.previous
        frames, pieces = FrameTable(), PieceTable()
        for entry in snapshot.entries:
            pieces.load(entry.ids, frames.load(entry))
        self._packer = Packer(keyring, store, frames, level=level, jobs=jobs, pack_size=pack_size)
        self._naming = Naming(keyring.piece_key, on=jobs > 1)
        self.desk = Desk(keyring, self._packer, pieces, frames, self._naming, threading.Lock())
        self.desk.after_block = self._index_some
        self._known = {entry.pack: entry.size for entry in snapshot.entries}
        self._unindexed: list[PackEntry] = []
        self._index_lock = threading.Lock()
        self._stored_index = 0
        self._sources: dict[str, SourceSink] = {}
        self._outcomes: dict[str, dict[str, Json]] = {}
        self._attachments: list[Attachment] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._packer.close()
        self._naming.close()

    def sink(self, source: str) -> SourceSink:
        if source in self._sources:
            raise ValueError(f"source {source!r} was begun twice")
        self._sources[source] = SourceSink(self, source)
        return self._sources[source]

    def done(self, source: str, facts: Facts) -> None:
        """The source was captured whole."""
        self._check_closed(source)
        self._outcomes[source] = {"status": "complete", "facts": facts}

    def _check_closed(self, source: str) -> None:
        for stream in self._sources[source].streams:
            if not stream.closed:
                raise ValueError(f"stream {stream.name!r} of {source} was not closed")

    def failed(self, source: str, error: str) -> None:
        """The source could not be captured: its streams are left out, and the backup will be incomplete."""
        sink = self._sources[source]
        for stream in sink.streams:
            stream.close()  # other streams may refer to pieces in its last frame
        sink.streams = []
        self._outcomes[source] = {"status": "failed", "error": error, "facts": {}}

    def skipped(self, source: str) -> None:
        """The environment has this source and nobody asked for it: without it the backup is incomplete."""
        self._outcomes[source] = {"status": "skipped", "facts": {}}

    def attach(self, source: str, name: str, path: Path) -> None:
        """A portable copy of the source, to be stored as `name` beside the backup: as it is, not encrypted.

        The file must stay there until `commit`. Raises ValueError where the backup has an object of that name.
        """
        if any(a.name == name for a in self._attachments):
            raise ValueError(f"{name!r} was attached twice")
        self._attachments.append(read_attachment(source, name, path))

    def commit(
        self,
        *,
        database: str,
        host: str,
        seconds: float,
        run: str | None = None,
        permit: Permit = contextlib.nullcontext,
    ) -> Backup:
        """Stores what is left, then the index, the manifest, copies that were attached, and `metadata.json`: with it
        the backup exists.

        `run` names the occurrence that this backup is. `permit` is entered right before the last put and left after it:
        where entering raises, the backup does not exist.

        Raises Busy where a prune is deleting what the backup wanted to share, and the StoreError family.
        """
        if missing := set(self._sources) - set(self._outcomes):
            raise ValueError(f"sources without outcome: {sorted(missing)}")
        if not any(o["status"] == "complete" for o in self._outcomes.values()):
            raise UsageError("a backup in which every source failed is not committed")
        for source in self._sources:
            self._check_closed(source)
        self._packer.finish()
        self._store.flush()
        self._unindexed += self._packer.take_entries()
        self._write_index()
        manifest = self._manifest()
        name, raw = self._put_manifest(manifest)
        # After the manifest: what a crash leaves in this folder is then deleted with the abandoned backup.
        attached = [n for a in self._attachments for n in put_attachment(self._store, self.id.folder(self.tier), a)]
        try:
            return self._commit(name, raw, manifest, permit, database=database, host=host, seconds=seconds, run=run)
        except Busy:
            # A prune that gave this backup up may have emptied its folder before the last copy came.
            for extra in attached:
                self._store.delete(extra)
            raise

    def _commit(
        self,
        name: str,
        raw: bytes,
        manifest: Manifest,
        permit: Permit,
        *,
        database: str,
        host: str,
        seconds: float,
        run: str | None,
    ) -> Backup:
        self._store.flush()
        self._verify_packs(manifest)
        metadata = self._metadata(raw, database=database, host=host, seconds=seconds)
        if run is not None:
            metadata["run"] = run
        place = self.id.folder(self.tier) + "metadata.json"
        signed = sign(self._keyring, place, metadata)
        try:
            with permit():
                self._store.put(place, signed)
        except ObjectExists:
            raise Busy(
                f"{self.id} took longer than the grace time: a prune has given it up",
                hint="Run the backup again (what it stored is used again), or set a longer `grace` in [vault].",
            ) from None
        self._store.flush()
        self._still_there(name, place)
        return decode_metadata(self._keyring, place, signed)

    def _still_there(self, manifest: str, metadata: str) -> None:
        """A writer that slept so long that even its tombstone was swept must not leave an empty backup."""
        try:
            self._store.head(manifest)
        except ObjectMissing:
            self._store.delete(metadata)
            raise Busy(f"{self.id} was given up and deleted by a prune", hint="Run the backup again.") from None

    def _index_some(self) -> None:
        if not self._index_lock.acquire(blocking=False):
            return
        try:
            self._unindexed += self._packer.take_entries()
            if sum(len(entry.ids) for entry in self._unindexed) >= MOST_PIECES * 16:
                self._store.flush()
                self._write_index()
        finally:
            self._index_lock.release()

    def _write_index(self) -> None:
        if not self._unindexed:
            return
        name = f"index/{secrets.token_hex(16)}"
        raw = encode_index(self._keyring, name, self._unindexed)
        self._store.put(name, raw)
        self._stored_index += len(raw)
        self._known |= {entry.pack: entry.size for entry in self._unindexed}
        self._unindexed = []

    def _manifest(self) -> Manifest:
        builders = [stream for sink in self._sources.values() for stream in sink.streams]
        rows, first, count, size, checks = as_columns(builders)
        home, number, offset, length = self.desk.frames.columns(rows)
        if not length.all():  # never commit what cannot be restored, whatever went wrong before
            raise RuntimeError("a frame that the backup needs was never stored")
        there = np.bincount(home) > 0
        used, place = np.flatnonzero(there), (np.cumsum(there) - 1)[home]
        whole = Extents(place.astype("<u4"), number, offset, length, first, count, size, checks)
        streams, at = [], 0
        for builder in builders:
            part = whole.slice(at, at + len(builder.rows))
            streams.append(
                StoredStream(builder.source, builder.name, builder.size, builder.digest(), builder.cut, part)
            )
            at += len(builder.rows)
        about: dict[str, Json] = {
            "environment": self.id.environment,
            "tier": self.tier,
            "time": iso(self.time),
            "status": self._status(),
            "program": f"keepwell {__version__}",
            "sources": self._outcomes,
        }
        return Manifest(about, [self.desk.frames.homes[int(h)] for h in used], streams)

    def _status(self) -> str:
        return "complete" if all(o["status"] == "complete" for o in self._outcomes.values()) else "incomplete"

    def _put_manifest(self, manifest: Manifest) -> tuple[str, bytes]:
        while True:
            name = self.id.folder(self.tier) + "manifest"
            manifest.about["backup"] = str(self.id)
            raw = encode(self._keyring, name, manifest)
            try:
                self._store.put(name, raw)
            except ObjectExists:  # another machine began in the same second and drew the same suffix
                self.id = new_id(self.id.environment, self.time)
                continue
            return name, raw

    def _verify_packs(self, manifest: Manifest) -> None:
        """The second half of the argument in docs/format.md, section 8: nothing that we refer to is going or gone."""
        going = read_trash(self._store, self._keyring).sweeping_packs()
        there = {info.name: info.size for info in self._store.list("packs/")}
        for _, pack in manifest.packs:
            if pack in going:
                raise Busy(
                    f"a prune is deleting pack {pack[:12]}…, which this backup wanted to share",
                    hint="Run the backup again: it will store that data anew.",
                )
            if pack not in self._known or there.get(pack_name(pack)) != self._known[pack]:
                raise Busy(
                    f"pack {pack[:12]}… went away while the backup ran",
                    hint="A prune elsewhere deleted it. Run the backup again: it will store that data anew. If it happens "
                    "again, run `keepwell check`.",
                )

    def _metadata(self, manifest: bytes, *, database: str, host: str, seconds: float) -> dict[str, Json]:
        stored = self._packer.stored + self._stored_index + len(manifest)
        stored += sum(attachment.size for attachment in self._attachments)
        document: dict[str, Json] = {
            "backup": str(self.id),
            "environment": self.id.environment,
            "tier": self.tier,
            "timestamp": iso(self.time),
            "database": database,
            "size": stored,
            "checksum": checksum_of(manifest),
            "manifest_size": len(manifest),
            "status": self._status(),
            "sources": {
                name: {
                    "status": outcome["status"],
                    "bytes": outcome["facts"].get("bytes", 0),
                    "type": outcome["facts"].get("type"),
                    # What a prune must know without a reader key: which part of the log the backup needs.
                    **({"wal": outcome["facts"]["wal"]} if "wal" in outcome["facts"] else {}),
                }
                for name, outcome in self._outcomes.items()
            },
            "bytes": {"read": self.desk.read, "new": self.desk.new, "stored": stored},
            "seconds": round(seconds, 3),
            "program": f"keepwell {__version__}",
            "host": host,
            "previous": str(self._previous) if self._previous else None,
        }
        if self._anchor:  # docs/format.md, section 13: whoever cuts off the audit log before this entry is found out
            document["audit"] = self._anchor
        if self._attachments:
            document["portable"] = {
                a.name: {"source": a.source, "size": a.size, "sha256": a.sha256, "parts": a.parts}
                for a in self._attachments
            }
        return document
