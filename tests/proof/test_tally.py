"""What of a backup has been read."""

import threading

import pytest

from keepwell.core.streams import MemoryStreams
from keepwell.proof.tally import Tally


@pytest.fixture
def tally():
    streams = MemoryStreams()
    for name in ("a", "b", "empty"):
        writer = streams.stream(name)
        writer.write(b"0123456789" * (0 if name == "empty" else 10))
    return Tally(streams)


def take(tally, name, start=0, length=None):
    return b"".join(tally.read(name, start, length))


def test_nothing_is_read_at_first(tally):
    assert tally.unread("a") == [(0, 100)]
    assert tally.unread("empty") == []
    assert tally.names() == ["a", "b", "empty"]
    assert tally.size("a") == 100


def test_reading_passes_everything_on(tally):
    assert take(tally, "a", 5, 10) == b"5678901234"
    assert take(tally, "a") == b"0123456789" * 10
    assert tally.unread("a") == []
    assert tally.unread("b") == [(0, 100)]


def test_gaps_are_what_no_read_covered_in_whatever_order(tally):
    for start, length in ((50, 10), (0, 10), (10, 5), (55, 20), (12, 2)):
        take(tally, "a", start, length)
    assert tally.unread("a") == [(15, 35), (75, 25)]


def test_a_read_that_is_given_up_counts_only_for_what_it_gave(tally):
    reading = tally.read("a")
    reading.close()
    assert tally.unread("a") == [(0, 100)]


def test_several_threads_may_read(tally):
    threads = [threading.Thread(target=take, args=(tally, "a", at, 1)) for at in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.unread("a") == []
