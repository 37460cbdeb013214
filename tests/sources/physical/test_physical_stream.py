"""Messages of streaming replication, as bytes; names of slots; settings as they are shown."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.core.errors import SourceError
from keepwell.sources.physical.settings import shown_seconds, shown_size
from keepwell.sources.physical.slot import SlotState, slot_name
from keepwell.sources.physical.stream import Keepalive, LogData, parse, status

MOMENT = dt.datetime(2026, 11, 22, 2, 0, 0, 5, tzinfo=dt.UTC)


def test_a_status_has_the_bytes_that_the_protocol_wants():
    told = status(written=0x102, flushed=0x101, time=dt.datetime(2000, 1, 1, 0, 0, 1, tzinfo=dt.UTC), reply=True)
    assert told == b"r" + b"\0" * 6 + b"\1\2" + b"\0" * 6 + b"\1\1" + b"\0" * 8 + (10**6).to_bytes(8, "big") + b"\1"


def test_log_data_is_read():
    raw = b"w" + (0x3000028).to_bytes(8, "big") + (0x3000100).to_bytes(8, "big") + (10**6).to_bytes(8, "big") + b"log"
    said = parse(memoryview(raw))
    assert isinstance(said, LogData)
    assert (said.start, said.end, said.server_end, bytes(said.data)) == (0x3000028, 0x300002B, 0x3000100, b"log")
    assert said.time == dt.datetime(2000, 1, 1, 0, 0, 1, tzinfo=dt.UTC)


@pytest.mark.parametrize("reply", [False, True])
def test_a_keepalive_is_read(reply):
    raw = b"k" + (0x3000100).to_bytes(8, "big") + (10**6).to_bytes(8, "big") + bytes([reply])
    said = parse(raw)
    assert isinstance(said, Keepalive)
    assert (said.server_end, said.reply) == (0x3000100, reply)


@given(
    st.binary(max_size=60)
    | st.builds(lambda kind, rest: kind + rest, st.sampled_from([b"w", b"k"]), st.binary(max_size=60))
)
def test_nonsense_is_refused_and_never_anything_else(raw):
    try:
        said = parse(raw)
    except SourceError:
        return
    assert isinstance(said, LogData | Keepalive)


def test_slots_are_named_after_environment_and_source():
    assert slot_name("production", "app") == "keepwell_production_app"
    assert slot_name("my-prod", "a-b") == "keepwell_my_prod_a_b"


def test_names_too_long_for_postgresql_are_cut_and_stay_different():
    names = {slot_name("e" * 40, "s" * 39 + last) for last in "abc"}
    assert len(names) == 3
    assert all(len(name) == 63 for name in names)


@pytest.mark.parametrize(
    ("text", "size"), [("16MB", 16 << 20), ("1GB", 1 << 30), ("64kB", 65536), ("512B", 512), ("4096", 4096)]
)
def test_sizes_are_read_as_postgresql_shows_them(text, size):
    assert shown_size(text) == size


@pytest.mark.parametrize(("text", "seconds"), [("1min", 60), ("500ms", 0.5), ("0", 0), ("2d", 172800), ("90s", 90)])
def test_times_are_read_as_postgresql_shows_them(text, seconds):
    assert shown_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "much", "5 parsecs", "1MB2"])
def test_other_values_are_refused(text):
    with pytest.raises(ValueError, match="PostgreSQL"):
        shown_size(text)


def test_advice_names_the_way_out_of_a_lost_slot_and_the_missing_limit():
    assert "base backup" in SlotState("s", True, wal_status="lost").advice
    assert "idle_timeout" in SlotState("s", True, reason="idle_timeout").advice
    assert "max_slot_wal_keep_size" in SlotState("s", True, wal_status="reserved").advice
    assert "about to give up" in SlotState("s", True, wal_status="unreserved", limit=1 << 30).advice
    assert SlotState("s", True, wal_status="reserved", limit=1 << 30).advice == ""
