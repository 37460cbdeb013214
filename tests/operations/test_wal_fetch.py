"""`wal fetch`: a segment, or the genuine end of the log, or an error that nobody can mistake for it."""

import struct
from pathlib import Path

import pytest

from keepwell.core import walnote
from keepwell.core.errors import Damaged, KeyCannotRead, SourceError, StoreError, UsageError
from keepwell.core.wal import segment_name
from keepwell.keys import slots
from keepwell.operations import wal_fetch
from keepwell.operations.wal_fetch import FetchRequest, WalGap, fetch
from keepwell.stores.faulty import FaultyStore
from support import wallog, workplace

SIZE = 1 << 20
NAMES = wallog.names(0, 40)
SOURCE = """
[environments.production.sources.db]
type = "postgres"
method = "physical"
url = { env = "KEEPWELL_TEST_URL" }
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    place = workplace.make(tmp_path / "work", more=SOURCE)
    monkeypatch.setattr(place.clock, "monotonic", lambda: place.clock.now().timestamp())
    wallog.Cluster(tmp_path / "data")
    monkeypatch.chdir(tmp_path / "data")
    return place


def archive(place, system=wallog.SYSTEM):
    return place.vault().wal("production", "db", system)


def store(place, number, *, timeline=1, start=0, end=SIZE):
    name = segment_name(timeline, number * SIZE, SIZE)
    data = wallog.segment(name)[start:end]
    archive(place).put(timeline, number * SIZE + start, data, segment_size=SIZE, time=place.clock.now())


def history(place, text="1\t0/580000\tpromoted\n", name="00000002.history"):
    archive(place).put_file(name, text.encode(), time=place.clock.now())


@pytest.fixture
def run(place, tmp_path):
    def run(name, **more):
        target = tmp_path / "data" / "pg_wal" / "RECOVERYXLOG"
        target.unlink(missing_ok=True)
        result = fetch(place.loaded, FetchRequest(name, target, **more), place.context())
        assert target.exists() == result.found
        return result, target.read_bytes() if result.found else None

    return run


def test_a_segment_comes_back(place, run):
    store(place, 5)
    result, data = run(NAMES[5])
    assert data == wallog.segment(NAMES[5])
    assert (result.bytes, result.log) == (SIZE, SIZE)


def test_the_segment_in_which_the_log_ends_is_filled_up(place, run):
    store(place, 4)
    store(place, 5, end=1000)
    store(place, 5, start=1000, end=70000)
    result, data = run(NAMES[5])
    assert data == wallog.segment(NAMES[5])[:70000] + bytes(SIZE - 70000)
    assert result.log == 70000


def test_behind_the_end_of_the_log_nothing_is_found(place, run):
    store(place, 5)
    assert not run(NAMES[6])[0].found
    assert not run(NAMES[39])[0].found


def test_a_segment_that_is_missing_before_others_is_a_gap(place, run):
    store(place, 4)
    store(place, 6)
    with pytest.raises(WalGap, match="missing from 0/500000 to 0/600000"):
        run(NAMES[5])


def test_a_segment_that_comes_after_the_one_behind_it_is_waited_for(place, run, monkeypatch):
    """Whoever stores segments side by side stores them in any order."""
    store(place, 4)
    store(place, 6)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            store(place, 5)

    monkeypatch.setattr(place.clock, "sleep", sleep)
    assert run(NAMES[5])[1] == wallog.segment(NAMES[5])
    assert len(slept) == 3


def test_a_hole_inside_a_segment_is_a_gap(place, run):
    store(place, 5, end=1000)
    store(place, 5, start=2000)
    with pytest.raises(WalGap, match="missing from 0/5003E8 to 0/5007D0"):
        run(NAMES[5])


def test_a_segment_with_its_end_missing_before_others_is_a_gap(place, run):
    store(place, 5, end=1000)
    store(place, 6)
    with pytest.raises(WalGap):
        run(NAMES[5])


def test_the_backup_s_own_segments_are_taken_from_the_cluster(place, run, tmp_path):
    store(place, 6)
    (tmp_path / "data" / "pg_wal" / NAMES[5]).write_bytes(bytes(SIZE))
    assert not run(NAMES[5])[0].found
    (tmp_path / "data" / "pg_wal" / NAMES[5]).write_bytes(bytes(SIZE - 1))
    with pytest.raises(WalGap):
        run(NAMES[5])


def test_log_that_ends_before_its_timeline_was_left_is_a_gap(place, run):
    """The history says that timeline 1 went on to 0/580000."""
    store(place, 4)
    history(place)
    with pytest.raises(WalGap, match="missing from 0/500000 to 0/580000"):
        run(NAMES[5])
    store(place, 5, end=1000)
    with pytest.raises(WalGap, match="from 0/5003E8 to 0/580000"):
        run(NAMES[5])
    store(place, 5, end=0x80000)
    assert run(NAMES[5])[0].log == 0x80000
    assert not run(NAMES[6])[0].found


def test_the_partial_segment_of_a_promotion_serves_where_there_is_nothing_else(place, run):
    store(place, 4)
    history(place)
    data = wallog.segment(NAMES[5])
    archive(place).put_file(f"{NAMES[5]}.partial", data, time=place.clock.now())
    assert run(NAMES[5])[1] == data


def test_histories_are_found_and_their_absence_is_an_answer(place, run):
    store(place, 5)
    history(place)
    assert run("00000002.history")[1] == b"1\t0/580000\tpromoted\n"
    assert not run("00000003.history")[0].found
    assert not run("00000001.history")[0].found


def test_log_whose_history_is_missing_is_no_end(place, run):
    store(place, 5)
    store(place, 5, timeline=2)
    with pytest.raises(WalGap, match="not its history"):
        run("00000002.history")


def test_a_cluster_that_the_vault_does_not_know_is_an_error(place, run, tmp_path):
    with pytest.raises(SourceError, match="no log of this source at all"):
        run(NAMES[5])
    store(place, 5)
    (tmp_path / "data" / "global" / "pg_control").write_bytes(struct.pack("=Q", 42) + bytes(100))
    with pytest.raises(SourceError, match="no log of cluster 42"):
        run(NAMES[5])
    assert run(NAMES[5], system=wallog.SYSTEM)[0].found


def test_without_a_cluster_here_the_only_one_is_meant(place, run, tmp_path):
    store(place, 5)
    (tmp_path / "data" / "global" / "pg_control").unlink()
    assert run(NAMES[5])[0].found
    archive(place, "42").put(1, SIZE, b"x", segment_size=SIZE, time=place.clock.now())
    with pytest.raises(UsageError, match="several clusters"):
        run(NAMES[5])


def test_damage_is_an_error(place, run):
    store(place, 5)
    (name,) = place.objects("wal/")
    path = place.folder / "vault" / name
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 1
    path.chmod(0o600)
    path.write_bytes(raw)
    with pytest.raises(Damaged):
        run(NAMES[5])


@pytest.mark.parametrize("number", range(1, 5))
def test_a_store_that_fails_is_an_error_at_whatever_call(place, run, monkeypatch, number):
    store(place, 5)

    def broken(loaded):
        vault = place.vault()
        vault.store = FaultyStore(vault.store, {number: "before"})
        return vault

    monkeypatch.setattr(wal_fetch, "open_vault", broken)
    with pytest.raises(StoreError):
        run(NAMES[5])


def test_a_writer_key_is_an_error(place, run, tmp_path):
    store(place, 5)
    place.vault().add_slot(tmp_path / "w.key", role="writer", label="w", now=place.clock.now())
    assert slots.read_key_file(tmp_path / "w.key")
    place.policy_key(tmp_path / "w.key")
    with pytest.raises(KeyCannotRead):
        run(NAMES[5])


def test_a_target_that_cannot_be_written_is_an_error(place, tmp_path):
    store(place, 5)
    with pytest.raises(SourceError, match="cannot be written"):
        fetch(place.loaded, FetchRequest(NAMES[5], tmp_path / "none" / "x"), place.context())


def test_a_name_that_is_none_is_a_mistake(place, run):
    with pytest.raises(UsageError):
        run("pg_control")


class TestAhead:
    """Further segments lie ready for the next calls of the same caller."""

    @pytest.fixture
    def args(self, place):
        return ["%f", "pg_wal/RECOVERYXLOG", "--policy", str(place.folder / "keepwell.toml")]

    def call(self, run, args, name):
        """As the program does it: what lies ready, else the operation. True where it lay ready."""
        mine = [name, *args[1:]]
        if walnote.fetched(mine):
            return True
        found = walnote.caller_of(mine)
        assert run(name, caller=tuple(found[0]))[0].found
        return False

    def lying(self, args):
        found = walnote.caller_of([NAMES[5], *args[1:]])
        return sorted(walnote.read(walnote.folder("fetch", found[0]), found[0]))

    def test_all_come_back_in_order_and_more_and_more_lie_ready(self, place, run, args, tmp_path):
        for number in range(5, 30):
            store(place, number)
        slow = []
        for number in range(5, 30):
            target = tmp_path / "data" / "pg_wal" / "RECOVERYXLOG"
            if not self.call(run, args, NAMES[number]):
                slow.append(number)
            assert target.read_bytes() == wallog.segment(NAMES[number])
        assert slow == [5, 8, 13, 22]

    def test_the_end_of_the_log_is_never_ahead(self, place, run, args):
        store(place, 5)
        store(place, 6)
        store(place, 7, end=500)
        assert not self.call(run, args, NAMES[5])
        assert self.lying(args) == [NAMES[6]]
        assert self.call(run, args, NAMES[6])
        store(place, 7, start=500)
        assert not self.call(run, args, NAMES[7])

    def test_a_gap_is_not_passed_over(self, place, run, args):
        for number in (5, 6, 8):
            store(place, number)
        self.call(run, args, NAMES[5])
        assert self.lying(args) == [NAMES[6]]

    def test_what_was_changed_is_not_used(self, place, run, args):
        for number in range(5, 9):
            store(place, number)
        self.call(run, args, NAMES[5])
        found = walnote.caller_of([NAMES[5], *args[1:]])
        folder = walnote.folder("fetch", found[0])
        with Path(folder, NAMES[6]).open("ab") as file:
            file.write(b"x")
        assert not self.call(run, args, NAMES[6])

    def test_what_was_not_asked_for_goes(self, place, run, args, tmp_path):
        for number in range(5, 12):
            store(place, number)
        self.call(run, args, NAMES[5])
        self.call(run, args, NAMES[9])
        found = walnote.caller_of([NAMES[5], *args[1:]])
        folder = walnote.folder("fetch", found[0])
        assert sorted(path.name for path in Path(folder).iterdir()) == [*self.lying(args), "done"]
        assert NAMES[6] not in self.lying(args)

    def test_trouble_ahead_is_trouble_only_when_its_turn_comes(self, place, run, args):
        store(place, 5)
        store(place, 6)
        bad = next(name for name in place.objects("wal/") if NAMES[6] in name)
        path = place.folder / "vault" / bad
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1])
        found = walnote.caller_of([NAMES[5], *args[1:]])
        result, _ = run(NAMES[5], caller=tuple(found[0]))
        assert result.found
        assert result.ahead == []
        assert "not brought ahead" in result.remarks[0]
        with pytest.raises(Damaged):
            run(NAMES[6], caller=tuple(found[0]))
