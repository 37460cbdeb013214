"""`wal push`: what the server has finished goes into the vault once, and nothing else does."""

import dataclasses
import os

import pytest

from keepwell.core import walnote
from keepwell.core.errors import SourceError, StoreError, UsageError
from keepwell.operations import wal_push
from keepwell.operations.wal_push import PushRequest, push
from keepwell.stores.faulty import FaultyStore
from keepwell.vault.wal import WalConflict
from support import wallog, workplace

NAMES = wallog.names(3, 6)
SOURCE = """
[environments.production.sources.db]
type = "postgres"
method = "physical"
url = { env = "KEEPWELL_TEST_URL" }
"""


@pytest.fixture
def place(tmp_path):
    return workplace.make(tmp_path / "work", more=SOURCE)


@pytest.fixture
def cluster(tmp_path):
    return wallog.Cluster(tmp_path / "data")


def archive(place, system=wallog.SYSTEM):
    return place.vault().wal("production", "db", system)


def run(place, path, **more):
    return push(place.loaded, PushRequest(path, **more), place.context())


def caller(*words):
    return ("test", *words)


def test_a_segment_is_in_the_vault_when_push_returns(place, cluster):
    result = run(place, cluster.finish(NAMES[0]))
    assert (result.stored, result.bytes, result.ahead) == (True, 1 << 20, [])
    assert archive(place).read(1, 3 << 20, 1 << 20) == wallog.segment(NAMES[0])


def test_the_same_segment_again_is_no_error_and_other_bytes_are(place, cluster):
    path = cluster.finish(NAMES[0])
    run(place, path)
    assert not run(place, path).stored
    cluster.finish(NAMES[0], seed=2)
    with pytest.raises(WalConflict):
        run(place, path)
    assert archive(place).read(1, 3 << 20, 1 << 20) == wallog.segment(NAMES[0])


def test_what_the_server_has_ready_goes_along(place, cluster):
    paths = [cluster.finish(name) for name in NAMES]
    result = run(place, paths[0], caller=caller())
    assert result.ahead == NAMES[1:]
    assert result.remarks == []
    assert archive(place).coverage().spans(1) == [(3 << 20, 9 << 20)]


def test_what_went_along_is_known_to_the_next_call_of_the_same_caller_only(place, cluster):
    paths = [cluster.finish(name) for name in NAMES]
    run(place, paths[0], caller=caller())
    noted = walnote.read(walnote.folder("push", list(caller())), list(caller()))
    assert list(noted) == NAMES
    assert noted[NAMES[3]] == walnote.state_of(str(paths[3]))
    other = list(caller("--source", "other"))
    assert walnote.folder("push", other) is None or walnote.read(walnote.folder("push", other), other) == {}


def test_nothing_goes_along_where_nobody_would_know(place, cluster):
    paths = [cluster.finish(name) for name in NAMES]
    assert run(place, paths[0]).ahead == []
    assert archive(place).coverage().spans(1) == [(3 << 20, 4 << 20)]


def test_a_history_goes_before_the_log_that_it_explains(place, cluster, monkeypatch):
    first = cluster.finish(NAMES[0])
    (later,) = wallog.names(4, 1, timeline=2)
    cluster.finish(later)
    cluster.finish("00000002.history", b"1\t0/400000\tno recovery target specified\n")
    order = []
    real = wal_push._Pusher.put

    def put(self, path):
        order.append(("begin", path.name))
        found = real(self, path)
        order.append(("end", path.name))
        return found

    monkeypatch.setattr(wal_push._Pusher, "put", put)
    run(place, first, caller=caller())
    assert order.index(("end", "00000002.history")) < order.index(("begin", later))
    assert archive(place).coverage().history(2)[0].end == 0x400000


def test_what_fails_ahead_is_not_claimed_and_does_not_fail_the_call(place, cluster):
    paths = [cluster.finish(name) for name in NAMES]
    run(place, cluster.finish(NAMES[2], seed=2))
    cluster.finish(NAMES[2])
    result = run(place, paths[0], caller=caller())
    assert result.stored
    assert NAMES[2] not in result.ahead
    assert any(NAMES[2] in remark and "other log" in remark for remark in result.remarks)
    noted = walnote.read(walnote.folder("push", list(caller())), list(caller()))
    assert NAMES[2] not in noted
    assert set(noted) == {NAMES[0], *result.ahead}


