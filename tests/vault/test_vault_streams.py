"""Streams through the vault against plain bytes: cutting, finding pieces again, reading any range, reusing pieces."""

from __future__ import annotations

import itertools
import random
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vaultkit import (
    HOUR,
    START,
    back_up,
    begin,
    commit,
    keyring,
    new_store,
    noise,
    open_vault,
    packs,
    prune,
    tick,
    troubles,
)

from keepwell.core.errors import Damaged, UsageError
from keepwell.vault import index, writer
from keepwell.vault.cutter import LEAST, MOST, cutter
from keepwell.vault.index import PieceTable
from keepwell.vault.piece import PAGE

RING = keyring()


# Cutting


def cut_in_blocks(cut: str, data: bytes, sizes: list[int]) -> list[int]:
    """As StreamBuilder does it: what is left over of a block stands before the next."""
    machine, lengths, left, at = cutter(cut, RING), [], b"", 0  # type: ignore[arg-type]
    for size in sizes:
        block, at = left + data[at : at + size], at + size
        found = machine.cut(block, final=False)
        lengths += found
        left = block[sum(found) :]
    return lengths + machine.cut(left + data[at:], final=True)


@given(st.integers(0, 1 << 20), st.lists(st.integers(0, 200_000), max_size=6), st.integers(0, 99))
def test_pieces_do_not_depend_on_the_blocks_in_which_a_stream_comes(size, blocks, seed):
    data = noise(seed, size)
    for cut in ("content", "pages"):
        whole = cut_in_blocks(cut, data, [])
        assert sum(whole) == size
        assert cut_in_blocks(cut, data, blocks) == whole
    assert all(length <= MOST for length in whole)
    assert set(cut_in_blocks("pages", data, blocks)[:-1]) <= {PAGE}
    assert all(LEAST <= length <= MOST for length in cut_in_blocks("content", data, blocks)[:-1])


def test_content_that_moved_is_cut_at_the_same_places_again():
    data = noise("text", 2 << 20)

    def pieces(content: bytes) -> set[bytes]:
        at, found = 0, set()
        for length in cut_in_blocks("content", content, []):
            found.add(content[at : at + length])
            at += length
        return found

    shifted = pieces(b"something before" + data)
    assert sum(map(len, shifted & pieces(data))) > 0.9 * len(data)


def test_where_a_stream_is_cut_is_a_secret_of_the_vault():
    from dataclasses import replace

    data = noise("text", 1 << 20)
    other = replace(RING, writer=b"o" * 32)
    assert cutter("content", RING).cut(data, final=True) != cutter("content", other).cut(data, final=True)


# The table of pieces

few_ids = st.integers(0, 60).map(lambda n: (n % 7).to_bytes(8, "little") + n.to_bytes(8, "little"))


