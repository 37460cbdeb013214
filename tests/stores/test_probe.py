"""A store that overwrites is found out, whatever it claims."""

import pytest

from keepwell.core.clock import FakeClock
from keepwell.core.errors import StoreDenied, StoreError, UnsafeStore
from keepwell.stores import open_store
from keepwell.stores.faulty import FaultyStore
from keepwell.stores.memory import MemoryStore
from keepwell.stores.probe import store_now, verify_conditional_put


@pytest.mark.slow
def test_rclone_serve_s3_is_refused_because_it_overwrites(rclone):
    store = open_store(f"{rclone.url}/vault", rclone.options)
    with pytest.raises(UnsafeStore, match=f"{rclone.url}/vault overwrites") as caught:
        verify_conditional_put(store)
    assert "If-None-Match" in caught.value.hint
    assert "Amazon S3" in caught.value.hint
    assert list(store.list()) == [], "the probe is taken away"


class Overwrites(MemoryStore):
    def put(self, name, data):
        self.objects[name] = (bytes(data), self.clock.now())


class RefusesAndOverwritesAllTheSame(MemoryStore):
    def put(self, name, data):
        try:
            super().put(name, data)
        finally:
            self.objects[name] = (bytes(data), self.clock.now())


class DeniesDeletes(MemoryStore):
    def delete(self, name):
        raise StoreDenied("locked")


@pytest.mark.parametrize("kind", [Overwrites, RefusesAndOverwritesAllTheSame])
def test_an_accepted_or_a_lost_first_put_is_unsafe(kind):
    with pytest.raises(UnsafeStore):
        verify_conditional_put(kind())


def test_a_store_under_lock_can_be_probed():
    verify_conditional_put(DeniesDeletes())
    store_now(DeniesDeletes())


def test_a_store_that_fails_meanwhile_is_neither_safe_nor_unsafe():
    for call in (1, 2, 3):
        with pytest.raises(StoreError) as caught:
            verify_conditional_put(FaultyStore(MemoryStore(), {call: "before"}))
        assert not isinstance(caught.value, UnsafeStore)


def test_the_stores_own_clock_is_told():
    clock = FakeClock()
    assert store_now(MemoryStore(clock)) == clock.now()