def test_a_store_that_fails_is_an_error_and_nothing_is_noted(place, cluster, monkeypatch):
    paths = [cluster.finish(name) for name in NAMES]

    def broken(loaded):
        vault = place.vault()
        vault.store = FaultyStore(vault.store, dict.fromkeys(range(1, 200), "before"))
        vault._proved_store = True
        return vault

    monkeypatch.setattr(wal_push, "open_vault", broken)
    with pytest.raises(StoreError):
        run(place, paths[0], caller=caller())
    assert walnote.folder("push", list(caller())) is None


def test_small_files_of_the_log_are_kept_beside_it(place, cluster):
    label = f"{NAMES[0]}.00000028.backup"
    for name, data in (
        ("00000002.history", b"1\t0/400000\tx\n"),
        (label, b"START WAL LOCATION"),
        (f"{NAMES[1]}.partial", b"p" * 999),
    ):
        assert run(place, cluster.finish(name, data)).stored
        assert archive(place).read_file(name) == data


def test_a_cluster_whose_log_is_elsewhere_is_known_by_its_segments(place, cluster):
    (cluster.folder / "global" / "pg_control").unlink()
    cluster.finish(NAMES[0])
    run(place, cluster.finish("00000002.history", b"1\t0/400000\tx\n"))
    assert archive(place).files() == ["00000002.history"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.write_bytes(b""), "empty"),
        (lambda p: p.write_bytes(b"x" * (1 << 20)), "no segment"),
        (lambda p: p.write_bytes(p.read_bytes()[:-1]), "segments of this server have"),
        (lambda p: p.write_bytes(wallog.segment(NAMES[1])), "other log than its name"),
        (lambda p: p.unlink(), "cannot be read"),
    ],
)
def test_what_is_no_finished_segment_is_refused(place, cluster, damage, message):
    path = cluster.finish(NAMES[0])
    damage(path)
    with pytest.raises(SourceError, match=message):
        run(place, path)
    assert place.objects("wal/") == []


def test_the_first_segment_of_a_timeline_may_begin_with_a_page_of_the_old_one(place, cluster):
    (name,) = wallog.names(3, 1, timeline=2)
    assert run(place, cluster.finish(name, wallog.segment(name, timeline=1))).stored
    (wrong,) = wallog.names(4, 1, timeline=2)
    with pytest.raises(SourceError, match="other log"):
        run(place, cluster.finish(wrong, wallog.segment(wrong, timeline=3)))


def test_the_compression_of_the_policy_is_used(place, cluster, monkeypatch):
    from keepwell.core import zstd

    levels = set()
    real = zstd.compress
    monkeypatch.setattr(zstd, "compress", lambda data, level: levels.add(level) or real(data, level))
    run(place, cluster.finish(NAMES[0]))
    policy = place.folder / "keepwell.toml"
    policy.write_text(policy.read_text().replace("[vault]", "[vault]\ncompression = 7"))
    run(place, cluster.finish(NAMES[1]))
    assert levels == {zstd.OWN, 7}


def test_a_name_that_is_none_of_the_log_is_a_mistake(place, cluster):
    with pytest.raises(UsageError, match="not the name"):
        run(place, cluster.folder / "pg_wal" / "archive_status")


def test_large_segments_go_in_parts_and_come_back_whole(place, tmp_path, monkeypatch):
    monkeypatch.setattr(wal_push, "_PART", 1 << 20)
    cluster = wallog.Cluster(tmp_path / "large", size=4 << 20)
    (name,) = wallog.names(2, 1, size=4 << 20)
    assert run(place, cluster.finish(name)).stored
    assert not run(place, cluster.wal / name).stored
    assert len(place.objects("wal/")) == 4
    assert archive(place).read(1, 8 << 20, 4 << 20) == wallog.segment(name, 4 << 20)


