"""What a receiver does on each of its bad days, one by one, against a server and a vault in memory."""

import pytest

from keepwell.core.errors import Busy, SourceError, StoreError
from keepwell.core.wal import history_name
from keepwell.operations import wal_flow
from keepwell.operations.wal_contracts import Diverged, LogLost
from keepwell.operations.wal_intake import Gap, Intake
from keepwell.operations.wal_start import NEAR, Server, Start, begin, beyond
from keepwell.sources.physical.slot import SlotState
from operations.waltoys import SEGMENT, Killed, ServerError, World, outage

SLOT = "keepwell_production_app"
LOG = bytes(n % 251 for n in range(5 * SEGMENT + 700))


@pytest.fixture
def world():
    made = World(7, LOG)
    made.server.slots[SLOT] = 0
    return made


def whole(world, timeline=1):
    assert world.archive.spans(timeline)[-1][1] == len(world.server.logs[timeline])
    for (line, start, end), data in world.archive.objects.items():
        assert data == world.server.logs[line][start:end]


def test_once_stores_what_the_server_has_and_ends(world):
    received = world.run(once=True)
    whole(world)
    assert received.position == len(LOG) == received.bytes
    assert world.server.slots[SLOT] == len(LOG)


def test_whole_segments_become_one_object_each(world):
    world.run(once=True)
    assert {(1, n * SEGMENT, (n + 1) * SEGMENT) for n in range(5)} <= set(world.archive.objects)


def test_until_ends_at_the_position_and_not_before(world):
    assert world.run(until=2 * SEGMENT + 5).position >= 2 * SEGMENT + 5


def test_the_slot_is_made_where_there_is_none(world):
    world.server.slots.clear()
    world.run(once=True)
    assert SLOT in world.server.slots
    whole(world)


def test_a_new_receiver_goes_on_where_the_vault_ends(world):
    world.run(once=True)
    world.server.write(b"more" * 100)
    assert world.run(once=True).bytes == 400
    whole(world)


def test_nothing_is_told_before_the_store_has_it(world):
    told = []
    world.told = lambda timeline, flushed: told.append(world.archive.has(1, 0, flushed))
    world.run(once=True)
    assert told
    assert all(told)


def test_an_idle_server_for_hours_is_no_stall(world):
    end = 6 * 3600
    world.event = lambda copy: setattr(world, "stop", world.clock.monotonic() > end)
    received = world.run()
    assert received.connections == 1
    assert world.progress.warnings == []
    assert world.clock.monotonic() > end
    assert len(world.server.confirmed) > end / wal_flow.STATUS_EVERY  # the server hears from us all the time


def test_a_server_that_says_nothing_at_all_is_connected_anew(world):
    world.choose.random = lambda: 0.9  # never a keepalive
    world.event = lambda copy: setattr(world, "stop", world.clock.monotonic() > 300)
    received = world.run()
    assert received.connections > 2
    assert any("not said a word" in text for text in world.progress.warnings)


def test_pending_bytes_are_stored_every_ten_seconds(world):
    def event(copy):
        world.clock.sleep(1)
        world.server.write(b"xyz")
        world.stop = world.clock.monotonic() > 60

    world.event = event
    world.run()
    ends = [end for _, _, end in world.archive.objects if end > len(LOG)]
    assert 5 <= len(ends) <= 8
    whole(world)


def test_an_outage_stops_reading_and_loses_nothing(world, monkeypatch):
    monkeypatch.setattr("keepwell.operations.wal_intake._AHEAD", 1000)
    reads, put = [], world.archive.put

    def weak(*args, **more):
        if world.clock.monotonic() < 400:
            raise outage()
        return put(*args, **more)

    world.event = lambda copy: reads.append(copy.at)
    world.archive.put = weak
    world.run(once=True)
    whole(world)
    assert len(world.progress.warnings) == 1, "one warning for one outage"
    assert any("takes log again" in note for note in world.notes)
    assert max(at for at in reads if at < len(LOG)) >= SEGMENT
    assert world.clock.monotonic() >= 400


def test_memory_is_bounded_while_the_store_is_away(world, monkeypatch):
    monkeypatch.setattr("keepwell.operations.wal_intake._AHEAD", 1000)
    far = []

    def put(*args, **more):
        raise outage()

    world.archive.put = put
    world.told = lambda timeline, flushed: setattr(world, "stop", world.clock.monotonic() > 100)
    world.event = lambda copy: far.append(copy.at)
    with pytest.raises(StoreError, match="are not in the vault") as caught:
        world.run()
    assert "Nothing is lost" in caught.value.hint
    assert max(far) <= SEGMENT + 1000 + 3000
    assert all(flushed == 0 for _, flushed in world.server.confirmed)


