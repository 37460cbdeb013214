"""Random days of a receiver: what the server was told is safe is in the vault, without a gap, and no byte is wrong."""

import contextlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from keepwell.core.errors import StoreError
from keepwell.core.wal import history_name
from keepwell.operations import wal_intake
from operations.waltoys import SEGMENT, Killed, ServerError, World, outage

DISASTERS = ("cut", "closed", "promotion", "lagging promotion", "kill", "kill in a put", "outage", "push", "recycle")


class Day:
    """Things go wrong between messages, as often as `rate` says, as long as `left` lasts."""

    def __init__(self, seed, disasters, rate):
        self.world = World(seed)
        self.choose, self.server, self.archive = self.world.choose, self.world.server, self.world.archive
        self.server.write(self.bytes(SEGMENT + self.choose.randrange(3 * SEGMENT)))
        self.server.available = SEGMENT  # no log begins at 0
        self.disasters, self.rate, self.left = sorted(disasters), rate, 40
        self.broken = 0
        self.deadly = None
        self.begun = {}
        world, archive = self.world, self.archive
        world.started, world.event, world.told, archive.fail = self.started, self.event, self.told, self.fail

    def bytes(self, count):
        return self.choose.randbytes(count)

    def started(self, copy):
        if not self.archive.objects:  # whoever was here before left nothing
            self.begun.clear()
        self.begun.setdefault(copy.timeline, copy.at)

    def event(self, copy):
        if self.left and self.choose.random() < 0.5:
            self.left -= 1
            self.server.write(self.bytes(self.choose.randrange(2000)))
        self.world.stop = not self.left
        if not (self.disasters and self.left and self.choose.random() < self.rate):
            return
        server = self.server
        match self.choose.choice(self.disasters):
            case "cut":
                raise ServerError("server closed the connection unexpectedly")
            case "closed":
                copy.closed = True
            case "promotion":
                server.promote()
            case "lagging promotion":  # another server takes over, which did not have the last bytes
                fork = server.forks[-1].end if server.forks else SEGMENT
                server.promote(max(fork, server.position - self.choose.randrange(SEGMENT)))
                server.slots.clear()
                server.available = SEGMENT
                for timeline, begun in self.begun.items():  # nobody keeps what lies before the vault's first bytes
                    spans = self.archive.spans(timeline)
                    self.begun[timeline] = max(begun, spans[0][0]) if spans else begun
                raise ServerError("server closed the connection unexpectedly")
            case "kill":
                raise Killed
            case "kill in a put":
                self.deadly = self.choose.choice(["before", "after"])
            case "outage":
                self.broken = self.choose.randrange(1, 6)
            case "push":  # the server's archive_command brings a whole segment too
                timeline, log = copy.timeline, server.logs[copy.timeline]
                start = self.choose.randrange(len(log) + 1) // SEGMENT * SEGMENT
                begun, end = self.begun[timeline], min(len(log), server.ended(timeline) or len(log))
                if self.archive.has(timeline, begun, begun + 1) and begun <= start <= end - SEGMENT:
                    self.archive.objects[timeline, start, start + SEGMENT] = bytes(log[start : start + SEGMENT])
            case "recycle" if copy.flowing:  # before, a slot may be ahead of what is wanted, and log really be lost
                for kept in server.slots.values():
                    server.available = max(server.available, kept - kept % SEGMENT)

    def fail(self, when):
        if self.deadly == when:
            self.deadly = None
            raise Killed
        if self.broken and self.choose.random() < 0.5:
            self.broken -= 1
            raise outage()

    def told(self, timeline, flushed):
        assert self.archive.has(timeline, self.begun.get(timeline, flushed), flushed), "told too much"

    def live(self):
        while self.left:
            with contextlib.suppress(
                Killed, StoreError, ServerError
            ):  # a first connection may be cut; then it starts again
                self.world.run()
        self.disasters, self.broken, self.deadly = (), 0, None
        self.world.stop = False
        self.world.event = lambda copy: None
        self.world.run(once=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32),
    st.sets(st.sampled_from(DISASTERS)),
    st.sampled_from([0.02, 0.1, 0.4]),
    st.sampled_from([SEGMENT, SEGMENT // 4]),
)
@example(1, set(), 0.0, SEGMENT)
@example(2, set(DISASTERS), 0.3, SEGMENT)
@example(356, set(DISASTERS) - {"cut"}, 0.4, SEGMENT // 4)  # killed with a hole behind a slot made after a failover
def test_the_vault_has_every_byte_that_the_server_was_told_is_safe(seed, disasters, rate, unit):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wal_intake, "_AHEAD", 2000)
        patch.setattr(wal_intake, "LARGEST", unit)
        patch.setattr(wal_intake, "_UNIT", unit)
        day = Day(seed, disasters, rate)
        day.live()
    server, archive = day.server, day.archive
    for (timeline, start, end), data in archive.objects.items():
        assert data == server.logs[timeline][start:end], "a byte is wrong"
    first = min(day.begun.values())
    for timeline, left in [(fork.timeline, fork.end) for fork in server.forks] + [(server.timeline, None)]:
        end = server.position if left is None else left
        if end > first and timeline >= min(day.begun):
            begun = day.begun.get(timeline, end)
            # A timeline's last segment is there again on the next one, from its beginning.
            assert archive.has(timeline, begun, end if left is None else end - end % SEGMENT), (timeline, begun, end)
    for timeline, files in archive.first.items():
        assert timeline == 1 or (history_name(timeline) in archive.files and files > 0)
