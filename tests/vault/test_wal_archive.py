"""The log in the vault: what is put comes back, only whole, only as it was, and only to a reader."""

import pytest
from vaultkit import START, new_store, noise, open_vault, reader_key, tick

from keepwell.core.errors import Damaged, KeyCannotRead, ObjectMissing, StoreError
from keepwell.core.wal import segment_name
from keepwell.stores.faulty import Crash, FaultyStore
from keepwell.vault.vault import Vault
from keepwell.vault.wal import WalConflict, WalMissing

SIZE = 1 << 20
SYSTEM = "7301234567890123456"
BASE = 3 * SIZE
HISTORY = b"1\t0/380000\tno recovery target specified\n"


def archive(store, key=None):
    return open_vault(store, key=key).wal("production", "app", SYSTEM)


def put(wal, start, data, timeline=1):
    return wal.put(timeline, start, data, segment_size=SIZE, time=START)


def log(start=BASE, length=SIZE, seed=1):
    """The same bytes at the same positions, whatever range is asked for."""
    first = start // SIZE
    whole = b"".join(noise((seed, n), SIZE) for n in range(first, (start + length - 1) // SIZE + 1))
    return whole[start - first * SIZE :][:length]


@pytest.fixture
def store():
    return new_store()


def names(store):
    return sorted(name for name in store.objects if name.startswith("wal/"))


def test_a_segment_comes_back_whole_and_in_part(store):
    assert put(archive(store), BASE, log())
    wal = archive(store)
    assert wal.read(1, BASE, SIZE) == log()
    assert wal.read(1, BASE + 12345, 4321) == log(BASE + 12345, 4321)
    (name,) = names(store)
    assert name == f"wal/production/app/{SYSTEM}/00000001/{segment_name(1, BASE, SIZE)}/{BASE:016X}-{BASE + SIZE:016X}"


def test_text_is_compressed_and_noise_does_not_grow(store):
    wal = archive(store)
    put(wal, BASE, b"all the same " * 1000)
    put(wal, BASE + SIZE, log())
    text, dense = (len(store.objects[name][0]) for name in names(store))
    assert text < 3000
    assert dense < SIZE + 3000


def test_frames_of_a_large_segment_are_read_one_by_one(store):
    size = 16 << 20
    data = noise("large", 5 << 20)
    wal = archive(store)
    wal.put(1, 2 * size, data, segment_size=size, time=START)
    seen = FaultyStore(store)
    wal = Vault.open(seen, reader_key()).wal("production", "app", SYSTEM)
    assert wal.read(1, 2 * size + (3 << 20) - 10, 20) == data[(3 << 20) - 10 :][:20]
    lengths = [name for verb, name in seen.calls if verb == "get" and name.startswith("wal/")]
    assert lengths == []


def test_nothing_is_left_readable(store):
    put(archive(store), BASE, b"the secret of the day " * 20)
    archive(store).put_file("00000002.history", HISTORY, time=START)
    assert not any(b"secret of" in raw or b"recovery target" in raw for raw, _ in store.objects.values())


def test_parts_are_put_together(store):
    wal = archive(store)
    for start, end in ((0, 100), (100, 5000), (4000, 9000), (9000, SIZE)):
        put(wal, BASE + start, log(BASE + start, end - start))
    put(wal, BASE + SIZE, log(BASE + SIZE, 50))
    assert wal.read(1, BASE, SIZE + 50) == log(BASE, SIZE + 50)
    assert wal.coverage().spans(1) == [(BASE, BASE + SIZE + 50)]


def test_missing_log_is_named_by_its_first_position(store):
    wal = archive(store)
    put(wal, BASE, log(BASE, 1000))
    put(wal, BASE + 2000, log(BASE + 2000, 1000))
    with pytest.raises(WalMissing, match="from 0/3003E8 on") as error:
        wal.read(1, BASE, 3000)
    assert error.value.position == BASE + 1000
    with pytest.raises(WalMissing):
        wal.read(2, BASE, 10)


def test_what_comes_later_is_seen_by_a_reader_that_looked_before(store):
    wal = archive(store)
    put(wal, BASE, log(BASE, 1000))
    assert wal.read(1, BASE, 1000) == log(BASE, 1000)
    put(archive(store), BASE + 1000, log(BASE + 1000, 1000))
    assert wal.read(1, BASE, 2000) == log(BASE, 2000)


def test_the_same_bytes_again_are_no_news(store):
    wal = archive(store)
    assert put(wal, BASE, log())
    before = dict(store.objects)
    assert not put(archive(store), BASE, log())
    assert store.objects == before


def test_other_bytes_under_the_same_name_are_refused(store):
    put(archive(store), BASE, log())
    with pytest.raises(WalConflict, match="other log"):
        put(archive(store), BASE, log(seed=2))
    assert archive(store).read(1, BASE, SIZE) == log()


def test_a_segment_that_contradicts_a_part_of_it_is_refused(store):
    wal = archive(store)
    put(wal, BASE + 100, log(BASE + 100, 200))
    changed = bytearray(log())
    changed[250] ^= 1
    with pytest.raises(WalConflict):
        put(wal, BASE, bytes(changed))
    assert put(wal, BASE, log())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(store, kind):
    wal = archive(store)
    assert put(wal, BASE, kind(log(BASE, 500)))
    assert not put(wal, BASE, kind(log(BASE, 500)))


@pytest.mark.parametrize(("start", "length"), [(BASE, 0), (BASE + 1, SIZE), (BASE - 1, 2)])
def test_what_does_not_lie_in_one_segment_is_a_mistake(store, start, length):
    with pytest.raises(ValueError, match="one segment"):
        put(archive(store), start, bytes(length))


def test_a_writer_puts_and_cannot_read(store, tmp_path):
    open_vault(store).add_slot(tmp_path / "w.key", role="writer", label="w", now=START)
    from keepwell.keys import slots

    key = slots.read_key_file(tmp_path / "w.key")
    wal = archive(store, key)
    assert put(wal, BASE, log())
    assert not put(wal, BASE, log())
    with pytest.raises(WalConflict):
        put(wal, BASE, log(seed=2))
    assert wal.put_file("00000002.history", HISTORY, time=START)
    assert wal.coverage().spans(1) == [(BASE, BASE + SIZE)]
    with pytest.raises(KeyCannotRead):
        wal.read(1, BASE, 10)
    with pytest.raises(KeyCannotRead):
        wal.read_file("00000002.history")
    assert archive(store).read(1, BASE, SIZE) == log()


def test_files_beside_the_log(store):
    wal = archive(store)
    assert wal.put_file("00000002.history", HISTORY, time=START)
    assert not wal.put_file("00000002.history", HISTORY, time=START)
    with pytest.raises(WalConflict):
        wal.put_file("00000002.history", HISTORY + b"x", time=START)
    assert wal.read_file("00000002.history") == HISTORY
    assert wal.files() == ["00000002.history"]
    with pytest.raises(ObjectMissing):
        wal.read_file("00000003.history")
    for name in ("../../vault.json", "history", "00000002.HISTORY", segment_name(1, BASE, SIZE)):
        with pytest.raises(ValueError, match="no file of the log"):
            wal.put_file(name, b"x", time=START)
    assert wal.put_file(segment_name(1, BASE, SIZE) + ".00000028.backup", b"START", time=START)
    assert wal.put_file(segment_name(1, BASE, SIZE) + ".partial", b"", time=START)
    assert wal.read_file(segment_name(1, BASE, SIZE) + ".partial") == b""


@pytest.mark.parametrize(
    "text", [b"nonsense\n", b"2\t0/400000\tx\n1\t0/500000\tx\n", b"1\tzero/zero\tx\n", b"\xff\xfe\x00"]
)
def test_a_history_that_is_none_is_damage_and_there_is_a_way_round(store, text):
    wal = archive(store)
    wal.put_file("00000002.history", text, time=START)
    put(wal, BASE, log(), timeline=2)
    for ask in (lambda found: found.history(2), lambda found: found.histories, lambda found: found.path_to(2, 1, BASE)):
        with pytest.raises(Damaged, match="is no history of a timeline") as refused:
            ask(wal.coverage())
        assert "--timeline current" in refused.value.hint


def test_clusters_and_sources_do_not_mix(store):
    vault = open_vault(store)
    put(vault.wal("production", "app", "1"), BASE, log())
    put(vault.wal("production", "app", "2"), BASE, log(seed=2))
    put(vault.wal("production", "app2", "3"), BASE, log(seed=3))
    assert vault.wal_systems("production", "app") == ["1", "2"]
    assert vault.wal_systems("production", "none") == []
    assert vault.wal("production", "app", "2").read(1, BASE, SIZE) == log(seed=2)
    with pytest.raises(ValueError, match="identifier"):
        vault.wal("production", "app", "../1")


def test_coverage_knows_spans_gaps_and_the_size_of_segments(store):
    wal = archive(store)
    for start in (3, 4, 6):
        put(wal, start * SIZE, log(start * SIZE))
    put(wal, 5 * SIZE, log(5 * SIZE, 100, seed=9), timeline=2)
    found = wal.coverage()
    assert found.timelines() == [1, 2]
    assert found.newest_timeline() == 2
    assert found.spans(1) == [(3 * SIZE, 5 * SIZE), (6 * SIZE, 7 * SIZE)]
    assert found.gaps(1) == [(5 * SIZE, 6 * SIZE)]
    assert found.end(1) == 7 * SIZE
    assert found.end(7) is None
    assert found.segment_size == SIZE
    assert found.has(1, 3 * SIZE + 5, 5 * SIZE)
    assert not found.has(1, 3 * SIZE, 6 * SIZE)


@pytest.mark.parametrize("size", [1 << 20, 16 << 20, 64 << 20, 1 << 30])
@pytest.mark.parametrize("number", [0, 1, 3, 4, 9])
def test_the_size_of_segments_is_found_from_any_part(store, size, number):
    wal = archive(store)
    start = number * size + 8192
    wal.put(1, start, b"x" * 100, segment_size=size, time=START)
    assert wal.segment_size(wal.coverage()) == size


def test_a_path_follows_the_history_to_the_first_gap(store):
    wal = archive(store)
    wal.put_file("00000002.history", HISTORY, time=START)
    put(wal, BASE, log())
    put(wal, BASE, log()[: SIZE // 2] + log(seed=2)[SIZE // 2 :], timeline=2)
    put(wal, BASE + SIZE, log(BASE + SIZE, 10, seed=2), timeline=2)
    found = wal.coverage()
    assert [(f.timeline, f.end) for f in found.histories[2]] == [(1, 0x380000)]
    assert found.path_to(2, 1, BASE + 8) == [(1, BASE + 8, 0x380000), (2, 0x380000, BASE + SIZE + 10)]
    assert found.path_to(1, 1, BASE + 8) == [(1, BASE + 8, BASE + SIZE)]
    with pytest.raises(ValueError, match="does not lead on"):
        found.path_to(2, 1, 0x380001)
    with pytest.raises(ValueError, match="does not lead on"):
        found.path_to(1, 2, BASE)


def test_names_that_are_no_log_are_left_alone(store):
    wal = archive(store)
    put(wal, BASE, log(BASE, 100))
    folder = f"wal/production/app/{SYSTEM}/"
    for name in ("x", "00000001/y", f"00000001/{segment_name(2, BASE, SIZE)}/{0:016X}-{5:016X}"):
        store.put(folder + name, b"")
    assert len(wal.coverage().parts) == 1


@pytest.mark.parametrize("at", range(0, 1400, 97))
def test_every_flipped_byte_is_found(store, at):
    put(archive(store), BASE, b"some log " * 10)
    (name,) = names(store)
    raw = bytearray(store.objects[name][0])
    raw[at % len(raw)] ^= 0x10
    store.objects[name] = (bytes(raw), START)
    with pytest.raises(Damaged, match="wal/"):
        archive(store).read(1, BASE, 90)


def test_every_cut_is_found_and_told_before_the_same_bytes_are_taken_for_stored(store):
    data = log(BASE, 3000)
    put(archive(store), BASE, data)
    (name,) = names(store)
    raw = store.objects[name][0]
    for length in (0, 3, 8, 100, 500, len(raw) - 3000, len(raw) - 1):
        store.objects[name] = (raw[:length], START)
        with pytest.raises(Damaged):
            archive(store).read(1, BASE, 3000)
        with pytest.raises(Damaged) as error:
            put(archive(store), BASE, data)
        assert "delete it" in error.value.hint


def test_an_object_moved_to_another_name_does_not_open(store):
    wal = archive(store)
    put(wal, BASE, log(BASE, 100))
    put(wal, BASE + SIZE, log(BASE + SIZE, 100))
    one, two = names(store)
    store.objects[two] = store.objects[one]
    with pytest.raises(Damaged):
        archive(store).read(1, BASE + SIZE, 100)


def test_a_frame_of_another_object_does_not_open(store):
    wal = archive(store)
    put(wal, BASE, log(BASE, 5000))
    put(wal, BASE + SIZE, log(BASE + SIZE, 5000))
    one, two = names(store)
    store.objects[one] = (store.objects[one][0][:-5000] + store.objects[two][0][-5000:], START)
    with pytest.raises(Damaged, match="authenticate"):
        archive(store).read(1, BASE, 5000)


@pytest.mark.parametrize("fault", ["before", "after", "crash-before", "crash-after"])
def test_whatever_fails_a_retry_stores_it_and_nothing_is_claimed_too_early(fault):
    data = log(BASE, 2000)
    number = 0
    while True:
        number += 1
        store = new_store()
        put(archive(store), BASE + 100, data[100:200])
        faulty = FaultyStore(store)
        wal = archive(faulty)
        faulty.calls.clear()
        faulty.plan = {number: fault}
        try:
            put(wal, BASE, data)
        except (StoreError, Crash):
            store.lose_power()
            put(archive(store), BASE, data)
            store.lose_power()
            assert archive(store).read(1, BASE, 2000) == data
            continue
        store.lose_power()
        assert archive(store).read(1, BASE, 2000) == data
        break
    assert number > 4


@pytest.mark.parametrize("fault", ["before", "after", "crash-before", "crash-after"])
def test_a_failing_store_never_makes_a_reader_see_less(fault):
    store = new_store()
    data = log(BASE, 2000)
    put(archive(store), BASE, data[:1200])
    put(archive(store), BASE + 1000, data[1000:])
    number = 0
    while True:
        number += 1
        faulty = FaultyStore(store)
        wal = archive(faulty)
        faulty.calls.clear()
        faulty.plan = {number: fault}
        try:
            assert wal.read(1, BASE, 2000) == data
        except (StoreError, Crash):
            continue
        break
    assert number > 3


def test_two_writers_of_the_same_segment_agree(store):
    """The other one puts between our look and our put."""

    class Between(FaultyStore):
        def list(self, prefix=""):
            found = super().list(prefix)
            put(archive(self.inner), BASE, log())
            return found

    assert not put(archive(Between(store)), BASE, log())
    with pytest.raises(WalConflict):
        put(archive(Between(store)), BASE, log(seed=2))


def test_a_part_that_a_prune_drops_meanwhile_is_read_from_the_whole_segment(store):
    wal = archive(store)
    put(wal, BASE, log(BASE, 1000))
    wal.coverage()
    put(archive(store), BASE, log())
    store.delete(names(store)[0])
    assert wal.read(1, BASE, 500) == log(BASE, 500)


def test_store_times_are_in_the_coverage(store):
    wal = archive(store)
    tick(store)
    put(wal, BASE, log(BASE, 10))
    assert wal.coverage().parts[0].modified == store.clock.now()
