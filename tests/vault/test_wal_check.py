"""`check` and the log: what is damaged, missing or contradicts itself is found, with the name of the object."""

import pytest
from test_wal_archive import BASE, HISTORY, SIZE, SYSTEM, archive, log, names, put
from vaultkit import START, back_up, begin, check, commit, new_store, open_vault, tick

from keepwell.core.clock import iso
from keepwell.core.wal import show_lsn
from keepwell.keys import slots


@pytest.fixture
def store():
    store = new_store()
    for number in range(3):
        put(archive(store), BASE + number * SIZE, log(BASE + number * SIZE))
    return store


def problems(store, **more):
    return [(f.what, f.problem) for f in check(open_vault(store), **more).findings]


def change(store, name, edit):
    raw = bytearray(store.objects[name][0])
    edit(raw)
    store.objects[name] = (bytes(raw), START)


def physical(store, position, *, timeline=1):
    """A backup whose metadata says where in the log it ended."""
    with begin(open_vault(store), at=store.clock.now()) as session:
        stream = session.sink("app").stream("content")
        stream.write(b"x")
        stream.close()
        wal = {"system": SYSTEM, "timeline": timeline, "start": show_lsn(position - 100), "stop": show_lsn(position)}
        session.done("app", {"type": "physical", "bytes": 1, "wal": wal | {"time": iso(START)}})
        return commit(session)


def test_whole_log_has_no_findings_and_counts_as_read(store):
    back_up(open_vault(store), b"some data")
    archive(store).put_file("00000002.history", HISTORY, time=START)
    put(archive(store), BASE + 100, log(BASE + 100, 500))
    report = check(open_vault(store))
    assert report.findings == []
    assert report.bytes_read > 3 * SIZE
    assert check(open_vault(store), data=False).findings == []


@pytest.mark.parametrize("data", [True, False])
def test_what_is_cut_or_altered_at_its_beginning_is_found_at_once(store, data):
    one, two, three = names(store)
    change(store, one, lambda raw: raw.pop())
    change(store, two, lambda raw: raw.__setitem__(60, raw[60] ^ 1))
    store.objects[three] = (b"", START)
    assert {what for what, _ in problems(store, data=data)} == {one, two, three}


def test_a_flipped_byte_inside_is_found_by_reading(store):
    (one, *_) = names(store)
    change(store, one, lambda raw: raw.__setitem__(-1000, raw[-1000] ^ 1))
    assert problems(store, data=False) == []
    ((what, problem),) = problems(store, data=True)
    assert what == one
    assert "does not authenticate" in problem


def test_shares_read_all_of_the_log_in_turn(store):
    for name in names(store):
        change(store, name, lambda raw: raw.__setitem__(-1000, raw[-1000] ^ 1))
    found = set()
    for _ in range(4):
        found |= {what for what, _ in problems(store, data=False, share=4)}
        tick(store)
    assert found == set(names(store))


def test_parts_that_contradict_each_other_are_found(store, monkeypatch):
    wal = archive(store)
    monkeypatch.setattr(type(wal), "_same", lambda *_: True)
    put(wal, BASE + 100, log(BASE + 100, 500, seed=9))
    ((what, problem),) = problems(store)
    assert what.endswith(f"{BASE + 100:016X}-{BASE + 600:016X}")
    assert "holds other log" in problem


def test_a_timeline_without_its_history_is_found(store):
    put(archive(store), BASE + 3 * SIZE, log(BASE, 100), timeline=2)
    ((what, problem),) = problems(store)
    assert what.endswith("files/00000002.history")
    assert "cannot be followed" in problem


def test_a_gap_behind_the_newest_backup_is_found_and_one_that_a_backup_leads_over_is_noted(store):
    physical(store, BASE + 500)
    store.delete(names(store)[1])
    ((what, problem),) = problems(store)
    assert what == f"wal/production/app/{SYSTEM}/"
    assert "missing from 0/400000 to 0/500000" in problem
    physical(store, BASE + 2 * SIZE + 500)
    report = check(open_vault(store))
    assert report.findings == []
    assert any("missing from 0/400000" in note for note in report.notes)


def test_a_gap_before_every_backup_is_nothing(store):
    store.delete(names(store)[1])
    physical(store, BASE + 2 * SIZE + 500)
    report = check(open_vault(store))
    assert (report.findings, report.notes) == ([], [])


def test_a_damaged_segment_counts_as_missing(store):
    physical(store, BASE + 500)
    change(store, names(store)[1], lambda raw: raw.pop())
    assert {what for what, _ in problems(store, data=False)} == {names(store)[1], f"wal/production/app/{SYSTEM}/"}


def test_a_writer_looks_at_the_heads(store, tmp_path):
    open_vault(store).add_slot(tmp_path / "w.key", role="writer", label="w", now=START)
    key = slots.read_key_file(tmp_path / "w.key")
    change(store, names(store)[0], lambda raw: raw.pop())
    change(store, names(store)[1], lambda raw: raw.__setitem__(-1000, raw[-1000] ^ 1))
    found = check(open_vault(store, key=key)).findings
    assert [f.what for f in found] == [names(store)[0]]


def test_strangers_are_named(store):
    store.put("wal/x", b"")
    store.put(f"wal/production/app/{SYSTEM}/00000001/y", b"")
    assert [n for n in check(open_vault(store)).notes if "not keepwell's" in n] == [
        "wal/x is not keepwell's",
        f"wal/production/app/{SYSTEM}/00000001/y is not keepwell's",
    ]
