"""Backups of what changed only, laid over the pages of the one before: each is the whole cluster, page for page."""

import hashlib
import subprocess
from random import Random

import psycopg
import pytest

from keepwell.core.streams import Context, Held, MemoryStreams
from keepwell.sources import physical
from keepwell.sources.base import RestoreRequest
from keepwell.sources.physical import Target, restore, spread
from keepwell.sources.physical.entries import CONTENT, PAGES, decode
from support.captured import capture, differences, files_in, files_of
from support.physical import base_backup
from support.physical_load import LoggingServer, await_end_of_recovery, give_to_server, logging_server, open_folder

pytestmark = pytest.mark.slow

SUMMARIES = {"summarize_wal": "on", "allow_in_place_tablespaces": "on"}
METHODS = {"server": "incremental", "files": "incremental, from the files"}
SEGMENT = 131_072
"""Pages of a file of 1 GiB."""


class Server(LoggingServer):
    def ask(self, sql, database="postgres"):
        with psycopg.connect(self.url(database).reveal(), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def settle(self):
        """What a backup's own questions change (hint bits) has been changed and written."""
        capture(self)
        self.ask("CHECKPOINT")

    def files(self):
        return files_in(self.data)


@pytest.fixture(scope="module")
def folder():
    with open_folder() as found:
        yield found


@pytest.fixture(scope="module")
def server(folder):
    with logging_server(18, folder / "server", settings=SUMMARIES) as found:
        found.__class__ = Server
        yield found


@pytest.fixture
def own_folder():
    with open_folder() as found:
        yield found


class History:
    """Random changes, each a statement or two."""

    def __init__(self, server, seed, random):
        self.server, self.seed, self.random = server, seed, random
        self.tables, self.databases, self.numbers = [], [], 0

    def name(self, kind):
        self.numbers += 1
        return f"{kind}_{self.seed}_{self.numbers}"

    def step(self):
        steps = [
            *(self.insert, self.insert, self.update, self.update, self.delete, self.delete_tail, self.vacuum),
            *(self.vacuum_full, self.truncate, self.drop, self.create_index, self.drop_index, self.create_table),
            *(self.create_database, self.drop_database, self.move_table, self.move_database, self.toast, self.unlogged),
            *(self.rewrite, self.sequence, self.roll_back, self.truncate_and_fill, self.checkpoint),
        ]
        if not self.tables:
            return self.create_table()
        return self.random.choice(steps)()

    def ask(self, *statements, database="postgres"):
        for statement in statements:
            self.server.ask(statement, database)
        return "; ".join(statements)

    def table(self):
        return self.random.choice(self.tables)

    def create_table(self):
        self.tables.append(name := self.name("t"))
        rows = self.random.randint(0, 6000)
        return self.ask(
            f"CREATE TABLE {name} (id int, t text) WITH (autovacuum_enabled = off)",
            f"INSERT INTO {name} SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, {rows}) n",
        )

    def insert(self):
        rows = self.random.randint(1, 4000)
        return self.ask(f"INSERT INTO {self.table()} SELECT n, md5(n::text) FROM generate_series(1, {rows}) n")

    def update(self):
        share = self.random.choice([1, 3, 50])
        return self.ask(f"UPDATE {self.table()} SET t = t || 'x' WHERE hashint4(id) % {share} = 0")

    def delete(self):
        return self.ask(f"DELETE FROM {self.table()} WHERE id % {self.random.randint(2, 9)} = 0")

    def delete_tail(self):
        table = self.table()
        return self.ask(f"DELETE FROM {table} WHERE ctid > '({self.random.randint(0, 60)},1)'", f"VACUUM {table}")

    def vacuum(self):
        return self.ask(f"VACUUM {self.random.choice(['', 'FREEZE'])} {self.table()}")

    def vacuum_full(self):
        return self.ask(f"VACUUM FULL {self.table()}")

    def truncate(self):
        return self.ask(f"TRUNCATE {self.table()}")

    def truncate_and_fill(self):
        table = self.table()
        # In one transaction: the new file is written without log and synced.
        return self.ask(
            f"BEGIN; TRUNCATE {table}; INSERT INTO {table} SELECT n, 'n' FROM generate_series(1, 900) n; COMMIT"
        )

    def drop(self):
        self.tables.remove(table := self.table())
        return self.ask(f"DROP TABLE {table}")

    def create_index(self):
        method = self.random.choice(["btree (id)", "hash (id)", "gin (to_tsvector('simple', t))", "brin (id)"])
        return self.ask(f"CREATE INDEX ON {self.table()} USING {method}")

    def drop_index(self):
        found = self.server.ask("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid > 16384 LIMIT 1")
        return self.ask(*(f"DROP INDEX IF EXISTS {name}" for (name,) in found if "." not in name))

    def create_database(self):
        self.databases.append(name := self.name("d"))
        strategy = self.random.choice(["wal_log", "file_copy"])
        return self.ask(f"CREATE DATABASE {name} STRATEGY {strategy}") + self.ask(
            "CREATE TABLE t AS SELECT generate_series(1, 3000) AS n", database=name
        )

    def drop_database(self):
        if not self.databases:
            return self.create_database()
        self.databases.remove(name := self.random.choice(self.databases))
        return self.ask(f"DROP DATABASE {name}")

    def move_table(self):
        return self.ask(f"ALTER TABLE {self.table()} SET TABLESPACE {self.random.choice(['fast', 'pg_default'])}")

    def move_database(self):
        if not self.databases:
            return self.create_database()
        name = self.random.choice(self.databases)
        return self.ask(f"ALTER DATABASE {name} SET TABLESPACE {self.random.choice(['fast', 'pg_default'])}")

    def toast(self):
        return self.ask(f"UPDATE {self.table()} SET t = (SELECT string_agg(md5(random()::text), '') FROM "
                        "generate_series(1, 400)) WHERE id BETWEEN 10 AND 40")  # fmt: skip

    def unlogged(self):
        self.tables.append(name := self.name("u"))
        return self.ask(f"CREATE UNLOGGED TABLE {name} (id int, t text)", f"INSERT INTO {name} VALUES (1, 'x')")

    def rewrite(self):
        return self.ask(f"ALTER TABLE {self.table()} ADD COLUMN {self.name('c')} timestamptz DEFAULT clock_timestamp()")

    def sequence(self):
        return self.ask(
            f"CREATE SEQUENCE {self.name('s')}", "SELECT nextval(oid::regclass) FROM pg_class WHERE relkind = 'S'"
        )

    def roll_back(self):
        return self.ask(f"BEGIN; INSERT INTO {self.table()} SELECT n, 'no' FROM generate_series(1, 2000) n; ROLLBACK")

    def checkpoint(self):
        return self.ask("CHECKPOINT")


def unlogged_files(server):
    """Of what is not in the log a backup has the init fork only."""
    found = set()
    for path in server.files():
        if path.endswith("_init"):
            stem = path.removesuffix("_init")
            found |= {stem, f"{stem}_fsm", f"{stem}_vm"}
    return found


@pytest.mark.parametrize(("seed", "way"), [(0, "server"), (1, "server"), (2, "files"), (3, "files")])
def test_after_any_history_a_backup_is_the_cluster_page_for_page(seed, way, server, own_folder):
    random = Random(seed)
    place = own_folder / "fast"
    place.mkdir()
    give_to_server(place)
    server.ask(f"CREATE TABLESPACE fast LOCATION '{place}'")
    history = History(server, seed, random)
    said, last, methods = [], None, []
    base = base_backup(server, own_folder / "b0", "-T", f"{place}={own_folder / 'b0-fast'}")
    chain = [base]
    for turn in range(1, 7):
        said += [history.step() for _ in range(random.randint(0, 14))]
        server.settle()
        facts, last = capture(server, cache=own_folder / "cache", after=last, read_from=way)
        methods.append(facts["method"].partition(":")[0])
        told = f"seed {seed}, turn {turn}: {said}"
        ours = files_of(last)
        skip = {*unlogged_files(server), "postgresql.auto.conf", "logfile"}
        skip |= {path for path in [*ours, *server.files()] if path.startswith("pg_stat/")}
        assert differences(ours, server.files(), ignore=skip) == [], told
        assert [entry for entry in ours if "INCREMENTAL" in entry] == []
        assert b"INCREMENTAL" not in ours["backup_label"][2]
        # And what PostgreSQL's own programs make of the same moment.
        new = own_folder / f"b{turn}"
        mapping = f"{place}={own_folder / f'b{turn}-fast'}"
        chain.append(base_backup(server, new, "-T", mapping, f"--incremental={chain[-1]}/backup_manifest"))
        if turn % 3 == 0:
            assert differences(ours, files_in(combined(server, chain, own_folder, turn)), ignore=skip) == [], told
    assert methods == ["full" if way == "server" else "files", *[METHODS[way]] * 5]
    for name in history.databases:
        server.ask(f"DROP DATABASE {name}")
    for name in history.tables:
        server.ask(f"DROP TABLE {name}")
    server.ask("DROP TABLESPACE fast")


def combined(server, chain, folder, turn):
    out = folder / f"c{turn}"
    maps = [f"--tablespace-mapping={folder / f'b{turn}-fast'}={folder / f'c{turn}-fast'}"]
    command = [server.programs.path("pg_combinebackup"), *map(str, chain), "-o", str(out), "--no-sync", *maps]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


# One backup after the other


@pytest.fixture
def own(own_folder):
    with logging_server(18, own_folder / "server", settings=SUMMARIES) as found:
        found.__class__ = Server
        found.ask("CREATE TABLE notes AS SELECT n AS id, repeat('x', 500) AS t FROM generate_series(1, 3000) n")
        yield found


def test_a_backup_when_nothing_changed_reads_next_to_nothing(own, own_folder):
    _, first = capture(own, cache=own_folder / "cache")
    sink = Counting(first.pieces)
    facts = physical.capture(physical.Spec(own.url(), read_from="server"), sink, remembering(own_folder))
    assert facts["method"] == "incremental"
    # Free space maps are not in the log, so the server sends them whole.
    assert sink.written < 0.3 * len(first.data[PAGES])
    assert sink.reused + sink.written == len(first.data[PAGES])


def remembering(folder):
    return Context(cache=folder / "cache")


class Counting(MemoryStreams):
    """Says how many pages were sent, and how many were known."""

    def __init__(self, pieces):
        super().__init__()
        self.pieces, self.written, self.reused = pieces, 0, 0

    def stream(self, name, cut="content"):
        writer, sink = super().stream(name, cut), self
        if name != PAGES:
            return writer
        write, reuse, overlay = writer.write, writer.reuse, writer.overlay

        def counted(data):
            sink.written += len(data)
            write(data)

        def counted_reuse(ids, size):
            sink.reused += size
            sink.written -= size  # it writes what it knows
            return reuse(ids, size)

        def counted_overlay(pages, places, data):
            sink.reused += 8192 * len(pages) - len(data)
            sink.written -= 8192 * len(pages) - len(data)
            overlay(pages, places, data)

        writer.write, writer.reuse, writer.overlay = counted, counted_reuse, counted_overlay
        return writer


def test_on_another_timeline_everything_is_read_and_then_it_goes_on(own, own_folder):
    _, first = capture(own, cache=own_folder / "cache")
    own.stop()
    (own.data / "standby.signal").touch()
    own.start()
    own.ask("SELECT pg_promote()")
    own.ask("INSERT INTO notes VALUES (1, 'on the second timeline')")
    facts, second = capture(own, cache=own_folder / "cache", after=first)
    assert facts["method"] == "full: the server is on timeline 2, the last backup was on 1"
    facts, _ = capture(own, cache=own_folder / "cache", after=second)
    assert facts["method"] == "incremental"
    assert facts["wal"]["timeline"] == 2


def test_the_backup_before_may_go_and_the_next_goes_on(own, own_folder):
    """No chain: of an earlier backup only the pages that the last one has too are needed."""
    last = None
    for n in range(5):
        own.ask(f"UPDATE notes SET t = repeat('{n}', 500) WHERE id % 5 = {n}")
        own.settle()
        facts, streams = capture(own, cache=own_folder / "cache", after=last)
        # All that is only in older backups is deleted.
        pages = _pages(streams)
        last = MemoryStreams()
        last.pieces = {ident: piece for ident, piece in streams.pieces.items() if piece in pages}
        assert facts["method"].startswith("full" if n == 0 else "incremental")
        assert differences(files_of(streams), own.files(), ignore=(*unlogged_files(own), "postgresql.auto.conf")) == []


class Scattered(Counting):
    """Says of every file that it lies scattered."""

    def spread(self, held):
        return 9.0


@pytest.mark.parametrize("way", ["server", "files"])
def test_files_that_lie_scattered_come_whole(own, own_folder, way, monkeypatch):
    monkeypatch.setattr(spread, "_LEAST", 2)
    spec = physical.Spec(own.url(), read_from=way)
    context = remembering(own_folder)
    last = Scattered({})
    assert physical.capture(spec, last, context)["rewritten_files"] == 0
    monkeypatch.setattr(spread, "_SHARE", 1)
    rewritten = []
    for n in range(3):  # the server's manifest names what it sent whole by one name, and what had changed by another
        monkeypatch.setattr(spread, "_LEAST", 1 << 20 if n == 1 else 2)
        own.ask(f"UPDATE notes SET t = 'round {n}' WHERE id % 7 = 3")
        own.settle()
        streams = Scattered(last.pieces)
        facts = physical.capture(spec, streams, context)
        assert facts["method"] == METHODS[way]
        rewritten.append(facts["rewritten_files"])
        assert differences(files_of(streams), own.files(), ignore=(*unlogged_files(own), "postgresql.auto.conf")) == []
        last = streams
    assert rewritten[1] == 0
    assert rewritten[2] >= rewritten[0] > 100


def _pages(streams):
    data = bytes(streams.data[PAGES])
    return {data[at : at + 8192] for at in range(0, len(data), 8192)}


def test_a_file_that_was_no_whole_pages_is_sent_whole_when_it_is_again(own, own_folder):
    ((path,),) = own.ask("SELECT pg_relation_filepath('notes')")
    own.ask("CHECKPOINT")
    with (own.data / path).open("ab") as file:
        file.write(b"torn")
    facts, first = capture(own, cache=own_folder / "cache")
    assert any(path in text for text in facts["warnings"])
    assert facts["damaged_pages"] == []
    assert {e.path: e.stream for e in decode(first.read("entries"))}[path] == CONTENT
    with (own.data / path).open("r+b") as file:
        file.truncate((own.data / path).stat().st_size - 4)
    own.ask("UPDATE notes SET t = 'y' WHERE id = 7")
    own.settle()
    facts, second = capture(own, cache=own_folder / "cache", after=first)
    assert (facts["method"], facts["damaged_pages"]) == ("incremental", [])
    assert files_of(second)[path][2] == (own.data / path).read_bytes()


def test_the_last_backup_of_another_place_is_not_taken_for_this_one(own, own_folder):
    _, first = capture(own, cache=own_folder / "cache")
    copy = own_folder / "copy"
    restore(*capture(own), Target(copy / "data"), RestoreRequest(), remembering(own_folder))
    with LoggingServer(own.programs, copy, settings={**own._settings}) as other:
        await_end_of_recovery(other)
        facts, _ = capture(other, cache=own_folder / "cache", after=first)
    assert facts["method"].startswith("full: this machine knows of no")


def test_an_interrupted_backup_does_not_spoil_the_memory_of_the_last(own, own_folder):
    _, first = capture(own, cache=own_folder / "cache")
    sink = Counting(first.pieces)
    own.ask("UPDATE notes SET t = 'z'")
    asked = iter(range(10_000))
    context = remembering(own_folder)
    context.cancelled = lambda: next(asked) > 30
    with pytest.raises(Exception, match="interrupted"):
        physical.capture(physical.Spec(own.url(), read_from="server"), sink, context)
    own.settle()
    facts, again = capture(own, cache=own_folder / "cache", after=first)
    assert facts["method"] == "incremental"
    assert [path.suffix for path in (own_folder / "cache").iterdir()] == [".map"]
    assert differences(files_of(again), own.files(), ignore=(*unlogged_files(own), "postgresql.auto.conf")) == []


# Files of 1 GiB


class Digests(MemoryStreams):
    """Keeps a digest for each page instead of the page: a gigabyte fits."""

    def __init__(self, known=None):
        super().__init__()
        self.known = known if known is not None else set()

    def stream(self, name, cut="content"):
        if name != PAGES:
            return super().stream(name, cut)
        self.pages = _Pages(self.known)
        return self.pages

    def find(self, ids):
        if not all(bytes(ids[at : at + 16]) in self.known for at in range(0, len(ids), 20)):
            return None
        return Held(memoryview(ids), memoryview(bytes(len(ids) // 20 * 8)))


class _Pages:
    def __init__(self, known):
        self.known, self.ids, self.rest, self.since, self.position = known, [], b"", 0, 0

    def write(self, data):
        self.position += len(data)
        self.rest += bytes(data)
        whole = len(self.rest) // 8192 * 8192
        self.ids += [digest(self.rest[at : at + 8192]) for at in range(0, whole, 8192)]
        self.rest = self.rest[whole:]

    def boundary(self):
        self.since = len(self.ids)

    def take_ids(self):
        assert not self.rest
        found = b"".join(ident + (8192).to_bytes(4, "little") for ident in self.ids[self.since :])
        self.known.update(self.ids)
        self.since = len(self.ids)
        return found

    def reuse(self, ids, size):
        ids = bytes(ids.ids) if isinstance(ids, Held) else ids
        self.ids += [ids[at : at + 16] for at in range(0, len(ids), 20)]
        self.position += size
        return True

    def overlay(self, pages, places, data):
        ids = bytes(pages.ids)
        tokens = [ids[at : at + 20] for at in range(0, len(ids), 20)]
        for n, place in enumerate(places):
            tokens[place] = digest(bytes(data[8192 * n : 8192 * (n + 1)])) + (8192).to_bytes(4, "little")
        laid = b"".join(tokens)
        self.reuse(laid, 8192 * len(tokens))
        self.known.update(token[:16] for token in tokens)

    def anew(self, on):
        pass

    def close(self):
        assert not self.rest


ZERO = hashlib.sha256(bytes(8192)).digest()[:16]


def digest(page):
    return ZERO if not any(page) else hashlib.sha256(page).digest()[:16]


def test_a_table_that_grows_over_its_first_gigabyte(own, own_folder):
    """Empty pages are as good as full ones, and need no disk: the file is made long with a hole."""
    ((path,),) = own.ask("SELECT pg_relation_filepath('notes')")
    own.stop()
    (own.data / f"{path}_fsm").unlink(missing_ok=True)
    with (own.data / path).open("r+b") as file:
        file.truncate((SEGMENT - 3) * 8192)
    own.start()
    first = Digests()
    physical.capture(physical.Spec(own.url(), read_from="server"), first, remembering(own_folder))
    own.ask("INSERT INTO notes SELECT n, repeat('y', 500) FROM generate_series(1, 900) n")
    assert (own.data / f"{path}.1").stat().st_size > 0
    physical.capture(physical.Spec(own.url(), read_from="server"), Digests(), Context())
    own.ask("CHECKPOINT")
    second = Digests(first.known)
    facts = physical.capture(physical.Spec(own.url(), read_from="server"), second, remembering(own_folder))
    assert facts["method"] == "incremental"
    for name in (path, f"{path}.1"):
        (entry,) = [e for e in decode(second.read("entries")) if e.path == name]
        with (own.data / name).open("rb") as file:
            there = [digest(page) for page in iter(lambda file=file: file.read(8192), b"")]
        assert second.pages.ids[entry.at // 8192 : (entry.at + entry.size) // 8192] == there