def test_a_server_that_wants_to_shut_down_is_not_held_up_by_a_store_that_fails(world):
    world.archive.put = lambda *a, **k: (_ for _ in ()).throw(outage())
    world.server.asks = True
    world.event = lambda copy: setattr(world, "stop", world.clock.monotonic() > 60)
    with pytest.raises(StoreError):
        world.run()
    assert any("letting it go" in text for text in world.progress.warnings)


def test_told_to_end_it_stores_what_it_has(world):
    world.event = lambda copy: setattr(world, "stop", copy.at > 2 * SEGMENT + 50)
    received = world.run()
    assert received.position == world.archive.spans(1)[-1][1] > 2 * SEGMENT + 50
    assert world.server.slots[SLOT] == received.position


def test_an_interrupt_ends_it_with_everything_stored(world):
    read = []

    def event(copy):
        if copy.at > SEGMENT + 50:
            read.append(copy.at)
            raise KeyboardInterrupt

    world.event = event
    assert world.run().position == read[0]
    assert world.archive.has(1, 0, read[0])


def test_a_promotion_stores_the_history_before_the_new_timeline(world):
    done = []

    def event(copy):
        if copy.at > 3 * SEGMENT and not done:
            done.append(world.server.position)
            world.server.promote()
            world.server.write(b"after" * 200)

    world.event = event
    received = world.run(until=len(LOG) + 1000)
    assert received.switches == 1
    assert world.archive.spans(1) == [(0, len(LOG))]
    assert world.archive.spans(2) == [(5 * SEGMENT, len(LOG) + 1000)], "from the beginning of the segment"
    assert world.archive.files[history_name(2)] == world.server.history(2)
    assert world.archive.first[2] == 1, "the history came first"


def test_a_failover_to_a_server_that_lacks_the_last_bytes_goes_on_from_the_fork(world):
    world.run(once=True)
    world.server.promote(len(LOG) - 5000)
    world.server.write(b"y" * 6000)
    world.server.slots.clear()
    world.run(once=True)
    whole(world, 2)
    assert world.archive.spans(2)[0][0] == (len(LOG) - 5000) // SEGMENT * SEGMENT


def test_log_that_the_server_lost_is_named_and_nothing_is_skipped(world):
    world.run(once=True)
    world.server.write(b"z" * 3 * SEGMENT)
    world.server.slots[SLOT] = world.server.position - 10
    world.server.available = 7 * SEGMENT
    with pytest.raises(LogLost, match="timeline 1") as caught:
        world.run(once=True)
    assert "base backup" in caught.value.hint
    assert "--accept-gap" in caught.value.hint
    assert SLOT in world.server.slots
    received = world.run(once=True, accept_gap=True)
    assert [gap[:2] for gap in received.gaps] == [(1, len(LOG))]
    assert len(world.archive.spans(1)) == 2
    assert world.archive.spans(1)[-1][1] == world.server.position


def hole_behind_the_slot(world):
    """From the end of LOG on; returns where it ends."""
    world.run(once=True)
    world.server.write(b"z" * 3 * SEGMENT)
    ahead = world.server.position // SEGMENT * SEGMENT
    world.archive.objects[1, ahead - SEGMENT, ahead] = bytes(world.server.logs[1][ahead - SEGMENT : ahead])
    world.server.slots[SLOT] = ahead - 10
    return ahead - SEGMENT


def test_what_is_missing_behind_the_slot_is_asked_for_while_the_server_has_it(world):
    """A slot made after a failover may be ahead of bytes that died with the receiver that made it."""
    hole_behind_the_slot(world)
    received = world.run(once=True)
    whole(world, 1)
    assert received.gaps == []
    assert world.progress.warnings == []


def test_old_log_that_the_server_denies_for_any_reason_does_not_stop_the_flow(world):
    end = hole_behind_the_slot(world)

    def event(copy):
        if copy.start == len(LOG):
            raise ServerError("requested starting point 0/1 is not in this server's history", "XX000")

    world.event = event
    received = world.run(once=True)
    assert received.gaps == [(1, len(LOG), end)]
    assert world.archive.has(1, end, world.server.position)


def test_a_slot_is_not_moved_back_to_log_that_is_gone(world):
    test_log_that_the_server_lost_is_named_and_nothing_is_skipped(world)
    kept = world.server.slots[SLOT]
    world.server.confirmed.clear()
    world.run(once=True)
    assert min(flushed for _, flushed in world.server.confirmed if flushed) >= kept


def test_a_gap_that_is_there_is_named_by_the_next_receiver(world):
    test_log_that_the_server_lost_is_named_and_nothing_is_skipped(world)
    world.progress.warnings.clear()
    received = world.run(once=True)
    assert len(received.gaps) == 1
    assert any("lacks log" in text for text in world.progress.warnings)


