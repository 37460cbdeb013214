"""Physical backups made without keepwell's own capture: a directory from `pg_basebackup -Fp`, put into streams."""

import json
import os
import re
import struct
import subprocess
from pathlib import Path

import psycopg

from keepwell.core.streams import MemoryStreams
from keepwell.core.wal import show_lsn
from keepwell.sources.physical.entries import CONTENT, PAGES, STREAM, Entry, encode
from keepwell.sources.postgres.server import ThrowawayServer

_LEFT_OUT = {"backup_manifest", "postmaster.pid", "postmaster.opts"}


def base_backup(server: ThrowawayServer, folder: Path, *options: str) -> Path:
    """`pg_basebackup` into a new folder, with the log that it needs."""
    command = [
        server.programs.path("pg_basebackup"),
        "-D",
        str(folder),
        "-X",
        "fetch",
        "-c",
        "fast",
        "--no-sync",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(server))
    assert done.returncode == 0, done.stderr
    return folder


def environment(server: ThrowawayServer) -> dict[str, str]:
    return server.address().environment()


def into_streams(server: ThrowawayServer, folder: Path) -> tuple[dict, MemoryStreams]:
    """Facts and streams as the capture gives them."""
    streams = MemoryStreams()
    writers = {PAGES: streams.stream(PAGES, "pages"), CONTENT: streams.stream(CONTENT)}
    entries, tablespaces = [], {}
    for path in sorted(_walk(folder, "")):
        real = folder / path
        if path in _LEFT_OUT or path == "tablespace_map":
            continue
        if real.is_symlink():
            target = str(real.readlink())
            entries.append(Entry(path, "link", 0o777, target=target))
            tablespaces[real.name] = {"path": target}
        elif real.is_dir():
            entries.append(Entry(path, "dir", real.stat().st_mode & 0o7777))
        else:
            data = real.read_bytes()
            relation = re.search(r"(^|/)(base|global|pg_tblspc)/.*\d", path) and len(data) % 8192 == 0
            name = PAGES if relation and "pg_control" not in path else CONTENT
            at = writers[name].position
            writers[name].write(data)
            entries.append(Entry(path, "file", real.stat().st_mode & 0o7777, len(data), name, at))
    for writer in writers.values():
        writer.close()
    listing = streams.stream(STREAM)
    for line in encode(entries):
        listing.write(line)
    listing.close()
    control = (folder / "global/pg_control").read_bytes()
    label = (folder / "backup_label").read_text()
    start = re.search(r"START WAL LOCATION: (\S+)", label)[1]
    timeline = int(re.search(r"START TIMELINE: (\d+)", label)[1])
    major = int((folder / "PG_VERSION").read_text())
    facts = {
        "type": "physical",
        "bytes": sum(e.size for e in entries),
        "streams": list(streams.names()),
        "warnings": [],
        "version": server.programs.version,
        "server_version": major * 10000,
        "database": "cluster",
        "method": "full",
        "checksums": True,
        "damaged_pages": [],
        "tablespaces": tablespaces,
        "block_size": 8192,
        "files": sum(e.kind == "file" for e in entries),
        "preload": "",
        "settings": _settings(server),
        "wal": {
            "system": str(struct.unpack_from("=Q", control)[0]),
            "timeline": timeline,
            "start": start,
            "stop": show_lsn(0),
            "segment_size": 16 << 20,
            "time": "2026-11-22T02:00:00Z",
        },
    }
    return json.loads(json.dumps(facts)), streams


def _settings(server: ThrowawayServer) -> dict[str, int]:
    names = ["max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions"]
    with psycopg.connect(server.url().reveal()) as connection:
        query = "SELECT name, setting::int FROM pg_settings WHERE name = ANY(%s)"
        return dict(connection.execute(query, [[*names, "max_locks_per_transaction"]]).fetchall())


def _walk(folder: Path, prefix: str):
    for name in os.listdir(folder / prefix):
        path = f"{prefix}{name}"
        yield path
        if (folder / path).is_dir():
            yield from _walk(folder, f"{path}/")