def test_the_source_is_found_where_it_is_the_only_one_and_asked_for_where_not(place, cluster):
    path = cluster.finish(NAMES[0])
    with pytest.raises(UsageError, match="no physical source app"):
        run(place, path, source="app")
    place.write_policy(more=SOURCE + SOURCE.replace("sources.db", "sources.db2"))
    with pytest.raises(UsageError, match="which source"):
        run(place, path)
    run(place, path, source="db2")
    assert place.vault().wal_systems("production", "db2") == [wallog.SYSTEM]
    place.write_policy(more=SOURCE.replace("physical", "logical"))
    with pytest.raises(UsageError, match="no physical source"):
        run(place, path)


class TestNotes:
    """What one call leaves for the next: believed only where nothing has changed."""

    @pytest.fixture
    def here(self, place, cluster, monkeypatch):
        monkeypatch.chdir(cluster.folder)
        self.paths = [cluster.finish(name) for name in NAMES]
        self.args = [f"pg_wal/{NAMES[0]}", "--policy", str(place.folder / "keepwell.toml")]
        found = walnote.caller_of(self.args)
        run(place, self.paths[0], caller=tuple(found[0]))
        return place

    def next_args(self, number=1):
        return [f"pg_wal/{NAMES[number]}", *self.args[1:]]

    def test_the_next_segment_is_answered(self, here):
        assert all(walnote.pushed(self.next_args(number)) for number in range(6))

    def test_a_file_that_changed_is_not(self, here, cluster):
        os.utime(self.paths[1], ns=(1, 1))
        assert not walnote.pushed(self.next_args(1))
        assert walnote.pushed(self.next_args(2))
        self.paths[2].unlink()
        assert not walnote.pushed(self.next_args(2))

    def test_nothing_is_believed_after_the_policy_changed(self, here):
        policy = here.folder / "keepwell.toml"
        policy.write_text(policy.read_text() + "\n# moved to another vault\n")
        assert not walnote.pushed(self.next_args())

    def test_nothing_is_believed_for_other_arguments_or_another_folder(self, here, monkeypatch, tmp_path):
        assert not walnote.pushed([*self.next_args(), "--source", "db"])
        monkeypatch.setenv("KEEPWELL_KEY_FILE", "/elsewhere")
        assert not walnote.pushed(self.next_args())
        monkeypatch.delenv("KEEPWELL_KEY_FILE")
        monkeypatch.chdir(tmp_path)
        assert not walnote.pushed([str(self.paths[1]), *self.args[1:]])

    def test_a_note_that_is_cut_short_says_nothing(self, here):
        found = walnote.caller_of(self.next_args())
        note = os.path.join(walnote.folder("push", found[0]), "done")
        with open(note) as file:
            whole = file.read()
        for length in (0, 10, len(whole) // 2, len(whole) - 1, len(whole) - 5):
            with open(note, "w") as file:
                file.write(whole[:length])
            assert not walnote.pushed(self.next_args())

    def test_a_folder_that_others_may_write_says_nothing(self, here):
        found = walnote.caller_of(self.next_args())
        os.chmod(walnote.folder("push", found[0]), 0o777)
        assert not walnote.pushed(self.next_args())

    def test_no_policy_no_answer(self, here, monkeypatch, tmp_path):
        (tmp_path / "empty").mkdir()
        monkeypatch.chdir(tmp_path / "empty")
        assert walnote.caller_of([NAMES[0]]) is None
        assert not walnote.pushed([NAMES[0]])
        assert not walnote.pushed([])


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        (NAMES[0], True),
        ("00000002.history", True),
        (NAMES[0] + ".partial", True),
        (NAMES[0] + ".00000028.backup", True),
        (NAMES[0].lower().replace("0", "a"), False),
        (NAMES[0][:-1], False),
        (NAMES[0] + ".ready", False),
        ("00000002.backup", False),
        ("", False),
        ("RECOVERYXLOG", False),
    ],
)
def test_names_of_the_log(name, is_one):
    assert walnote.is_log_name(name) == is_one


def test_results_as_json_have_no_secrets_and_all_numbers(place, cluster):
    found = run(place, cluster.finish(NAMES[0])).json()
    assert set(found) == {"name", "stored", "bytes", "ahead", "remarks", "seconds"}
    assert dataclasses.is_dataclass(PushRequest)