def test_what_the_server_lost_is_no_gap_where_archiving_brought_it_meanwhile(world):
    world.run(once=True)
    world.server.write(b"z" * 3 * SEGMENT)
    world.server.slots[SLOT] = world.server.position - 10
    world.server.available = 7 * SEGMENT

    def event(copy):  # after the receiver looked into the vault
        log = world.server.logs[1]
        for start in range(5 * SEGMENT, 8 * SEGMENT, SEGMENT):
            world.archive.objects[1, start, start + SEGMENT] = bytes(log[start : start + SEGMENT])

    world.event = event
    assert world.run(once=True).gaps == []
    assert world.archive.has(1, 0, world.server.position)


def test_a_lost_slot_is_an_alarm_and_made_anew_where_the_log_is_still_there(world):
    world.run(once=True)
    world.server.write(b"z" * 100)
    world.server.slots[SLOT] = None
    world.run(once=True)
    assert any("gave up the replication slot" in text for text in world.progress.warnings)
    assert world.server.slots[SLOT] == world.server.position
    whole(world)


def test_a_lost_slot_whose_log_is_gone_is_not_left_to_fill_the_disk(world):
    world.run(once=True)
    world.server.write(b"z" * 3 * SEGMENT)
    world.server.slots[SLOT] = None
    world.server.available = 8 * SEGMENT
    with pytest.raises(LogLost):
        world.run(once=True)
    assert SLOT not in world.server.slots
    world.run(once=True, accept_gap=True)
    assert world.server.slots[SLOT] == world.server.position


def test_a_slot_that_never_kept_anything_is_used_as_it_is(world):
    world.server.slots[SLOT] = None
    world.receiver(SlotState(SLOT, True), once=True).run()
    assert world.server.slots[SLOT] == len(LOG)
    assert world.progress.warnings == []


def test_another_receiver_on_the_slot_is_busy(world):
    world.server.busy = True
    with pytest.raises(Busy, match="another receiver"):
        world.run(once=True)
    assert world.clock.monotonic() >= 10, "the connection of one that just died gets its time"


def test_a_server_that_went_back_in_time_is_an_error_and_not_stored_over(world):
    world.run(once=True)
    del world.server.logs[1][3 * SEGMENT :]
    before = dict(world.archive.objects)
    with pytest.raises(Diverged, match="only up to"):
        world.run(once=True)
    assert world.archive.objects == before


def test_a_standby_that_is_behind_is_waited_for(world):
    world.run(once=True)
    rest = bytes(world.server.logs[1][3 * SEGMENT :])
    del world.server.logs[1][3 * SEGMENT :]
    world.server.standby = True
    tries = []

    def connecting():
        tries.append(world.clock.monotonic())
        if tries[-1] > 1000 and world.server.position < len(LOG):
            world.server.write(rest + b"new")

    world.connecting = connecting
    world.run(once=True)
    assert tries[-1] > 1000


def test_another_cluster_at_the_address_is_an_error(world):
    def event(copy):
        world.server.system = "7002"
        copy.closed = True

    world.event = event
    with pytest.raises(SourceError, match="another cluster"):
        world.run()


def test_a_server_that_cannot_be_had_at_first_is_an_error_at_once(world):
    world.connecting = lambda: (_ for _ in ()).throw(ServerError("password authentication failed"))
    with pytest.raises(SourceError, match="password"):
        world.run()


def test_a_server_that_goes_away_later_is_waited_for(world):
    def event(copy):
        if copy.at > SEGMENT and world.clock.monotonic() < 1:
            world.clock.sleep(1)
            world.connecting = refuse
            raise ServerError("server closed the connection unexpectedly")

    def refuse():
        if world.clock.monotonic() < 500:
            raise ServerError("connection refused")

    world.event = event
    world.run(until=len(LOG))
    whole(world)
    assert world.clock.monotonic() >= 500
    assert len(world.progress.warnings) == 2, "one for each reason, not one for each try"
    assert any("flows again" in note for note in world.notes)


def test_much_log_that_the_server_keeps_is_said(world):
    world.server.settings["max_slot_wal_keep_size"] = "8kB"
    world.archive.put, put = (lambda *a, **k: (world.clock.sleep(1), put(*a, **k))[1]), world.archive.put
    world.run(once=True)
    assert any("gives the slot up at" in text for text in world.progress.warnings)


