"""Backups by keepwell's own physical capture into memory, one after the other, and what they are compared with."""

from pathlib import Path

import psycopg

from keepwell.core.streams import Context, MemoryStreams
from keepwell.sources import physical
from keepwell.sources.base import RestoreRequest
from keepwell.sources.physical import start
from keepwell.sources.physical.entries import STREAM, decode

NOT_COMPARED = {
    "global/pg_control": "every checkpoint writes it",
    "backup_label": "each backup has its own",
    "backup_manifest": "keepwell has its own",
    "tablespace_map": "keepwell has entries",
}
"""And all of pg_wal: each backup brings the log of its own time."""


class Chain:
    """The backups of one server into one vault, with one cache."""

    def __init__(self, url, cache: Path, **options) -> None:
        self.url, self.cache, self.options = url, cache, options
        self.pieces: dict[bytes, bytes] = {}

    def take(self, **context):
        streams = MemoryStreams()
        streams.pieces = self.pieces
        spec = physical.Spec(self.url, **{"read_from": "server", **self.options})
        return physical.capture(spec, streams, Context(cache=self.cache, **context)), streams


def files_of(streams):
    """Path -> bytes, as a restore would write them."""
    found = {}
    for entry in decode(streams.read(STREAM)):
        if entry.kind == "file":
            data = streams.data[entry.stream][entry.at : entry.at + entry.size] if entry.size else b""
            found[entry.path] = bytes(data)
            assert len(found[entry.path]) == entry.size
    return found


def files_in(folder: Path):
    """The same of a directory, tablespaces followed."""
    found = {}

    def walk(prefix):
        for path in sorted((folder / prefix).iterdir()):
            name = f"{prefix}{path.name}"
            if path.is_dir():
                walk(f"{name}/")
            else:
                found[name] = path.read_bytes()

    walk("")
    return found


def require_equal(ours, theirs):
    """File by file, page by page; what differs by its nature is `NOT_COMPARED`."""

    def left(files):
        return {p: d for p, d in files.items() if p not in NOT_COMPARED and not p.startswith("pg_wal/")}

    ours, theirs = left(ours), left(theirs)
    assert sorted(ours) == sorted(theirs)
    for path, data in theirs.items():
        if ours[path] != data:
            size = max(len(data), len(ours[path]))
            pages = [at // 8192 for at in range(0, size, 8192) if data[at : at + 8192] != ours[path][at : at + 8192]]
            raise AssertionError(f"{path}: {len(ours[path])} and {len(data)} bytes, pages {pages[:20]} differ")


def brought_back(facts, streams, data: Path, ask, *, tablespaces=()):
    """Restores, starts, gives `ask(url)`'s answer, stops."""
    socket = data.parent / f"{data.name}-s"
    socket.mkdir()
    socket.chmod(0o777)
    physical.restore(facts, streams, physical.Target(data), RestoreRequest(tablespaces=tablespaces), Context())
    with (data / "postgresql.auto.conf").open("a") as conf:
        conf.write(f"\nunix_socket_directories = '{socket}'\nlisten_addresses = ''\nport = 5499\nfsync = off\n")
        conf.write(
            "max_connections = 40\nmax_locks_per_transaction = 512\nshared_buffers = '32MB'\nmax_wal_senders = 10\nmin_wal_size = '256MB'\n"
        )
    programs = start.programs_for(facts)
    starter = start._Starter(programs, data)
    code, said = starter.run("start", "-w", "-s", "-t", "60", "-l", str(data / "start.log"))
    assert code == 0, said + (data / "start.log").read_text()[-1500:]
    try:
        url = f"postgresql://postgres@/postgres?host={socket}&port=5499"
        with psycopg.connect(url, autocommit=True) as connection:
            while connection.execute("SELECT pg_is_in_recovery()").fetchone() != (False,):
                pass
        return ask(url)
    finally:
        start.stop(programs, data)
