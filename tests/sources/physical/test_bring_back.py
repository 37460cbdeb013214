"""A cluster brought back from a physical backup, by real servers."""

import datetime as dt
import os
import shutil
import stat
import struct
from pathlib import Path

import psycopg
import pytest

from keepwell.core.errors import Damaged, Interrupted, SourceError, StoreError, TargetNotEmpty, UsageError
from keepwell.core.progress import Silent
from keepwell.core.streams import Context, MemoryStreams
from keepwell.core.wal import parse_lsn
from keepwell.sources import physical as bring
from keepwell.sources.base import Recovery, RestoreRequest
from keepwell.sources.physical import start
from keepwell.sources.physical.examine import count_rows, examine, query
from keepwell.sources.physical.restore import compare_files
from keepwell.sources.physical.sandbox import sandbox
from keepwell.sources.physical.target import Target
from support.majors import MAJORS, NAMES
from support.physical import base_backup, into_streams
from support.physical_load import fill, give_to_server, logging_server, open_folder, require_balanced, run

pytestmark = pytest.mark.slow


class Source:
    """A server with pgbench's tables and a tablespace, its backup, and an archive of its log."""

    def __init__(self, major, folder):
        self.folder, self.archive = folder, folder / "archive"
        self.archive.mkdir()
        self.archive.chmod(0o777)
        self.place = folder / "fast"
        self.place.mkdir()
        give_to_server(self.place)
        settings = {"archive_mode": "on", "archive_command": f"cp %p {self.archive}/%f", "fsync": "off"}
        self._context = logging_server(major, folder / "source", settings=settings)
        self.server = self._context.__enter__()
        fill(self.server)
        self.ask(f"CREATE TABLESPACE fast LOCATION '{self.place}'")
        self.ask("CREATE TABLE notes (id int PRIMARY KEY, text text) TABLESPACE fast")
        self.ask("INSERT INTO notes SELECT n, repeat('x', 200) FROM generate_series(1, 2000) n")
        mapped = folder / "backup-fast"
        base = base_backup(self.server, folder / "backup", "-T", f"{self.place}={mapped}")
        # As the capture says it: the place on the server.
        for link in (base / "pg_tblspc").iterdir():
            link.unlink()
            link.symlink_to(mapped)
        self.facts, self.streams = into_streams(self.server, base)
        self.facts["checksums"] = bool(self.ask("SHOW data_checksums")[0][0] == "on")
        # Nothing of the backup's own copy is needed any more.
        shutil.rmtree(base)
        shutil.rmtree(mapped)

    def ask(self, sql):
        with psycopg.connect(self.server.url().reveal(), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def moment(self):
        """A little work, and the moment, the position and the state after it."""
        run(self.server, 20)
        state = require_balanced(self.server.url().reveal())
        ((time, lsn),) = self.ask("SELECT clock_timestamp(), pg_current_wal_insert_lsn()::text")
        return time, parse_lsn(lsn), state

    def archived(self):
        """All log so far is in the archive."""
        self.ask("CREATE TABLE IF NOT EXISTS last (at timestamptz)")
        ((name,),) = self.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        self.ask("INSERT INTO last VALUES (now()); SELECT pg_switch_wal()")
        while not self.ask(f"SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= '{name}'"):
            pass

    def log(self, name):
        path = self.archive / name
        return path.read_bytes() if path.exists() else None

    def close(self):
        self._context.__exit__(None, None, None)


@pytest.fixture(scope="module", params=MAJORS, ids=NAMES)
def source(request):
    with open_folder() as folder:
        found = Source(request.param, folder)
        yield found
        found.close()


@pytest.fixture
def folder():
    with open_folder() as found:
        yield found


@pytest.fixture
def running():
    """Directories whose servers are stopped at the end."""
    there = []
    yield there
    for programs, data in there:
        if (data / "postmaster.pid").exists():
            start.stop(programs, data)


def bring_back(source, folder, *, streams=None, context=None, **request):
    """Into `folder/data`, its tablespace beside it."""
    request.setdefault("tablespaces", ((str(source.folder / "backup-fast"), str(folder / "fast")),))
    return bring.restore(
        source.facts,
        streams or source.streams,
        Target(folder / "data"),
        RestoreRequest(**request),
        context or Context(),
    )


def started(source, folder, running, **request):
    """Restored and started, reached through a socket in its own folder; the report and its address."""
    running.append((source.server.programs, folder / "data"))
    sockets = folder / "sockets"
    sockets.mkdir(mode=0o700)
    give_to_server(sockets)
    context = Context()
    # Settings of the cluster that was backed up: what a restored one starts with.
    streams = with_settings(source.streams, f"unix_socket_directories='{sockets}'\nlisten_addresses=''\nport=5432\n")
    report = bring_back(source, folder, streams=streams, context=context, start=True, **request)
    return report, f"host={sockets} port=5432 user=postgres dbname=postgres"


def with_settings(streams, text):
    """The same backup, of a cluster with this `postgresql.conf`."""
    from keepwell.sources.physical.entries import CONTENT, STREAM, decode, encode

    changed = MemoryStreams()
    changed.data = {name: bytearray(data) for name, data in streams.data.items()}
    entries = list(decode([bytes(streams.data[STREAM])]))
    content, rebuilt, result = streams.data[CONTENT], bytearray(), []
    for entry in entries:
        if entry.stream != CONTENT:
            result.append(entry)
            continue
        data = bytes(content[entry.at : entry.at + entry.size])
        data = text.encode() if entry.path == "postgresql.conf" else data
        result.append(type(entry)(entry.path, entry.kind, entry.mode, len(data), CONTENT, len(rebuilt)))
        rebuilt += data
    changed.data[CONTENT] = rebuilt
    changed.data[STREAM] = bytearray(b"".join(encode(result)))
    return changed


def test_a_sandbox_has_every_byte_and_passes_every_check(source):
    context = Context()
    with sandbox(source.facts, context) as target:
        report = bring.restore(source.facts, source.streams, target, RestoreRequest(), context)
        assert report.bytes > 20_000_000
        assert compare_files(source.streams, target, context) == []
        assert examine(target, source.facts, context) == []
        rows = count_rows(target, source.facts)
        assert rows["public.pgbench_accounts"] == 100_000
        assert rows["public.notes"] == 2000
        assert query(target, "SELECT count(*) FROM notes WHERE text = repeat('x', 200)") == 2000
        require_balanced(target.url.reveal())
        assert target.reached["timeline"] == 2
        folder = target.folder
    assert not folder.exists()


def test_a_started_cluster_is_at_just_the_moment_that_was_asked_for(source, folder, running):
    time, _, state = source.moment()
    source.moment()
    source.archived()
    report, address = started(source, folder, running, recovery=Recovery(time=time), log=source.log)
    assert require_balanced(address) == state
    assert dt.datetime.fromisoformat(report.reached["time"]) <= time
    assert report.reached["timeline"] == 2
    assert parse_lsn(report.reached["lsn"]) > 0
    with psycopg.connect(address) as connection:
        assert connection.execute("SELECT pg_is_in_recovery(), current_setting('archive_mode')").fetchone() == (
            False,
            "off",
        )
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (2000,)


def test_a_position_and_a_named_point_are_reached_and_the_restore_command_of_the_server_works(source, folder, running):
    _, lsn, state = source.moment()
    source.ask("SELECT pg_create_restore_point('before the change')")
    source.moment()
    source.archived()
    report, address = started(
        source, folder, running, recovery=Recovery(lsn=lsn), restore_command=f"cp {source.archive}/%f %p"
    )
    assert require_balanced(address) == state
    assert parse_lsn(report.reached["lsn"]) >= lsn
    with open_folder() as second:
        _, address = started(source, second, running, recovery=Recovery(name="before the change"), log=source.log)
        assert require_balanced(address) == state
        start.stop(*running.pop())


def test_without_log_the_cluster_is_as_the_backup_ended_and_the_report_says_so(source, folder, running):
    report, address = started(source, folder, running)
    assert require_balanced(address).transactions == 0
    assert any("no log behind the backup" in warning for warning in report.warnings)


def test_a_store_that_fails_ends_the_recovery_and_no_shortened_cluster_is_promoted(source, folder, running):
    source.moment()
    source.archived()

    def failing(name):
        raise StoreError("the store is gone", hint="Wait.")

    with pytest.raises(StoreError, match="the store is gone"):
        started(source, folder, running, log=failing)
    assert not (folder / "data" / "postmaster.pid").exists()
    assert (folder / "data" / "recovery.signal").exists()
    assert not list((folder / "data" / "pg_wal").glob("*.history"))


def test_a_moment_behind_the_end_of_the_log_is_an_error_that_says_so(source, folder, running):
    source.archived()
    future = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    with pytest.raises(SourceError, match="recovery ended before configured recovery target was reached"):
        started(source, folder, running, recovery=Recovery(time=future), log=source.log)


def test_delta_rewrites_only_what_differs_and_ends_with_the_same_bytes(source, folder):
    bring_back(source, folder)
    data = folder / "data"
    before = tree(folder)
    # A page changed, a file cut off, one grown, one gone, a stranger, a mode.
    accounts = max((data / "base").rglob("[0-9]*"), key=lambda p: p.stat().st_size if p.is_file() else 0)
    with accounts.open("r+b") as file:
        file.seek(5 * 8192 + 100)
        file.write(b"changed")
    (data / "PG_VERSION").write_text("")
    with (data / "global" / "1260").open("ab") as file:
        file.write(bytes(8192) + b"\1" * 8192)
    (data / "base" / "1" / "PG_VERSION").unlink()
    (data / "base" / "stranger").mkdir()
    (data / "base" / "stranger" / "1").write_text("?")
    shutil.rmtree(next((folder / "fast").glob("PG_*")))
    report = bring_back(source, folder, delta=True)
    assert tree(folder) == before
    notes = 2000 * 260
    assert 8192 < report.written < notes * 3 + 3 * 8192 + 40_000


def test_delta_goes_on_after_an_interruption_and_nothing_starts_meanwhile(source, folder):
    bring_back(source, folder)
    before = tree(folder)
    calls = iter(range(1_000_000))
    with pytest.raises(Interrupted):
        bring_back(source, folder, delta=True, context=Context(cancelled=lambda: next(calls) > 3))
    assert not (folder / "data/global/pg_control").exists()
    bring_back(source, folder, delta=True)
    assert tree(folder) == before


def test_delta_refuses_another_cluster_and_one_that_may_run(source, folder):
    bring_back(source, folder)
    pid = folder / "data" / "postmaster.pid"
    pid.write_text(f"{os.getpid()}\n")
    with pytest.raises(TargetNotEmpty, match=f"server .process {os.getpid()}. is running"):
        bring_back(source, folder, delta=True)
    pid.write_text("999999999\n")
    with pytest.raises(TargetNotEmpty, match="may be running there"):
        bring_back(source, folder, delta=True)
    pid.unlink()
    control = folder / "data/global/pg_control"
    control.write_bytes(struct.pack("=Q", 42) + control.read_bytes()[8:])
    with pytest.raises(TargetNotEmpty, match="another cluster: its system identifier is 42"):
        bring_back(source, folder, delta=True)


def test_nothing_is_written_into_a_place_with_something_in_it(source, folder):
    (folder / "data").mkdir()
    (folder / "data" / "mine").write_text("mine")
    with pytest.raises(TargetNotEmpty, match="is not empty"):
        bring_back(source, folder)
    with pytest.raises(TargetNotEmpty, match="not known whether it is this cluster"):
        bring_back(source, folder, delta=True)
    shutil.rmtree(folder / "data")
    (folder / "fast").mkdir()
    (folder / "fast" / "mine").write_text("mine")
    with pytest.raises(TargetNotEmpty, match=r"--tablespace|is not empty"):
        bring_back(source, folder)
    assert tree(folder) == {"fast": None, "fast/mine": b"mine"}


def test_tablespaces_that_are_not_there_or_lie_in_the_directory_are_refused(source, folder):
    with pytest.raises(UsageError, match="has no tablespace at /nowhere"):
        bring_back(source, folder, tablespaces=(("/nowhere", "/somewhere"),))
    old = str(source.folder / "backup-fast")
    with pytest.raises(UsageError, match="lie in one another"):
        bring_back(source, folder, tablespaces=((old, str(folder / "data" / "fast")),))
    assert tree(folder) == {}


def test_a_restore_that_fails_leaves_nothing_behind(source, folder):
    class Broken(MemoryStreams):
        def scatter(self, name, put):
            put([(0, bytes(self.data[name][:8192]))])
            raise Damaged("a piece is damaged")

    broken = Broken()
    broken.data = source.streams.data
    with pytest.raises(Damaged, match="a piece is damaged"):
        bring_back(source, folder, streams=broken)
    assert tree(folder) == {}


@pytest.mark.parametrize("delta", [False, True])
def test_every_file_is_made_durable_when_it_is_whole(source, folder, monkeypatch, delta):
    if delta:
        bring_back(source, folder)
        (folder / "data" / "PG_VERSION").write_text("7\n")
    synced, real = {}, os.fsync

    def sync(fd):
        about = os.fstat(fd)
        if stat.S_ISREG(about.st_mode):
            # Again, since the settings change after the files came.
            synced[about.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()
        real(fd)

    monkeypatch.setattr(os, "fsync", sync)
    bring_back(source, folder, delta=delta)
    files = [path for path in (folder / "data").rglob("*") if path.is_file()]
    assert len(files) > 900
    for path in files:
        assert synced[path.stat().st_ino] == path.read_bytes(), path


def test_pages_of_zeros_stay_holes(source, folder):
    from keepwell.sources.physical.entries import PAGES, STREAM, Entry, decode, encode

    streams = MemoryStreams()
    streams.data = {name: bytearray(data) for name, data in source.streams.data.items()}
    size = 64 << 20
    entries = [
        *decode([bytes(streams.data[STREAM])]),
        Entry("base/1/99999", "file", 0o600, size, PAGES, len(streams.data[PAGES])),
    ]
    streams.data[PAGES] += bytes(size)
    streams.data[STREAM] = bytearray(b"".join(encode(entries)))
    bring_back(source, folder, streams=streams)
    made = (folder / "data/base/1/99999").stat()
    assert made.st_size == size
    assert made.st_blocks * 512 < 1 << 20


def test_a_copy_does_nothing_in_the_name_of_the_one_that_was_backed_up(source, folder):
    old = "archive_mode = on\narchive_command = 'cp %p /production/%f'\nsynchronous_standby_names='b'\n"
    report = bring_back(source, folder, streams=with_settings(source.streams, old))
    said = " ".join(report.warnings)
    assert "archive_mode is off" in said
    assert "synchronous_standby_names is empty" in said
    assert "archive_mode = 'off'" in (folder / "data/postgresql.auto.conf").read_text()


def test_damage_in_the_restored_files_is_found_and_named(source):
    context = Context()
    with sandbox(source.facts, context) as target:
        bring.restore(source.facts, source.streams, target, RestoreRequest(), context)
        name = max(p for p in (target.path / "base").rglob("[0-9]*") if p.is_file() and p.stat().st_size > 10_000_000)
        with name.open("r+b") as file:
            file.seek(3 * 8192 + 4000)
            file.write(b"damage")
        path = str(name.relative_to(target.path))
        found = compare_files(source.streams, target, context)
        assert [(f.what, f.problem) for f in found] == [(path, "differs from the backup in block 3")]
        if source.facts["checksums"]:
            assert (path, "the checksum of block 3 is wrong") in [
                (f.what, f.problem) for f in examine(target, source.facts, context)
            ]


def test_a_proof_recovers_to_a_moment_of_the_log(source):
    time, _, state = source.moment()
    source.moment()
    source.archived()
    context = Context(progress=Silent())
    with sandbox(source.facts, context) as target:
        target.recovery, target.log = Recovery(time=time), source.log
        bring.restore(source.facts, source.streams, target, RestoreRequest(), context)
        assert examine(target, source.facts, context) == []
        assert require_balanced(target.url.reveal()) == state
        assert dt.datetime.fromisoformat(target.reached["time"]) <= time


def tree(folder: Path):
    """Everything below, with the bytes of files; links as their text. The log that a restore does not bring is left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = (
            None
            if path.is_dir() and not path.is_symlink()
            else path.read_bytes()
            if path.is_file()
            else str(path.readlink())
        )
    return found
