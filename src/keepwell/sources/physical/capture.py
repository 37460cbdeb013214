"""Taking a base backup into streams: in full, or only what changed, laid over the pages of the last one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from keepwell.core.clock import UTC
from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Facts, Sink
from keepwell.core.wal import show_lsn
from keepwell.sources.physical import basebackup, pgmanifest
from keepwell.sources.physical.basebackup import BaseBackup
from keepwell.sources.physical.checksums import Verifier
from keepwell.sources.physical.direct import Direct, Place, find
from keepwell.sources.physical.entries import CONTENT, PAGES, STREAM, encode
from keepwell.sources.physical.files import Files
from keepwell.sources.physical.lanes import PAGE, ContentLane, PagesLane
from keepwell.sources.physical.pgmanifest import without
from keepwell.sources.physical.previous import Previous, Recorder, Stamp, cache_path
from keepwell.sources.physical.replication import Identity, Replication, ServerError
from keepwell.sources.physical.spec import Spec
from keepwell.sources.physical.spread import scattered
from keepwell.sources.postgres.connection import Address, Connection, connected, parse, require_direct, server_errors

_SETTINGS = (
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "wal_level",
)
"""A server that replays the log must have at least these."""
_ABOUT = (
    "server_version",
    "server_version_num",
    "block_size",
    "segment_size",
    "wal_segment_size",
    "data_checksums",
    "shared_preload_libraries",
    "summarize_wal",
    "cluster_name",
)
_OLDEST, _INCREMENTAL = 140000, 170000


def capture(spec: Spec, sink: Sink, context: Context) -> Facts:
    """Raises SourceError, Interrupted."""
    address = parse(spec.url)
    require_direct(address)
    about = _describe(address)
    with contextlib.closing(Replication.connect(spec.url)) as link:
        identity = link.identify()
    path = cache_path(context.cache, identity.system, address.place)
    run = _Run(spec, sink, context, address, about)
    last = Previous.load(path, identity.system)
    found, files, recorder, method = run.backup(path, last, identity)
    try:
        listing = sink.stream(STREAM)
        for line in encode(files.entries):
            listing.write(line)
        listing.close()
        facts = _facts(address, about, identity, found, files, method)
    except BaseException:
        recorder.drop()
        raise
    manifest = _for_next(found.manifest, files)
    if manifest or (run.stamps and files.is_told):
        checksums = str(about["data_checksums"])
        recorder.keep(identity.system, found.timeline, manifest, found.damaged, run.started, run.stamps, checksums)
    else:
        recorder.drop()
    return facts


class _Refused(Exception):
    """The server cannot tell what changed."""


class _Run:
    def __init__(self, spec: Spec, sink: Sink, context: Context, address: Address, about: dict[str, Any]) -> None:
        self.spec, self.sink, self.context, self.address, self.about = spec, sink, context, address, about
        self.task = f"{address.place}: base backup"
        self.started = ""
        """When the server was started, where its files were read themselves."""
        self.stamps: dict[str, Stamp] = {}

    def backup(
        self, path: Path | None, last: Previous | None, identity: Identity
    ) -> tuple[BaseBackup, Files, Recorder, str]:
        """The files, where they can be read here: what has changed of them. Else what the server says has changed; else
        everything. And how.

        Raises SourceError, Interrupted.
        """
        previous, reason = _previous(self.about, identity, self.spec, self.sink, last)
        if self.spec.read_from != "server":
            place, why = find(self.address, identity)
            if place is not None:
                return self.take_files(path, place, last, previous, reason, identity)
            if self.spec.read_from == "files":
                raise SourceError(
                    f"the files of {self.address.place} cannot be read here: {why}",
                    hint='Run keepwell on the host of the server, as its user or as root, or write read_from = "auto".',
                )
        if previous is not None:
            try:
                return *self.take(path, previous), "incremental"
            except _Refused as refusal:
                reason = str(refusal)
        self.context.progress.note(f"{self.address.place}: reading everything ({reason})")
        return *self.take(path, None), f"full: {reason}"

    def take(self, path: Path | None, previous: Previous | None) -> tuple[BaseBackup, Files, Recorder]:
        """Raises _Refused where the server cannot give only what changed, and nothing was written then."""
        recorder, began, verifier = Recorder(path), False, None
        anew, manifest = self._anew(previous)

        def files(found: BaseBackup) -> Files:
            nonlocal began, verifier
            began = True
            if self.spec.on_damaged_page == "keep" and self.about["data_checksums"] == "on":
                verifier = Verifier(found.start, int(self.about["segment_size"]))
            pages = PagesLane(self.sink.stream(PAGES, "pages"), recorder.add)
            return Files(pages, ContentLane(self.sink.stream(CONTENT)), previous, verifier, anew)

        version = self.about["server_version"]
        text = basebackup.command(
            version, self.spec, manifest=self.about["summarize_wal"], incremental=previous is not None
        )
        progress = self.context.progress
        try:
            with contextlib.closing(Replication.connect(self.spec.url)) as link:
                _hold_log(link)
                if previous is not None:
                    link.copy_in("UPLOAD_MANIFEST", [manifest])
                found, taken = basebackup.receive(
                    link,
                    text,
                    files,
                    self.spec,
                    begun=lambda found: progress.begin(self.task, found.size or None),
                    advance=lambda count: progress.advance(self.task, count),
                    cancelled=self.context.cancelled,
                )
            progress.end(self.task)
            found.damaged = _all_damaged(found, verifier, taken)
        except ServerError as error:
            recorder.drop()
            if previous is not None and not began:
                raise _Refused(error.message) from error
            raise
        except BaseException:
            recorder.drop()
            raise
        return found, taken, recorder

    def _anew(self, previous: Previous | None) -> tuple[list[str], bytes]:
        """Files whose pages are stored anew, and the manifest without them, so that the server sends them whole."""
        if previous is None:
            return [], b""
        paths = scattered(previous, self.sink)
        if not paths:
            return [], previous.manifest
        try:
            manifest = without(previous.manifest, paths) if previous.manifest else b""
        except ValueError:  # the server will say what it thinks of it
            return [], previous.manifest
        self.context.progress.note(
            f"{self.address.place}: {len(paths)} files are stored anew, since their pages lie too scattered to be restored fast"
        )
        return paths, manifest

    def take_files(
        self,
        path: Path | None,
        place: Place,
        last: Previous | None,
        previous: Previous | None,
        reason: str,
        identity: Identity,
    ) -> tuple[BaseBackup, Files, Recorder, str]:
        """The files as they lie there, and from the last backup what has not changed: `previous` is the same, where the server
        can say what has, and `reason` why it cannot.
        """
        recorder = Recorder(path)
        since = _since(previous, identity) if previous else None
        if last is not None and (not _is_alike(last, self.about) or not last.is_held(self.sink)):
            last = None
        anew, _ = self._anew(last)
        direct = Direct(place, self.address, self.spec, self.context, self.about, last, since)

        def files(verifier: Verifier | None) -> Files:
            pages = PagesLane(self.sink.stream(PAGES, "pages"), recorder.add)
            return Files(pages, ContentLane(self.sink.stream(CONTENT)), verifier=verifier, anew=anew)

        try:
            with contextlib.closing(Replication.connect(self.spec.url)) as link:
                _hold_log(link)
                found, taken = direct.take(files)
        except BaseException:
            recorder.drop()
            raise
        self.started, self.stamps = place.started, direct.stamps
        if self.about["server_version"] >= _INCREMENTAL and self.about["summarize_wal"]:
            there = ((entry.path, entry.size) for entry in taken.entries if entry.kind == "file")
            found.manifest = pgmanifest.write(identity.system, found.timeline, found.start, found.stop, there)
        if direct.is_told:
            return found, taken, recorder, "incremental, from the files"
        # That 17 and newer could tell what changed, and why this one did not, is to be known later, too.
        why = (direct.untold or reason) if self.about["summarize_wal"] else ""
        method = f"files: {direct.unchanged} of {direct.relations} had not changed"
        return found, taken, recorder, f"{method}; {why}" if why else method


def _since(previous: Previous, identity: Identity) -> tuple[int, int] | None:
    """Where the previous backup begins and ends in the log; None where it was on more than this timeline."""
    try:
        ((timeline, start, end),) = pgmanifest.ranges(previous.manifest)
    except ValueError:
        return None
    return (start, end) if timeline == identity.timeline else None


def _all_damaged(found: BaseBackup, verifier: Verifier | None, files: Files) -> list[tuple[str, int]]:
    """The server names the first few of a file only, but it alone reads a page twice before it says that it is damaged."""
    own = verifier.found if found.corrupted and verifier else []
    suspects = {path for path, _ in found.damaged}
    named = {page for page in own if not suspects or page[0] in suspects}
    # The server says of the end of a file that is no page, that it could not look at it.
    ends = {(entry.path, entry.size // PAGE) for entry in files.entries if entry.path in files.odd}
    return sorted({*found.damaged, *named, *files.still_damaged} - ends)


def _for_next(manifest: bytes, files: Files) -> bytes:
    """The manifest that the next backup shows to the server; empty where it cannot be laid over this one."""
    if not files.is_told:
        return b""
    try:
        # What is not known page by page is asked for as a whole the next time.
        return without(manifest, files.odd) if files.odd and manifest else manifest
    except ValueError:
        return b""


def _previous(
    about: dict[str, Any], identity: Identity, spec: Spec, sink: Sink, previous: Previous | None
) -> tuple[Previous | None, str]:
    """The backup that this one can be laid over, or why there is none."""
    if about["server_version"] < _INCREMENTAL:
        return None, "before PostgreSQL 17 a server cannot tell what changed"
    if not about["summarize_wal"]:
        return None, "summarize_wal is off on the server, so it cannot tell what changed"
    if previous is None:
        return None, "this machine knows of no earlier backup of this cluster"
    if not _is_alike(previous, about):
        return None, "page checksums were switched on or off since the last backup, which writes every page"
    if not previous.manifest:
        return None, "the last backup was read from the files, without the server"
    if previous.timeline != identity.timeline:
        return None, f"the server is on timeline {identity.timeline}, the last backup was on {previous.timeline}"
    if previous.damaged and spec.on_damaged_page == "fail":
        return None, "the last backup has damaged pages, and this one may have none"
    if not previous.is_held(sink):
        return None, "the vault no longer has all pages of the last backup"
    return previous, ""


def _is_alike(previous: Previous, about: dict[str, Any]) -> bool:
    return bool(previous.checksums == about["data_checksums"])


def _hold_log(link: Replication) -> None:
    """Until this connection ends the server keeps the log that the backup needs, however long it takes."""
    with contextlib.suppress(ServerError):  # no slot is free: then wal_keep_size has to do, and the server says if not
        link.query(
            "CREATE_REPLICATION_SLOT keepwell_base_backup_" + str(link.process) + " TEMPORARY PHYSICAL RESERVE_WAL"
        )


def _describe(address: Address) -> dict[str, Any]:
    with connected(address) as connection, server_errors(address):
        rows = connection.execute(
            "SELECT name, coalesce(setting, '') FROM pg_settings WHERE name = ANY(%s)", [[*_SETTINGS, *_ABOUT]]
        ).fetchall()
        shown: dict[str, Any] = {str(name): value for name, value in rows}
        shown["databases"] = _databases(connection)
        inside = _tablespaces_inside(connection)
    version = int(shown["server_version_num"])
    if version < _OLDEST:
        raise SourceError(
            f"{address.place} is PostgreSQL {shown['server_version']}; physical backups want 14 or later",
            hint='Use method = "logical", or upgrade the server.',
        )
    if int(shown["block_size"]) != PAGE or int(shown["segment_size"]) * PAGE > 1 << 30:
        raise SourceError(
            f"{address.place} was built with blocks of {shown['block_size']} bytes or segments of more than 1 GiB; physical "
            "backups know pages of 8 KiB",
            hint='Use method = "logical".',
        )
    if inside and version < 160000:
        raise SourceError(
            f"{address.place} has tablespaces inside its data directory ({', '.join(inside)}); PostgreSQL 15 leaves them out "
            "of base backups",
            hint="They are made with allow_in_place_tablespaces, for developers only: move what is in them elsewhere.",
        )
    return (
        shown
        | {"server_version": version, "summarize_wal": shown.get("summarize_wal") == "on"}
        | {"text": shown["server_version"]}
    )


def _databases(connection: Connection) -> list[str]:
    rows = connection.execute("SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname").fetchall()
    return [str(name) for (name,) in rows]


def _tablespaces_inside(connection: Connection) -> list[str]:
    query = "SELECT spcname FROM pg_tablespace WHERE pg_tablespace_location(oid) !~ '^(/|$)' ORDER BY 1"
    return [str(name) for (name,) in connection.execute(query).fetchall()]


def _end(address: Address) -> dict[str, Any]:
    """The server's own moment, and whether it is a standby, which does not begin a new segment where a backup ends."""
    with connected(address) as connection, server_errors(address):
        row = connection.execute("SELECT clock_timestamp(), pg_is_in_recovery()").fetchone()
        assert row is not None
        return {"time": row[0].astimezone(UTC).isoformat().replace("+00:00", "Z"), "standby": row[1]}


