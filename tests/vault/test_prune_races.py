"""The argument of docs/format.md, section 8, in interleavings that are stopped at one store call.

A `Stops` store lets another process act just before (or after) the N-th call of the first one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

import pytest
from vaultkit import (
    HOUR,
    NOW,
    START,
    back_up,
    begin,
    commit,
    new_store,
    noise,
    open_vault,
    packs,
    prune,
    restored,
    tick,
    troubles,
    write,
)

from keepwell.core.errors import Busy
from keepwell.stores.base import Store
from keepwell.stores.memory import MemoryStore
from keepwell.vault import prune as pruning
from keepwell.vault.catalog import Backup
from keepwell.vault.session import Session
from keepwell.vault.vault import Vault

DATA = noise("shared", 150_000)


class Stops:
    """A store on which `act` is called once, before the N-th call (from 1) of those that are counted."""

    def __init__(self, inner: Store, number: int, act: Callable[[], object]) -> None:
        self.inner, self.number, self.act = inner, number, act
        self.calls = 0

    def __getattr__(self, name: str):
        found = getattr(self.inner, name)
        if name not in {"put", "get", "get_range", "head", "list", "delete", "flush"}:
            return found

        def call(*args):
            self.calls += 1
            if self.calls == self.number:
                self.act()
            result = found(*args)
            return iter(tuple(result)) if name == "list" else result

        return call


def condemned(store: MemoryStore) -> None:
    """One backup with DATA, then marked, so that its packs wait for a sweep."""
    old = back_up(open_vault(store), DATA)
    tick(store)
    prune(open_vault(store), [old], grace=HOUR)
    tick(store, 2 * HOUR)


def stale_writer(store: MemoryStore, *, over: Store | None = None) -> Session:
    """A writer that began before the mark: it wants to share DATA."""
    vault = open_vault(over or store)
    session = begin(vault, at=START + HOUR)
    write(session, {"app": {"dump": DATA}})
    return session


def committed(session: Session) -> Backup | None:
    with session:
        try:
            return commit(session)
        except Busy:
            return None


def whole(store: MemoryStore, backup: Backup | None, content: bytes = DATA) -> None:
    """A backup that was reported must be there, now and after whatever prunes come later."""
    for _ in range(2):
        vault = open_vault(store)
        assert [b.id for b in vault.backups()] == ([backup.id] if backup else [])
        if backup:
            assert restored(vault, backup) == content
        assert troubles(vault) == []
        tick(store, 5 * HOUR)
        prune(vault, grace=HOUR)


def scene() -> tuple[MemoryStore, Backup, Session]:
    """An old backup, and a writer that shares its packs and has written all but its commit."""
    store = new_store()
    old = back_up(open_vault(store), DATA)
    tick(store)
    return store, old, stale_writer(store)


def count_calls(run: Callable[[Store], object], store: MemoryStore) -> int:
    counter = Stops(store, 0, lambda: None)
    run(counter)  # type: ignore[arg-type]
    return counter.calls


@pytest.mark.parametrize("grace", [NOW, HOUR])
def test_a_sweep_at_any_step_of_a_commit_costs_the_commit_or_spares_its_data(grace):
    """The whole prune (mark and sweep) happens between two store calls of a commit: at each of them in turn."""

    def play(number: int) -> tuple[bool, int]:
        store = new_store()
        old = back_up(open_vault(store), DATA)
        tick(store)
        stops = Stops(store, 0, lambda: None)
        session = stale_writer(store, over=stops)  # type: ignore[arg-type]

        def act() -> None:
            prune(open_vault(store), [old], grace=grace)
            tick(store, 2 * HOUR)
            prune(open_vault(store), grace=HOUR)

        stops.calls, stops.number, stops.act = 0, number, act
        backup = committed(session)
        if stops.calls < number:
            assert number > 8
            return False, 0
        whole(store, backup)
        return True, backup is not None

    outcomes = []
    while (outcome := play(len(outcomes) + 1))[0]:
        outcomes.append(outcome[1])
    assert True in outcomes
    assert False in outcomes


@pytest.mark.slow
def test_a_commit_at_any_step_of_a_sweep_costs_the_commit_or_spares_its_data():
    """The commit happens between two store calls of a prune that marks and sweeps at once."""

    def play(number: int) -> bool:
        store, old, session = scene()
        result: list[Backup | None] = []
        stops = Stops(store, number, lambda: result.append(committed(session)))
        prune(open_vault(stops), [old])  # type: ignore[arg-type]
        if not result:
            return False
        left = result[0]
        assert {b.id for b in open_vault(store).backups()} == ({left.id} if left else set())
        whole(store, left)
        return True

    number = 1
    while play(number):
        number += 1
    assert number > 20


@pytest.mark.slow
def test_a_manifest_put_during_a_sweep_is_safe_at_every_step_of_both():
    """Writer and sweep side by side: the manifest before step i of the sweep, the rest of the commit before step j."""

    def play(first: int, second: int) -> tuple[bool, bool]:
        store, old, session = scene()
        prune(open_vault(store), [old], grace=HOUR)
        tick(store, 2 * HOUR)
        outcome: list[Backup | None] = []
        steps: list[object] = []
        verify, manifest_only = session._verify_packs, []

        def stop_here(manifest: object) -> None:
            manifest_only.append(manifest)
            raise InterruptedError

        def put_manifest() -> None:
            session._verify_packs = stop_here  # type: ignore[method-assign,assignment]
            with pytest.raises(InterruptedError):
                commit(session)
            steps.append(1)

        def rest() -> None:
            # What commit does after its manifest.
            raw = store.objects[session.id.folder("daily") + "manifest"][0]
            place = session.id.folder("daily") + "metadata.json"
            try:
                verify(manifest_only[0])  # type: ignore[arg-type]
                signed = signed_metadata(session, raw, place)
                store.put(place, signed)
                session._still_there(session.id.folder("daily") + "manifest", place)
            except Busy:
                outcome.append(None)
            else:
                outcome.append(next(b for b in open_vault(store).backups() if b.id == session.id))

        stops = Stops(store, first, put_manifest)

        def both(*args: object) -> None:
            put_manifest()
            if first == second:
                rest()

        stops.act = both  # type: ignore[assignment]
        outer = Stops(stops, second if second != first else 0, rest)  # type: ignore[arg-type]
        with session:
            prune(open_vault(outer), grace=HOUR)  # type: ignore[arg-type]
            if not steps:
                return False, False
            if not outcome:
                rest()
        whole(store, outcome[0])
        return True, outcome[0] is not None

    outcomes = set()
    first = 1
    while True:
        reached = False
        for second in (first, first + 1, first + 2, first + 4, first + 7, first + 11):
            done, kept = play(first, second)
            reached |= done
            if done:
                outcomes.add(kept)
        if not reached:
            break
        first += 1
    assert outcomes == {True, False}
    assert first > 15


def signed_metadata(session: Session, raw: bytes, place: str) -> bytes:
    from keepwell.vault.documents import sign

    return sign(session._keyring, place, session._metadata(raw, database="app", host="test", seconds=1.0))


@pytest.mark.slow
def test_two_sweeps_of_one_mark_and_a_writer_between_them_lose_nothing():
    """One sweep has looked at the manifests; a writer puts its own; a second sweep of the same mark runs to its end."""

    def play(number: int) -> bool:
        store, old, session = scene()
        prune(open_vault(store), [old], grace=HOUR)
        tick(store, 2 * HOUR)
        result: list[Backup | None] = []

        def act() -> None:
            verify = session._verify_packs

            def second_sweep_then_verify(manifest: object) -> None:
                prune(open_vault(store), grace=HOUR)
                verify(manifest)  # type: ignore[arg-type]

            session._verify_packs = second_sweep_then_verify  # type: ignore[method-assign,assignment]
            result.append(committed(session))

        prune(open_vault(Stops(store, number, act)), grace=HOUR)  # type: ignore[arg-type]
        if not result:
            return False
        whole(store, result[0])
        return True

    number = 1
    while play(number):
        number += 1
    assert number > 15


@pytest.mark.slow
def test_a_prune_that_slept_through_an_undo_deletes_nothing():
    """The sleeping prune has read the trash; the undo takes the mark back; a backup uses its packs again."""

    def play(number: int) -> bool:
        store = new_store()
        old = back_up(open_vault(store), DATA)
        tick(store)
        prune(open_vault(store), [old], grace=HOUR)
        tick(store, 2 * HOUR)
        undone: list[list[str]] = []

        def act() -> None:
            undone.append(pruning.undo(open_vault(store)))

        prune(open_vault(Stops(store, number, act)), grace=HOUR)  # type: ignore[arg-type]
        if not undone:
            return False
        there = [b.id for b in open_vault(store).backups()]
        assert there == ([old.id] if undone[0] else [])
        if there:
            assert restored(open_vault(store), old) == DATA
            new = back_up(open_vault(store), DATA, at=START + 3 * HOUR)
            tick(store, 5 * HOUR)
            prune(open_vault(store), grace=HOUR)
            assert restored(open_vault(store), new) == DATA
        assert troubles(open_vault(store)) == []
        return True

    number = 1
    while play(number):
        number += 1
    assert number > 15


def test_an_undo_that_slept_through_a_sweep_does_not_say_that_anything_is_back():
    def play(number: int) -> bool:
        store = new_store()
        old = back_up(open_vault(store), DATA)
        kept = back_up(open_vault(store), noise("kept", 90_000), at=START + HOUR)
        tick(store)
        prune(open_vault(store), [old], grace=HOUR)
        tick(store, 2 * HOUR)
        pruned: list[object] = []
        stops = Stops(store, number, lambda: pruned.append(prune(open_vault(store), grace=HOUR)))
        back = pruning.undo(open_vault(stops))  # type: ignore[arg-type]
        if not pruned:
            return False
        there = {b.id for b in open_vault(store).backups()}
        assert (old.id in there) == bool(back)
        for backup in (old, kept):
            if backup.id in there:
                restored(open_vault(store), backup)
        assert troubles(open_vault(store)) == []
        return True

    number = 1
    while play(number):
        number += 1
    assert number > 5


@pytest.mark.slow
def test_two_prunes_at_once_keep_what_is_needed_and_leave_nothing_after_a_third():
    """The second prune, complete, at each step of the first; both repack, mark and sweep at once."""

    def play(number: int, grace: dt.timedelta) -> bool:
        store = new_store()
        shared, only = noise("s", 100_000), noise("o", 200_000)
        old = back_up(open_vault(store), {"app": {"a": shared, "b": only}})
        new = back_up(open_vault(store), {"app": {"a": shared[:60_000]}}, at=START + HOUR)
        tick(store, 2 * HOUR)
        done: list[object] = []

        def act() -> None:
            done.append(prune(open_vault(store), [old], grace=grace))

        try:
            prune(open_vault(Stops(store, number, act)), [old], grace=grace)  # type: ignore[arg-type]
        except Busy:
            assert done
        if not done:
            return False
        for _ in range(4):
            vault = open_vault(store)
            assert [b.id for b in vault.backups()] == [new.id]
            assert restore_a(vault, new) == shared[:60_000]
            assert troubles(vault) == []
            tick(store, 2 * HOUR)
            prune(vault, grace=HOUR)
        assert not [name for name in store.objects if name.startswith("trash/")]
        assert sum(len(store.objects[name][0]) for name in packs(store)) < 150_000
        return True

    for grace in (NOW, HOUR):
        number = 1
        while play(number, grace):
            number += 1
        assert number > 20


def restore_a(vault: Vault, backup: Backup) -> bytes:
    return b"".join(vault.read(vault.find(str(backup.id))).streams("app").read("a"))


@pytest.mark.slow
def test_a_writer_that_was_given_up_cannot_commit_at_any_step_of_the_sweep_of_its_backup():
    """It has put its manifest and looked at the trash, then it sleeps for days; it wakes up at each step of the prunes."""

    def play(number: int) -> bool:
        store, _, session = scene()
        tick(store, 5 * HOUR)
        woke: list[bool] = []
        outcome: list[Backup | None] = []

        def prunes() -> None:
            vault = open_vault(Stops(store, number, wake))  # type: ignore[arg-type]
            prune(vault, grace=HOUR)
            tick(store, 2 * HOUR)
            prune(vault, grace=HOUR)

        checked = []

        def wake() -> None:
            woke.append(True)
            place = session.id.folder("daily")
            raw = checked[0]
            from keepwell.core.errors import ObjectExists

            try:
                store.put(place + "metadata.json", signed_metadata(session, raw, place + "metadata.json"))
                session._still_there(place + "manifest", place + "metadata.json")
            except (ObjectExists, Busy):
                outcome.append(None)
            else:
                outcome.append(next(b for b in open_vault(store).backups() if b.id == session.id))

        def sleep(manifest: object) -> None:
            checked.append(store.objects[session.id.folder("daily") + "manifest"][0])
            tick(store, 5 * HOUR)
            raise InterruptedError

        session._verify_packs = sleep  # type: ignore[method-assign,assignment]
        with session, pytest.raises(InterruptedError):
            commit(session)
        prunes()
        if not woke:
            return False
        there = {b.id for b in open_vault(store).backups()}
        assert (session.id in there) == (outcome[0] is not None)
        for backup in open_vault(store).backups():
            assert restored(open_vault(store), backup) == DATA
        tick(store, 5 * HOUR)
        prune(open_vault(store), grace=HOUR)
        assert troubles(open_vault(store)) == []
        for backup in open_vault(store).backups():
            assert restored(open_vault(store), backup) == DATA
        return True

    number = 1
    while play(number):
        number += 1
    assert number > 30


def test_a_condemned_pack_is_not_used_by_a_backup_that_begins_after_the_mark():
    store = new_store()
    condemned(store)
    before = packs(store)
    back_up(open_vault(store), DATA, at=START + 3 * HOUR)
    assert packs(store) - before


def test_a_listing_that_caught_a_sweep_but_not_its_mark_does_not_end_the_sweep():
    """A listing of many pages is no snapshot: the sweep may be in it although its mark, put before, is not."""
    store = new_store()
    condemned(store)
    (mark,) = [n for n in store.objects if n.startswith("trash/")]
    store.put(mark.removesuffix(".json") + ".sweep", b"sweep\n")

    class Torn(Stops):
        torn = False

        def list(self, prefix: str = ""):
            found = tuple(store.list(prefix))
            if prefix == "trash/" and not self.torn:
                self.torn = True
                found = tuple(info for info in found if info.name != mark)
            return iter(found)

    torn = Torn(store, 0, lambda: None)
    vault = open_vault(torn)  # type: ignore[arg-type]
    pruning._sweep_due(vault, store.clock.now(), 100 * HOUR, pruning.PruneReport(), pruning_progress())
    assert mark.removesuffix(".json") + ".sweep" in store.objects


def pruning_progress():
    from keepwell.core.progress import Silent

    return Silent()
