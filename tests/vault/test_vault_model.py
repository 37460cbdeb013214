"""Random histories of a vault against a plain dict: what was committed is there bit for bit, whatever else happened."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, precondition, rule
from vaultkit import (
    HOUR,
    NOW,
    START,
    Data,
    begin,
    commit,
    new_store,
    noise,
    open_vault,
    prune,
    restore,
    tick,
    troubles,
    write,
)

from keepwell.core.errors import Busy, KeepwellError
from keepwell.stores.base import Store
from keepwell.stores.faulty import Crash, FaultyStore
from keepwell.stores.memory import MemoryStore
from keepwell.vault import inventory
from keepwell.vault import prune as pruning
from keepwell.vault.session import Session
from keepwell.vault.vault import Vault

BLOCKS = [noise(("block", n), size) for n, size in enumerate((1, 3000, 9000, 20_000, 20_000, 45_000, 70_000))] + [
    b"\0" * 30_000
]

contents = st.dictionaries(
    st.sampled_from(["app", "files"]),
    st.dictionaries(
        st.sampled_from(["a", "b"]),
        st.lists(st.integers(0, len(BLOCKS) - 1), max_size=5).map(lambda ns: b"".join(BLOCKS[n] for n in ns)),
        min_size=1,
    ),
    min_size=1,
)
graces = st.sampled_from([NOW, HOUR, 4 * HOUR])
faults = st.tuples(st.integers(1, 70), st.sampled_from(["before", "after", "crash-before", "crash-after"]))


class Vaults(RuleBasedStateMachine):
    """Every rule is a process of its own on one store; `backups` is the model.

    `maybe` has what a fault left open: a commit whose answer was lost, a removal that died. The next look at the
    vault decides, and from then on it must stay so.
    """

    sessions = Bundle("sessions")

    @initialize()
    def make(self) -> None:
        self.store: MemoryStore = new_store()
        self.backups: dict[str, Data] = {}
        self.marked: dict[str, Data] = {}
        self.count = 0

    def moment(self) -> dt.datetime:
        """Backups are named by time; the store's clock moves too, as time passes."""
        self.count += 1
        tick(self.store, dt.timedelta(minutes=3))
        return START + self.count * dt.timedelta(seconds=1)

    def vault(self, store: Store | None = None) -> Vault:
        return open_vault(store or self.store)

    # Backups

    @rule(data=contents)
    def back_up(self, data: Data) -> None:
        with begin(self.vault(), at=self.moment()) as session:
            write(session, data)
            self.backups[str(commit(session).id)] = data

    @rule(data=contents, failing=st.sampled_from(["app", "files"]))
    def back_up_with_a_failing_source(self, data: Data, failing: str) -> None:
        with begin(self.vault(), at=self.moment()) as session:
            write(session, data, failing=failing)
            left = {source: streams for source, streams in data.items() if source != failing}
            if not left:
                with pytest.raises(KeepwellError):
                    commit(session)
                return
            backup = commit(session)
            assert backup.status == ("incomplete" if failing in data else "complete")
            self.backups[str(backup.id)] = left

    @rule(target=sessions, data=contents)
    def begin_a_backup_that_ends_later(self, data: Data) -> tuple[Session, Data]:
        session = begin(self.vault(), at=self.moment())
        write(session, data)
        # What goes to the store in the background is there before the time goes on: histories are the same when played again.
        session.desk.packer._drain()
        return session, data

    @rule(held=consumes(sessions))
    def end_it(self, held: tuple[Session, Data]) -> None:
        """However old it is, and whatever was pruned meanwhile: it commits a whole backup or says that it cannot."""
        session, data = held
        with session:
            with contextlib.suppress(Busy):
                self.backups[str(commit(session).id)] = data

    @rule(held=consumes(sessions))
    def end_it_by_dying(self, held: tuple[Session, Data]) -> None:
        held[0].__exit__(None, None, None)

    @rule(data=contents, fault=faults)
    def back_up_on_a_bad_day(self, data: Data, fault) -> None:
        faulty = FaultyStore(self.store, {fault[0]: fault[1]})
        before = set(self.listed())
        try:
            with begin(open_vault(faulty), at=self.moment()) as session:
                write(session, data)
                self.backups[str(commit(session).id)] = data
        except (KeepwellError, Crash):
            for ident in set(self.listed()) - before:  # committed, and only the answer was lost
                self.backups[ident] = data

    # Deletion

    @precondition(lambda self: self.backups)
    @rule(chosen=st.data(), grace=graces)
    def prune(self, chosen, grace: dt.timedelta) -> None:
        gone = self.some(chosen)
        vault = self.vault()
        prune(vault, [vault.find(ident) for ident in sorted(gone)], grace=grace)
        self.remove(gone)

    @rule(grace=graces)
    def prune_what_is_due(self, grace: dt.timedelta) -> None:
        prune(self.vault(), grace=grace)

    @precondition(lambda self: self.backups)
    @rule(chosen=st.data(), grace=graces, fault=faults)
    def prune_on_a_bad_day(self, chosen, grace: dt.timedelta, fault) -> None:
        gone = self.some(chosen)
        faulty = FaultyStore(self.store, {fault[0]: fault[1]})
        try:
            vault = open_vault(faulty)
            prune(vault, [vault.find(ident) for ident in sorted(gone)], grace=grace)
        except (KeepwellError, Crash):
            left = set(self.listed())
            assert gone <= left or not gone & left, "a prune marks all or nothing"
            gone -= left
            # Whose undo had died comes back when the next prune finishes the undo.
            for ident in left & set(self.marked):
                self.backups[ident] = self.marked.pop(ident)
        self.remove(gone)

    def some(self, chosen) -> set[str]:
        """Chosen by their place, since ids are random and the history must be the same when it is played again."""
        places = chosen.draw(st.sets(st.integers(0, len(self.backups) - 1)))
        return {sorted(self.backups)[place] for place in places}

    def remove(self, gone: set[str]) -> None:
        self.marked |= {ident: self.backups.pop(ident) for ident in gone}

    @rule()
    def undo(self) -> None:
        for folder in pruning.undo(self.vault()):
            (ident,) = [i for i in self.marked if folder == folder_of(i)]
            self.backups[ident] = self.marked.pop(ident)

    @rule(hours=st.integers(1, 6))
    def wait(self, hours: int) -> None:
        tick(self.store, hours * HOUR)

    @rule()
    def collect_all_garbage(self) -> None:
        """With enough time and prunes nothing is left but what the backups need."""
        for _ in range(4):
            tick(self.store, 25 * HOUR)
            prune(self.vault(), grace=HOUR)
        self.marked = {}
        vault = self.vault()
        assert not [name for name in self.store.objects if name.startswith(("trash/", "probes/"))]
        assert not vault.scan().uncommitted
        needed = inventory.Needed()
        for backup in vault.backups():
            needed.add(vault.read(backup).manifest.references())
        known, unindexed = inventory.entries(vault, inventory.packs(self.store))
        assert not unindexed
        for entry in known.values():
            assert needed.rows(entry), "a pack that no backup needs is left"

    @rule()
    def lose_the_index(self) -> None:
        """It is only an aid."""
        for name in [name for name in self.store.objects if name.startswith("index/")]:
            self.store.delete(name)
        prune(self.vault(), grace=4 * HOUR)

    # What must hold

    def listed(self) -> list[str]:
        return [str(backup.id) for backup in self.vault().backups()]

    @invariant()
    def every_backup_is_there_bit_for_bit(self) -> None:
        if not hasattr(self, "store"):
            return
        vault = self.vault()
        there = {str(backup.id): backup for backup in vault.backups()}
        for ident in [i for i in there if i in self.marked]:
            # A prune that found an undo which had died has finished it.
            self.backups[ident] = self.marked.pop(ident)
        assert set(there) == set(self.backups)
        for ident, backup in there.items():
            want = {source: dict(streams) for source, streams in self.backups[ident].items()}
            assert restore(vault, backup) == want

    def teardown(self) -> None:
        if hasattr(self, "store"):
            assert troubles(self.vault()) == []
            self.collect_all_garbage()
            self.every_backup_is_there_bit_for_bit()
            assert troubles(self.vault()) == []


def folder_of(ident: str) -> str:
    from keepwell.vault.layout import parse_id

    return parse_id(ident).folder("daily")


# Not shrunk: ids and keys are random and threads take turns, so that a history seldom fails again in the same way.
PHASES = (Phase.explicit, Phase.generate)
Vaults.TestCase.settings = settings(max_examples=20, stateful_step_count=25, phases=PHASES)


@pytest.mark.slow
class TestVaults(Vaults.TestCase):
    pass


def test_a_short_history(tmp_path: Path) -> None:
    """The same machine, few steps: so that the quick tests run it too."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Vaults, settings=settings(max_examples=3, stateful_step_count=10, phases=PHASES))