@given(st.lists(st.tuples(st.sampled_from("ala"), st.lists(st.tuples(few_ids, st.integers(0, 1 << 47)), max_size=30))))
def test_the_piece_table_finds_what_a_dict_finds(steps):
    """Ids with equal first halves, loads and single pieces mixed, runs spilled and merged; of what is loaded twice the later counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PieceTable, "_SPILL", 5)
        table, model = PieceTable(), {}
        for kind, pairs in steps:
            # Each piece is added only where the table does not know it, as the writer does.
            fresh = {
                piece: location
                for piece, location in pairs
                if table.find([piece]) == [-1] or (kind == "l" and table.find_recent([piece]) == [-1])
            }
            model |= fresh
            if kind == "l":
                table.load(b"".join(fresh), np.array(list(fresh.values()), "<u8"))
            else:
                assert table.find_recent(fresh) == [-1] * len(fresh)
                table.add(fresh)
                assert table.find_recent(fresh) == list(fresh.values())
                table.spill()
            every = [n.to_bytes(8, "little") + m.to_bytes(8, "little") for m in range(61) for n in {m % 7, 1}]
            assert table.find(every) == [model.get(piece, -1) for piece in every]
            assert len(table) >= len(model)
        assert table.find([]) == []


def test_the_piece_table_keeps_few_runs_and_little_memory():
    table, ids = PieceTable(), random.Random(1).randbytes(16 * 300_000)
    for at in range(0, len(ids), 16 * 1000):
        part = ids[at : at + 16 * 1000]
        table.load(part, np.arange(at // 16, at // 16 + len(part) // 16, dtype="<u8"))
    assert len(table._runs) < 12
    assert sum(column.nbytes for run in table._runs for column in run) == 24 * 300_000
    wanted = [ids[16 * n : 16 * n + 16] for n in range(0, 300_000, 997)]
    assert table.find(wanted) == list(range(0, 300_000, 997))


# Reading back

PARTS = [noise(n, size) for n, size in enumerate((0, 1, 5000, 8192, 40_000, 100_000, 300_000))] + [b"\0" * 200_000]
segments = st.lists(st.tuples(st.integers(0, len(PARTS) - 1), st.sampled_from(["", "boundary", "take"])), max_size=8)


@settings(max_examples=15)
@given(
    st.dictionaries(st.sampled_from("abc"), st.tuples(segments, st.sampled_from(["content", "pages"])), min_size=1),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6),
    st.integers(997, 300_000),
)
def test_any_range_of_any_stream_is_what_was_written(streams, ranges, step):
    store = new_store()
    for round_ in range(2):  # the second backup finds everything in the first
        vault = open_vault(store)
        content: dict[str, bytes] = {}
        with begin(vault, at=START + round_ * HOUR) as session:
            sink = session.sink("app")
            for name, (parts, cut) in streams.items():
                stream = sink.stream(name, cut)
                data = b""
                for part, after in parts:
                    for at in range(0, len(PARTS[part]), step):
                        stream.write(memoryview(PARTS[part])[at : at + step])
                    data += PARTS[part]
                    assert stream.position == len(data)
                    if after == "boundary":
                        stream.boundary()
                    elif after == "take":
                        stream.take_ids()
                stream.close()
                content[name] = data
            session.done("app", {})
            backup = commit(session)
            if round_:
                assert session.desk.new == 0
        reader = vault.read(backup).streams("app")
        assert reader.names() == list(streams)
        for name, data in content.items():
            assert reader.size(name) == len(data)
            assert b"".join(reader.read(name)) == data
            for a, b in ranges:
                start, stop = sorted((round(a * len(data)), round(b * len(data))))
                assert b"".join(reader.read(name, start, stop - start)) == data[start:stop]
                assert b"".join(reader.read(name, start)) == data[start:]


def test_ranges_that_a_stream_does_not_have_are_refused():
    vault = open_vault(new_store())
    reader = vault.read(back_up(vault, b"12345")).streams("app")
    for start, length in ((0, 6), (5, 1), (6, 0), (-1, 2), (3, -1)):
        with pytest.raises(UsageError):
            list(reader.read("dump", start, length))
    with pytest.raises(Damaged):
        list(reader.read("other"))
    assert list(reader.read("dump", 5, 0)) == []


@settings(max_examples=25)
@given(st.lists(st.integers(0, len(PARTS) - 1), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_pieces_that_are_reused_give_the_same_bytes_as_reading_them_again(files, chance):
    store = new_store()
    vault = open_vault(store)
    cache: dict[int, bytes] = {}
    with begin(vault) as session:
        stream = session.sink("files").stream("content")
        for number in files:
            stream.boundary()
            stream.write(PARTS[number])
            cache[number] = stream.take_ids()
        stream.close()
        session.done("files", {})
        commit(session)
    again = [*files, *files]
    chance.shuffle(again)
    with begin(vault, at=START + HOUR) as session:
        sink = session.sink("files")
        stream = sink.stream("content")
        for number in again:
            if chance.random() < 0.4:
                assert stream.reuse(cache[number], len(PARTS[number]))
                assert stream.take_ids() == cache[number]
            elif chance.random() < 0.5:
                held = sink.find(cache[number] + cache[again[0]])
                assert stream.reuse(held.part(0, len(cache[number]) // 20), len(PARTS[number]))
                assert stream.take_ids() == cache[number]
            else:
                stream.write(PARTS[number])
                assert stream.take_ids() == cache[number]
        stream.close()
        session.done("files", {})
        backup = commit(session)
        assert session.desk.new == 0
    assert b"".join(vault.read(backup).streams("files").read("content")) == b"".join(PARTS[n] for n in again)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=40), st.integers(0, 400))
@settings(deadline=None, max_examples=40)
def test_pages_laid_over_others_are_those_pages(turns, ahead):
    """Each turn: how many old pages, then which new one (some the vault has, some it gets twice)."""
    vault = open_vault(new_store())
    old = [bytes([n % 7 + 1]) * PAGE for n in range(200)]
    with begin(vault) as session:
        stream = session.sink("app").stream("pages", "pages")
        stream.write(b"".join(old))
        known = stream.take_ids()
        stream.close()
        session.done("app", {})
        commit(session)
    wanted, places = list(old), []
    at = -1
    for skip, new in turns:
        at += skip + 1
        places.append(at)
        wanted[at] = bytes([new + 5]) * PAGE
    with begin(vault, at=START + HOUR) as session:
        sink = session.sink("app")
        stream = sink.stream("pages", "pages")
        stream.write(bytes(ahead))
        stream.boundary()
        stream.overlay(sink.find(known), places, b"".join(wanted[place] for place in places))
        laid = stream.take_ids()
        stream.write(b"".join(wanted))
        assert stream.take_ids() == laid
        stream.close()
        session.done("app", {})
        backup = commit(session)
    assert b"".join(vault.read(backup).streams("app").read("pages")) == bytes(ahead) + b"".join(wanted) * 2


def test_only_whole_pages_are_laid_over_others():
    with begin(open_vault(new_store())) as session:
        sink = session.sink("app")
        assert sink.find(b"x" * 16 + PAGE.to_bytes(4, "little")) is None  # what the vault lacks is not held
        stream = sink.stream("pages", "pages")
        stream.write(bytes(PAGE + 1))
        stream.boundary()
        stream.write(bytes(PAGE + 1))
        held = sink.find(stream.take_ids())
        for pages, data in ((held.part(0, 1), b"short"), (held.part(1, 2), bytes(PAGE)), (held, bytes(PAGE))):
            with pytest.raises(ValueError, match="whole pages"):
                stream.overlay(pages, [0], data)


def test_scattered_pages_that_are_stored_anew_lie_together_from_then_on():
    store = new_store()
    vault = open_vault(store)
    pages = [noise(n, PAGE) for n in range(256)]
    known = b""
    for round_, step in enumerate((1, 2, 4, 8)):  # each time a part of what was new the last time
        with begin(vault, at=START + round_ * HOUR) as session:
            sink = session.sink("app")
            stream = sink.stream("pages", "pages")
            places = range(0, len(pages), step)
            for place in places:
                pages[place] = noise((round_, place), PAGE)
            if known:
                stream.overlay(sink.find(known), places, b"".join(pages[place] for place in places))
            else:
                stream.write(b"".join(pages))
            known = stream.take_ids()
            stream.close()
            session.done("app", {})
            commit(session)
        tick(store)
    with begin(vault, at=START + 5 * HOUR) as session:
        sink = session.sink("app")
        assert sink.spread(sink.find(known)) == 2.0
        stream = sink.stream("pages", "pages")
        stream.write(pages[0])
        stream.anew(True)
        stream.write(b"".join(pages[1:]))
        stream.write(pages[1])  # twice in one backup: stored once
        stream.anew(False)
        stream.write(pages[2])
        stream.close()
        assert session.desk.new == PAGE * (len(pages) - 1)
        session.done("app", {})
        commit(session)
    tick(store)
    vault = open_vault(store)
    with begin(vault, at=START + 6 * HOUR) as session:
        sink = session.sink("app")
        assert sink.spread(sink.find(known[20:])) == 256 / 255
        stream = sink.stream("pages", "pages")
        assert stream.reuse(known, PAGE * len(pages))
        stream.close()
        assert len(stream.rows) <= 6
        session.done("app", {})
        last = commit(session)
    assert troubles(vault) == []
    prune(vault, [backup for backup in vault.backups() if backup.id != last.id])
    prune(vault)
    assert b"".join(vault.read(last).streams("app").read("pages")) == b"".join(pages)
    assert troubles(vault) == []


def test_pieces_are_not_reused_where_the_vault_lacks_one_or_the_cache_is_spoilt():
    store = new_store()
    vault = open_vault(store)
    with begin(vault) as session:
        stream = session.sink("files").stream("content")
        stream.write(PARTS[5])
        ids = stream.take_ids()
        stream.close()
        session.done("files", {})
        old = commit(session)
    with begin(vault, at=START + HOUR) as session:
        stream = session.sink("files").stream("content")
        stream.write(b"before")
        for spoilt, size in (
            (ids, len(PARTS[5]) - 1),
            (ids[:-1], len(PARTS[5])),
            (ids[20:], len(PARTS[5])),
            (b"x" * 16 + ids[16:], len(PARTS[5])),
            (b"", len(PARTS[5])),
        ):
            assert not stream.reuse(spoilt, size)
        assert stream.reuse(b"", 0)
        assert stream.position == 6
        stream.close()
        session.done("files", {})
        assert b"".join(vault.read(commit(session)).streams("files").read("content")) == b"before"
    tick(store)
    prune(vault, [old])
    with begin(vault, at=START + 2 * HOUR) as session:
        assert not session.sink("files").stream("content").reuse(ids, len(PARTS[5]))


def test_ids_of_a_huge_file_are_not_kept_and_then_not_reused(monkeypatch):
    monkeypatch.setattr(writer, "_MOST_TOKENS", 40)
    with begin(open_vault(new_store())) as session:
        stream = session.sink("files").stream("content")
        stream.write(PARTS[6])
        assert stream.take_ids() == b""
        stream.write(b"small")
        assert len(stream.take_ids()) == 20
        assert not stream.reuse(b"", len(PARTS[6]))


def test_a_failed_sources_pieces_serve_the_others_and_its_streams_are_left_out():
    store = new_store()
    vault = open_vault(store)
    with begin(vault) as session:
        broken = session.sink("broken").stream("dump")
        broken.write(PARTS[6])
        broken.boundary()
        stream = session.sink("app").stream("dump")
        stream.write(PARTS[6])
        stream.close()
        session.failed("broken", "the server went away")
        session.done("app", {"rows": 1})
        backup = commit(session)
        assert session.desk.new == len(PARTS[6])
    assert backup.status == "incomplete"
    reader = vault.read(backup)
    assert reader.sources["broken"] == {"status": "failed", "error": "the server went away", "facts": {}}
    assert reader.facts("app") == {"rows": 1}
    assert reader.streams("broken").names() == []
    assert b"".join(reader.streams("app").read("dump")) == PARTS[6]


def test_many_indexes_are_written_while_a_backup_runs_and_all_are_used(monkeypatch):
    from keepwell.vault import session as sessions

    monkeypatch.setattr(sessions, "MOST_PIECES", 4)
    store = new_store()
    vault = open_vault(store)
    with begin(vault) as session:
        stream = session.sink("app").stream("dump")
        for n in range(8):
            stream.write(noise(("long", n), 1 << 20))
        stream.close()
        session.done("app", {})
        commit(session)
    assert sum(name.startswith("index/") for name in store.objects) > 1
    before = packs(store)
    with begin(vault, at=START + HOUR) as session:
        stream = session.sink("app").stream("dump")
        for n in range(8):
            stream.write(noise(("long", n), 1 << 20))
        stream.close()
        session.done("app", {})
        commit(session)
    assert packs(store) == before
    assert index.MOST_PIECES > 4


def test_a_reader_that_lives_long_follows_frames_that_prunes_move_again_and_again():
    """A dashboard opens the vault once; every prune gives the frames another pack."""
    store = new_store()
    shared, now = noise("s", 600_000), START
    vault = open_vault(store)

    def two(n: int):
        with begin(vault, at=START + n * HOUR) as session:
            stream = session.sink("app").stream("dump")
            stream.write(shared)
            stream.boundary()
            stream.write(noise(("other", n), 1_200_000))
            stream.close()
            session.done("app", {})
            return commit(session)

    first = two(0)
    with begin(vault, at=START + HOUR) as session:
        stream = session.sink("app").stream("dump")
        stream.write(shared)
        stream.close()
        session.done("app", {})
        kept = commit(session)
    old = open_vault(store)
    reader = old.read(kept).streams("app")
    assert b"".join(reader.read("dump")) == shared
    prune(open_vault(store), [first])
    assert b"".join(reader.read("dump")) == shared
    # The pack that the frames were moved to is moved once more, by hand: prunes need a reason to.
    from keepwell.vault import inventory
    from keepwell.vault import prune as pruning

    for _ in range(2):
        mine = open_vault(store)
        known, _unindexed = inventory.entries(mine, inventory.packs(store))
        before = packs(store)
        pruning._write_index(
            mine, pruning._move(mine, [(e, list(range(len(e.number)))) for e in known.values()], print)
        )
        for name in before:
            store.delete(name)
        assert b"".join(reader.read("dump")) == shared
    assert now == START


@given(st.lists(st.integers(0, 40), min_size=1, max_size=80), st.integers(0, 9))
def test_scattered_reading_gives_every_byte_once(numbers, seed):
    """Pages that repeat, and pages that an earlier backup stored in another order."""
    pages = [noise((seed, n), PAGE) if n else bytes(PAGE) for n in range(41)]
    vault = open_vault(new_store())
    back_up(vault, {"app": {"old": b"".join(reversed(pages[::2]))}}, at=START)
    data = b"".join(pages[n] for n in numbers)
    with begin(vault, at=START + HOUR) as session:
        stream = session.sink("app").stream("pages", "pages")
        stream.write(data)
        stream.close()
        session.done("app", {})
        kept = commit(session)
    found = bytearray(len(data))
    given_bytes, lock = [], threading.Lock()

    def put(parts):
        with lock:
            for at, part in parts:
                found[at : at + len(part)] = part
                given_bytes.append(len(part))

    vault.read(kept).streams("app").scatter("pages", put)
    assert found == data
    assert sum(given_bytes) == len(data)


def test_what_goes_wrong_with_scattered_bytes_is_told_to_who_asked_for_them():
    vault = open_vault(new_store())
    kept = back_up(vault, {"app": {"dump": noise("much", 48 << 20)}})
    began, calls = threading.Barrier(2, timeout=60), itertools.count()

    def put(parts):
        if next(calls) < 2:
            began.wait()  # two at the same time
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        vault.read(kept).streams("app").scatter("dump", put)
    assert next(calls) < 10  # of twelve: those that were under way already


def test_a_source_can_ask_whether_all_pieces_are_known_before_it_relies_on_them():
    vault = open_vault(new_store())
    with begin(vault) as session:
        sink = session.sink("app")
        stream = sink.stream("pages", "pages")
        stream.write(noise(1, 3 * PAGE))
        known = stream.take_ids()
        stream.close()
        assert len(sink.find(known)) == len(known) // 20
        assert len(sink.find(b"")) == 0
        assert sink.find(known + noise(2, 20)) is None
        assert sink.find(known[:-1]) is None


@pytest.mark.parametrize("way", ["read", "scatter"])
def test_a_reader_asks_for_the_next_bytes_while_the_first_are_on_their_way(way):
    """A store that answers only when three want something: as one that is far away, where one after the other would take for ever."""
    store = new_store()
    data = noise("far", 14 << 20)
    kept = back_up(open_vault(store), {"app": {"dump": data}})
    vault = open_vault(store)
    together, fetched = threading.Barrier(3, timeout=60), itertools.count()
    real = store.get_range

    def get_range(name, start, length):
        if length > 1 << 19 and next(fetched) < 3:
            together.wait()
        return real(name, start, length)

    store.get_range = get_range
    streams = vault.read(kept).streams("app", jobs=1)
    found = bytearray(len(data))
    if way == "read":
        found = b"".join(streams.read("dump"))
    else:

        def put(parts):
            for at, part in parts:
                found[at : at + len(part)] = part

        streams.scatter("dump", put)
    assert found == data
    assert next(fetched) >= 6