@pytest.mark.parametrize(
    ("names", "warned"), [("*", True), (f"ANY 1 (a, {SLOT})", True), ("standby1", False), ("", False)]
)
def test_commits_that_would_wait_for_the_receiver_are_warned_of(world, names, warned):
    world.server.settings["synchronous_standby_names"] = names
    world.run(once=True)
    assert any("makes commits wait" in text for text in world.progress.warnings) == warned


def test_a_receiver_that_is_killed_in_any_put_leaves_no_gap(world):
    for when in ("before", "after"):
        calls = 0

        def fail(at, when=when):
            nonlocal calls
            calls += at == when
            if calls == 4:
                raise Killed

        world.archive.fail = fail
        with pytest.raises(Killed):
            world.run(once=True)
        assert world.archive.has(1, 0, world.server.slots[SLOT])
    world.archive.fail = lambda when: None
    world.run(once=True)
    whole(world)


# The intake


def moment(world=None):
    import datetime as dt

    return dt.datetime(2026, 11, 22, tzinfo=dt.UTC)


def test_bytes_that_do_not_go_on_where_the_last_ended_are_a_gap():
    intake = Intake(1, 100, SEGMENT)
    intake.add(100, b"abc", now=0, time=moment())
    for start in (102, 104):
        with pytest.raises(Gap, match=r"0/67 was next"):
            intake.add(start, b"d", now=0, time=moment())


def test_what_is_stored_out_of_order_is_not_told_before_what_came_first():
    intake = Intake(1, 0, SEGMENT)
    intake.add(0, bytes(2 * SEGMENT), now=0, time=moment())
    first, second = intake.next(0), intake.next(0)
    intake.stored(second)
    assert intake.flushed == 0
    intake.stored(first)
    assert intake.flushed == 2 * SEGMENT


def test_a_segment_that_came_in_parts_is_put_whole_at_its_end():
    intake = Intake(1, 0, SEGMENT)
    intake.add(0, bytes(100), now=0, time=moment())
    assert intake.next(9.9) is None
    part = intake.next(10)
    assert (part.start, part.end) == (0, 100)
    intake.stored(part)
    intake.add(100, bytes(SEGMENT), now=11, time=moment())
    last = intake.next(11)
    assert (last.start, last.end) == (0, SEGMENT)
    assert intake.due() == 21, "what is left over has its own ten seconds"


# Where to begin


def test_a_fresh_vault_begins_with_the_segment_that_the_slot_keeps():
    server = Server(1, 10_000, 4096)
    assert begin({}, server, 5000) == Start(1, 4096)
    assert begin({}, server, None) == Start(1, 8192)


def test_a_slot_on_an_older_timeline_begins_there():
    world = World(1, LOG)
    world.server.promote()
    server = Server(2, len(LOG) + 9000, SEGMENT, tuple(world.server.forks))
    assert begin({}, server, len(LOG) - 1) == Start(1, 5 * SEGMENT)
    assert begin({}, server, len(LOG) + 8000) == Start(2, (len(LOG) + 8000) // SEGMENT * SEGMENT)


def test_log_that_archiving_put_ahead_of_order_on_a_new_timeline_does_not_hide_the_end_of_the_old_one():
    world = World(1, LOG)
    world.server.promote()
    server = Server(2, len(LOG) + 2 * SEGMENT, SEGMENT, tuple(world.server.forks))
    have = {1: [(0, 3 * SEGMENT)], 2: [(5 * SEGMENT, 6 * SEGMENT)]}
    assert begin(have, server, 3 * SEGMENT) == Start(1, 3 * SEGMENT)
    have[1] = [(0, len(LOG))]
    assert begin(have, server, 3 * SEGMENT) == Start(2, 6 * SEGMENT)


def test_what_is_missing_before_what_the_slot_keeps_is_tried_first():
    server = Server(1, 50_000, 4096)
    have = {1: [(0, 4096), (8192, 12_288), (16_384, 20_000)]}
    first = begin(have, server, 18_000)
    assert first == Start(1, 4096)
    second = begin(have, server, 18_000, refused={first})
    assert second == Start(1, 12_288)
    assert begin(have, server, 18_000, refused={first, second}) == Start(1, 20_000)


def test_what_is_missing_long_before_the_slot_is_not_asked_for():
    """A prune leaves such holes between the backups that it keeps."""
    server = Server(1, NEAR * 2, 4096)
    assert begin({1: [(0, 4096), (NEAR, NEAR + 8192)]}, server, NEAR) == Start(1, NEAR + 8192)
    assert begin({1: [(0, 8192), (NEAR, NEAR + 8192)]}, server, NEAR) == Start(1, 8192)


def test_the_gap_behind_what_the_server_lost_is_named_exactly():
    server = Server(1, 50_000, 4096)
    assert beyond(Start(1, 5000), server, 30_000) == Start(1, 28_672, (5000, 28_672))