def _facts(
    address: Address, about: dict[str, Any], identity: Identity, found: BaseBackup, files: Files, method: str
) -> Facts:
    warnings = [f"damaged page: {path} block {block}, its checksum is wrong" for path, block in found.damaged]
    warnings += [f"{path} is no whole number of pages: a write to it was cut short" for path in files.odd]
    warnings += [f"the server warns: {text}" for text in found.warnings]
    return {
        "type": "physical",
        "database": about["cluster_name"] or "cluster",
        "databases": about["databases"],
        "version": about["text"],
        "server_version": about["server_version"],
        "method": method,
        "block_size": PAGE,
        "checksums": about["data_checksums"] == "on",
        "damaged_pages": [{"path": path, "block": block} for path, block in found.damaged],
        "tablespaces": {oid: {"path": place} for oid, place in found.tablespaces.items() if place.startswith("/")},
        "preload": about["shared_preload_libraries"],
        "settings": {name: about[name] for name in _SETTINGS if name in about},
        "files": sum(entry.kind == "file" for entry in files.entries),
        "folders": sum(entry.kind == "dir" for entry in files.entries),
        "rewritten_files": files.rewritten,
        "streams": [PAGES, CONTENT, STREAM],
        "bytes": files.bytes,
        "warnings": warnings,
        "wal": {
            "system": identity.system,
            "timeline": found.timeline,
            "start": show_lsn(found.start),
            "stop": show_lsn(found.stop),
            "segment_size": int(about["wal_segment_size"]),
            **_end(address),
        },
    }
