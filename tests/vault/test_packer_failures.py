"""The packer's threads: whatever fails, every thread ends, nobody waits for ever, and the first error is what is raised."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable

import pytest
from vaultkit import PACK, START, back_up, begin, commit, keyring, new_store, noise, open_vault, write

from keepwell.core.errors import Busy, StoreFull, UsageError
from keepwell.stores.faulty import Crash, FaultyStore
from keepwell.stores.memory import MemoryStore
from keepwell.vault import packer as packing
from keepwell.vault.index import FrameTable
from keepwell.vault.packer import Packer

PATIENCE = 60
"""Seconds after which a thread counts as stuck: far more than it needs."""


class Full(MemoryStore):
    """Takes so many packs, then no more."""

    def __init__(self, packs: int) -> None:
        super().__init__()
        self.left = packs

    def put(self, name, data) -> None:
        if name.startswith("packs/"):
            self.left -= 1
            if self.left < 0:
                raise StoreFull("no space left")
        super().put(name, data)


def in_threads(count: int, work: Callable[[int], None]) -> list[BaseException | None]:
    """What each raised. Fails where one does not end."""
    raised: list[BaseException | None] = [None] * count

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            raised[number] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    return raised


def add_frames(packer: Packer, table: FrameTable, frames: int, seed: object) -> None:
    for number in range(frames):
        data = noise((seed, number), 20_000)
        packer.add(table.reserve(), [len(data)], [data[:16]], [data])


@pytest.mark.parametrize("jobs", [1, 2, 8])
@pytest.mark.parametrize("room", [0, 1, 3])
def test_a_failed_upload_ends_every_writer_and_is_what_they_raise(jobs, room):
    store, table = Full(room), FrameTable()
    before = threading.active_count()
    packer = Packer(keyring(), store, table, level=3, jobs=jobs, pack_size=PACK)
    raised = in_threads(6, lambda number: add_frames(packer, table, 60, number))
    assert {type(error) for error in raised} == {StoreFull}
    with pytest.raises(StoreFull):
        packer.finish()
    packer.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("jobs", [1, 2, 8])
@pytest.mark.parametrize("where", ["__init__", "fill", "finish"])
def test_a_failure_anywhere_in_the_building_of_a_pack_ends_every_writer(monkeypatch, jobs, where):
    def fail(*args, **kwargs):
        raise MemoryError(where)

    monkeypatch.setattr(packing.PackBuilder, where, fail)
    table = FrameTable()
    packer = Packer(keyring(), MemoryStore(), table, level=3, jobs=jobs, pack_size=PACK)
    raised = in_threads(6, lambda number: add_frames(packer, table, 60, number))
    assert {type(error) for error in raised} == {MemoryError}
    with pytest.raises(MemoryError):
        packer.finish()
    packer.close()


def test_ending_a_backup_while_others_still_write_leaves_none_of_them_waiting():
    """One source failed hard (or the user pressed Ctrl-C): the session is left while other threads are writing."""
    gate, table = threading.Event(), FrameTable()

    class Slow(MemoryStore):
        def put(self, name, data) -> None:
            gate.wait(PATIENCE)
            super().put(name, data)

    packer = Packer(keyring(), Slow(), table, level=3, jobs=2, pack_size=PACK)
    full = threading.Event()

    def closing() -> None:
        full.wait(PATIENCE)
        # Uploads stand still, so all places for frames are taken: close must wake those who wait for one.
        threading.Thread(target=packer.close, daemon=True).start()
        while packer._failure is None:
            pass
        gate.set()

    def work(number: int) -> None:
        if number == 0:
            closing()
            return
        for i in range(200):
            if packer._frames._value == 0 or i == 199:
                full.set()
            add_frames(packer, table, 1, (number, i))

    raised = in_threads(5, work)
    assert raised[0] is None
    assert all(isinstance(error, RuntimeError) for error in raised[1:])


def test_packs_in_memory_are_bounded_however_slow_the_store_is():
    alive: weakref.WeakSet[packing.PackBuilder] = weakref.WeakSet()
    most: list[int] = []

    class Counting(packing.PackBuilder):
        def __init__(self, *args) -> None:
            super().__init__(*args)
            alive.add(self)
            most.append(len(alive))

    table, store = FrameTable(), MemoryStore()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "PackBuilder", Counting)
        packer = Packer(keyring(), store, table, level=3, jobs=8, pack_size=PACK)
        assert in_threads(6, lambda number: add_frames(packer, table, 60, number)) == [None] * 6
        packer.finish()
        packer.close()
    assert len(store.objects) > 50
    # One may just have been stored, and its place been given on, while a thread still looks at it.
    assert max(most) <= packing._MOST_PACKS + 2


def test_a_store_that_dies_during_a_backup_is_what_write_or_commit_raises():
    for number in (8, 10, 12):
        store = FaultyStore(new_store(), {number: "crash-after"})
        with pytest.raises(Crash):
            back_up(open_vault(store), noise("x", 800_000))
        assert threading.active_count() < 20


# What a session refuses, so that nothing is lost silently.


def test_bytes_written_after_the_end_of_a_stream_are_refused():
    with begin(open_vault(new_store())) as session:
        stream = session.sink("app").stream("dump")
        stream.write(b"x")
        stream.close()
        stream.close()
        for act in (lambda: stream.write(b"y"), stream.boundary, stream.take_ids, lambda: stream.reuse(b"", 0)):
            with pytest.raises(ValueError, match="closed"):
                act()


def test_a_stream_left_open_makes_done_and_commit_fail():
    with begin(open_vault(new_store())) as session:
        sink = session.sink("app")
        stream = sink.stream("dump")
        with pytest.raises(ValueError, match="not closed"):
            session.done("app", {})
        stream.close()
        session.done("app", {})
        late = sink.stream("late")
        late.write(b"x")
        with pytest.raises(ValueError, match="late"):
            commit(session)


def test_a_source_without_outcome_and_a_backup_of_failures_are_not_committed():
    with begin(open_vault(new_store())) as session:
        session.sink("app").stream("dump").close()
        with pytest.raises(ValueError, match="app"):
            commit(session)
        session.failed("app", "broke")
        with pytest.raises(UsageError):
            commit(session)


def test_a_frame_that_never_reached_a_pack_is_never_committed():
    """Whatever went wrong before: a manifest that points nowhere must not be put."""
    store = new_store()
    with begin(open_vault(store)) as session:
        write(session, {"app": {"dump": noise("x", 5000)}})
        lost = session.desk.frames.reserve()
        builder = session._sources["app"].streams[0]
        builder.rows[0] = lost
        with pytest.raises(RuntimeError, match="never stored"):
            commit(session)
    assert not open_vault(store).backups()


def test_a_pack_that_vanishes_before_the_commit_is_busy():
    store = new_store()
    with begin(open_vault(store)) as session:
        write(session, {"app": {"dump": noise("x", 100_000)}})
        put = session._put_manifest

        def and_lose(manifest):
            result = put(manifest)
            store.delete(next(n for n in store.objects if n.startswith("packs/")))
            return result

        session._put_manifest = and_lose
        with pytest.raises(Busy):
            commit(session)


@pytest.mark.parametrize(
    ("environment", "tier"), [("packs", "daily"), ("Prod", "daily"), ("a/b", "daily"), ("a", "hourly")]
)
def test_an_environment_that_no_listing_would_find_is_refused(environment, tier):
    with pytest.raises(ValueError, match="environment"):
        open_vault(new_store()).begin(environment=environment, tier=tier, now=START)
