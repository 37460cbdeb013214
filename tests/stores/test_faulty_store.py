"""The stores that other tests build on do what those tests believe."""

import pytest

from keepwell.core.errors import ObjectExists, ObjectMissing, StoreError
from keepwell.stores.faulty import Crash, FaultyStore
from keepwell.stores.memory import MemoryStore


def test_a_fault_before_leaves_nothing_and_a_fault_after_leaves_the_effect():
    inner = MemoryStore()
    store = FaultyStore(inner, {1: "before", 3: "after"})
    with pytest.raises(StoreError, match="Call 1, put one"):
        store.put("one", b"1")
    assert inner.objects == {}
    store.put("one", b"1")
    with pytest.raises(StoreError):
        store.delete("one")
    assert inner.objects == {}
    assert store.calls == [("put", "one"), ("put", "one"), ("delete", "one")]


@pytest.mark.parametrize(("fault", "left"), [("crash-before", False), ("crash-after", True)])
def test_after_a_crash_every_call_crashes(fault, left):
    inner = MemoryStore()
    store = FaultyStore(inner, {1: fault})
    with pytest.raises(Crash):
        store.put("one", b"1")
    assert ("one" in inner.objects) is left
    for call in (
        lambda: store.put("two", b""),
        lambda: store.get("one"),
        lambda: store.get_range("one", 0, 1),
        lambda: store.head("one"),
        store.list,
        lambda: store.delete("one"),
        store.flush,
    ):
        with pytest.raises(Crash):
            call()
    assert len(store.calls) == 1
    assert ("one" in inner.objects) is left


def test_a_crash_is_not_an_error_that_a_program_handles():
    assert not issubclass(Crash, Exception)


def test_a_power_cut_takes_back_what_was_not_flushed():
    store = MemoryStore()
    store.put("old", b"1")
    store.put("older", b"1")
    store.flush()
    store.put("new", b"2")
    store.put("lucky", b"2")
    store.delete("old")
    store.delete("older")
    store.lose_power(survives=lambda name: name in {"lucky", "older"})
    assert sorted(store.objects) == ["lucky", "old"]


def test_the_log_of_writes_has_what_changed_and_nothing_else():
    store = MemoryStore()
    store.put("one", b"1")
    store.put("one", b"1")
    with pytest.raises(ObjectExists):
        store.put("one", b"2")
    store.flush()
    store.delete("none")
    store.delete("one")
    with pytest.raises(ObjectMissing):
        store.get("one")
    assert store.writes == [("put", "one"), ("flush", ""), ("delete", "one")]
