"""The reader of the write-ahead log, against pg_waldump of the server that wrote it, and against nonsense."""

import contextlib
import datetime as dt
import os
import re
import struct
import subprocess

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepwell.core.wal import is_segment, parse_lsn, parse_segment, show_lsn
from keepwell.sources.physical.records import PAGE, Moment, Scanner, stamp_of, time_of
from support.made_log import NOW, SEGMENT, Made
from support.physical_load import fill, logging_server, open_folder, run

WALDUMP = re.compile(
    r"rmgr: (\S+)\s+len \(rec/tot\):\s+\d+/\s*(\d+), tx:\s+(\d+), lsn: (\S+), prev \S+, desc: (\S+)(.*)"
)
PREPARED_AND_NESTED = """
BEGIN; INSERT INTO notes VALUES (1); SAVEPOINT a; INSERT INTO notes VALUES (2); RELEASE a; COMMIT;
BEGIN; INSERT INTO notes VALUES (3); ROLLBACK;
BEGIN; INSERT INTO notes VALUES (4); PREPARE TRANSACTION 'one'; COMMIT PREPARED 'one';
BEGIN; INSERT INTO notes VALUES (5); PREPARE TRANSACTION 'two'; ROLLBACK PREPARED 'two';
BEGIN; CREATE TABLE more (n int); INSERT INTO more SELECT generate_series(1, 5000); DROP TABLE notes; COMMIT;
SELECT pg_create_restore_point('before the move');
CHECKPOINT;
"""


class Log:
    """What a real server wrote, as (position, bytes) of whole segments, and what pg_waldump says of it."""

    def __init__(self, server, size):
        self.size = size
        folder = server.data / "pg_wal"
        with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
            self.end = parse_lsn(connection.execute("SELECT pg_current_wal_insert_lsn()").fetchone()[0])
            self.system = connection.execute("SELECT system_identifier FROM pg_control_system()").fetchone()[0]
        names = sorted(name for name in os.listdir(folder) if is_segment(name))
        starts = [parse_segment(name, size)[1] for name in names]
        self.segments = [
            (start, (folder / name).read_bytes()) for name, start in zip(names, starts, strict=True) if start < self.end
        ]
        self.start = self.segments[0][0]
        command = [server.programs.path("pg_waldump"), "-p", str(folder), "-s", show_lsn(self.start)]
        command += ["-e", show_lsn(self.end)]
        dumped = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TZ": "UTC"}, check=False)
        self.lines = [WALDUMP.match(line) for line in dumped.stdout.splitlines()]
        assert self.lines, dumped
        assert all(self.lines), dumped

    @property
    def expected(self):
        """(position, kind, time or name, transaction) of each record that tells a time, by pg_waldump."""
        found = []
        for manager, _, xid, lsn, what, rest in (line.groups() for line in self.lines):
            kind = {"COMMIT": "commit", "COMMIT_PREPARED": "commit", "ABORT": "abort", "ABORT_PREPARED": "abort"}.get(
                what
            )
            if manager == "Transaction" and kind:
                time = re.search(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) UTC", rest)
                found.append((parse_lsn(lsn), kind, dt.datetime.fromisoformat(f"{time[1]}+00:00"), int(xid)))
            if manager == "XLOG" and what == "RESTORE_POINT":
                found.append((parse_lsn(lsn), "restore point", rest.strip(), int(xid)))
        return found


def told(moments):
    return [
        (m.lsn, m.kind, m.name if m.kind == "restore point" else m.time, m.xid)
        for m in moments
        if m.kind in {"commit", "abort", "restore point"}
    ]


def scan(pieces, size):
    scanner = Scanner(segment_size=size)
    return scanner, [moment for start, data in pieces for moment in scanner.feed(start, data)]


@pytest.fixture(
    scope="module", params=[(15, 16 << 20), (18, 16 << 20), (18, 1 << 20)], ids=["15", "18", "18-1MB-segments"]
)
def log(request):
    major, size = request.param
    with open_folder() as folder:
        # Nothing may commit by itself between the question where the log ends and the look at it.
        more = {"max_prepared_transactions": "4", "track_commit_timestamp": "on", "autovacuum": "off"}
        with logging_server(major, folder / "server", settings=more, segment_size=size) as server:
            fill(server)
            run(server, 2000, clients=2)
            with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
                connection.execute("CREATE TABLE notes (n int)")
                for statement in PREPARED_AND_NESTED.strip().replace(";\n", ";").split(";")[:-1]:
                    connection.execute(statement)
                connection.execute("SELECT pg_switch_wal()")
            run(server, 200)
            yield Log(server, size)


@pytest.mark.slow
class TestAgainstPgWaldump:
    def test_every_commit_abort_and_restore_point_is_found_with_its_place_and_time(self, log):
        scanner, moments = scan(log.segments, log.size)
        assert told(moments) == log.expected
        assert {m.kind for m in moments} >= {"commit", "abort", "restore point", "checkpoint"}
        assert scanner.system == log.system

    def test_the_log_may_come_in_pieces_of_any_size(self, log):
        whole = scan(log.segments, log.size)
        stream, at = b"".join(data for _, data in log.segments), log.start
        step = 100_003
        pieces = [(at + n, stream[n : n + step]) for n in range(0, len(stream), step)]
        scanner, moments = scan(pieces, log.size)
        assert (moments, scanner.end) == (whole[1], whole[0].end)

    def test_byte_by_byte_it_is_the_same(self, log):
        # Not the last segment, which may hold hardly anything: the last bytes up to a commit.
        stream = b"".join(data for _, data in log.segments)
        end = log.expected[-1][0] + 64
        start = (end - 40_000) // PAGE * PAGE
        used = stream[start - log.start : end - log.start]
        whole = scan([(start, used)], log.size)
        scanner, moments = scan([(start + n, used[n : n + 1]) for n in range(len(used))], log.size)
        assert (moments, scanner.end) == (whole[1], whole[0].end)
        assert moments

    def test_a_record_counts_once_its_last_byte_is_there(self, log):
        start, data = log.segments[0]
        _, moments = scan([(start, data)], log.size)
        for moment in [m for m in moments if m.kind == "commit"][-3:]:
            _, there = scan([(start, data[: moment.end - start])], log.size)
            _, cut = scan([(start, data[: moment.end - start - 1])], log.size)
            assert there[-1] == moment
            assert moment not in cut

    def test_any_page_will_do_to_begin_with(self, log):
        start, data = log.segments[0]
        _, moments = scan(log.segments, log.size)
        for page in range(1, 40, 3):
            skipped = page * PAGE - 5
            _, found = scan([(start + skipped, data[skipped:]), *log.segments[1:]], log.size)
            assert found == [m for m in moments if m.lsn >= found[0].lsn]
            assert found[0].lsn >= start + page * PAGE
            assert len(moments) - len(found) == len([m for m in moments if m.lsn < found[0].lsn])

    def test_the_end_is_where_the_server_was(self, log):
        scanner, _ = scan([(s, d) for s, d in log.segments], log.size)
        # The log's last record may be a snapshot of the running transactions that came after the question.
        assert scanner.end >= log.end - PAGE
        lsns = [parse_lsn(line[4]) for line in log.lines]
        assert scanner.end > lsns[-1]

    def test_a_missing_segment_is_not_read_over(self, log):
        scanner = Scanner(segment_size=log.size)
        scanner.feed(*log.segments[0])
        with pytest.raises(ValueError, match="goes on at"):
            scanner.feed(log.segments[0][0] + 2 * log.size, log.segments[0][1])

    def test_log_of_another_segment_size_is_refused(self, log):
        with pytest.raises(ValueError, match="segments of"):
            scan([(log.start, log.segments[0][1])], 64 << 20)


class TestPages:
    @pytest.mark.parametrize("room", [0, 8, 16, 24, 32, 40])
    def test_a_commit_may_be_cut_by_the_end_of_a_page_anywhere(self, room):
        made = Made()
        made.commit()
        made.fill_page(room)
        lsn = made.commit()
        _, moments = made.scan()
        assert [m.lsn for m in moments] == [made.places[0], lsn]
        assert moments[-1].time == NOW
        assert moments[-1].end == made.at

    @pytest.mark.parametrize("room", [8, 24, 200])
    def test_a_long_commit_may_go_over_pages_and_segments(self, room):
        made = Made(start=2 * SEGMENT - 2 * PAGE)
        made.fill_page(0)
        made.fill_page(room)
        lsn = made.commit(padding=30_000)
        made.commit()
        _, moments = made.scan()
        assert [m.lsn for m in moments] == [lsn, made.places[-1]]

    def test_what_a_crash_left_unfinished_and_the_server_wrote_over_is_passed_over(self):
        made = Made()
        made.commit()
        made.fill_page(200)
        before = made.previous
        made.commit(padding=3000)  # of which only what is on this page was ever written
        del made.data[PAGE:]
        made.page(flags=8)
        made.previous = before
        made.record(0, 0xD0, bytes(16))
        last = made.commit()
        for step in (None, 1):
            scanner = Scanner(segment_size=SEGMENT)
            pieces = [bytes(made.data)] if step is None else [made.data[n : n + 1] for n in range(len(made.data))]
            moments, at = [], made.start
            for piece in pieces:
                moments += scanner.feed(at, piece)
                at += len(piece)
            assert [m.lsn for m in moments] == [made.places[0], last]

    def test_the_rest_of_a_segment_after_a_switch_is_nothing(self):
        made = Made()
        made.commit()
        made.record(0, 0x40, b"")
        made.data += bytes(SEGMENT - len(made.data))
        last = made.commit()
        scanner, moments = made.scan()
        assert [m.lsn for m in moments] == [made.places[0], last]
        assert scanner.end == made.at

    def test_the_log_ends_where_there_are_only_zeros(self):
        made = Made()
        made.commit()
        end = made.at
        made.data += bytes(5 * PAGE - len(made.data))
        scanner, moments = made.scan()
        assert len(moments) == 1
        assert scanner.end == end

    @pytest.mark.parametrize("zeros", [PAGE, SEGMENT], ids=["to the end of the page", "to the end of the segment"])
    def test_log_behind_zeros_that_no_switch_explains_is_an_error(self, zeros):
        made = Made()
        made.commit()
        made.data += bytes(zeros - len(made.data))
        made.page()
        made.commit()
        with pytest.raises(ValueError, match=r"stop at|no record"):
            made.scan()

    def test_a_record_that_does_not_follow_the_one_before_is_an_error(self):
        made = Made()
        made.commit()
        made.previous += 8
        made.commit()
        with pytest.raises(ValueError, match="follows one at"):
            made.scan()

    def test_a_page_of_an_earlier_use_of_the_file_is_an_error(self):
        made = Made()
        made.fill_page(0)
        made.data += struct.pack("<HHIQI4x", 0xD118, 0, 1, made.at % SEGMENT, 0) + bytes(PAGE - 24)
        with pytest.raises(ValueError, match="says that it is"):
            made.scan()

    def test_segments_of_two_clusters_are_told_apart(self):
        made = Made()
        while len(made.data) < SEGMENT - PAGE:
            made.record(10, 0, bytes(5000))
        made.fill_page(0)
        assert made.at == 2 * SEGMENT
        made.system = 78
        made.commit()
        with pytest.raises(ValueError, match="of cluster 78, not 77"):
            made.scan()

    def test_a_time_that_cannot_be_is_an_error_and_no_overflow(self):
        made = Made()
        made.record(1, 0, struct.pack("<q", 2**63 - 1))
        with pytest.raises(ValueError, match="time"):
            made.scan()

    def test_the_rest_of_a_segment_after_a_switch_need_not_be_fed(self):
        made = Made()
        made.commit()
        assert made.scan()[0].wants == made.at
        made.record(0, 0x40, b"")
        scanner, _ = made.scan()
        assert scanner.wants == 2 * SEGMENT
        made.data += bytes(SEGMENT - len(made.data))
        made.commit()
        (moment,) = scanner.feed(2 * SEGMENT, bytes(made.data[SEGMENT:]))
        assert moment.lsn == made.places[-1] == scanner.last

    def test_names_of_restore_points_may_have_any_letters(self):
        made = Made()
        made.record(0, 0x70, struct.pack("<q64s", stamp_of(NOW), "vor der Übergabe".encode()))
        _, (moment,) = made.scan()
        assert (moment.kind, moment.name, moment.time) == ("restore point", "vor der Übergabe", NOW)

    def test_commits_that_came_from_another_server_are_read(self):
        made = Made()
        body = struct.pack("<BHBBq", 253, 5, 255, 8, stamp_of(NOW))
        here = made.at + 40
        made.page()
        made.data += struct.pack("<IIQBB2xI", 24 + len(body), 9, 0, 0x80, 1, 0) + body + bytes(-len(body) % 8)
        _, moments = made.scan()
        assert moments == [Moment(here, made.at, "commit", stamp_of(NOW), 9)]

    def test_stamps_and_times_are_each_other_to_the_microsecond(self):
        assert time_of(stamp_of(NOW)) == NOW


@st.composite
def logs(draw):
    """A valid log, and the moments in it."""
    made = Made(start=draw(st.sampled_from([SEGMENT, 2 * SEGMENT - PAGE, 2 * SEGMENT - 3 * PAGE])))
    if made.at % SEGMENT:
        made.page()
    expected = []
    for size in draw(st.lists(st.integers(0, 9000), max_size=30)):
        if size % 3:
            made.record(10, 0, bytes(size))
        else:
            expected.append(made.commit(padding=size // 3 if size % 2 else 0, xid=size))
    return made, expected


class TestNonsense:
    @settings(max_examples=60, deadline=None)
    @given(logs(), st.data())
    def test_however_a_log_is_cut_up_the_same_moments_are_found(self, log, data):
        made, expected = log
        whole = bytes(made.data)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
        scanner, moments = Scanner(segment_size=SEGMENT), []
        for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            moments += scanner.feed(made.start + begin, whole[begin:end])
        assert [m.lsn for m in moments] == expected
        assert scanner.end == (made.at if made.places else None)

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(logs(), st.data())
    def test_altered_bytes_give_moments_or_a_clear_error(self, log, data):
        made, _ = log
        raw = bytearray(made.data)
        for place, value in data.draw(
            st.lists(st.tuples(st.integers(0, max(len(raw) - 1, 0)), st.integers(0, 255)), min_size=1, max_size=8)
        ):
            if place < len(raw):
                raw[place] = value
        fed(made.start, bytes(raw))

    @settings(max_examples=200, deadline=None)
    @given(st.integers(0, 2**40), st.binary(max_size=3 * PAGE))
    def test_any_bytes_give_moments_or_a_clear_error(self, start, raw):
        fed(start, raw)

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=2 * PAGE))
    def test_any_payload_on_good_pages_gives_moments_or_a_clear_error(self, payload):
        made = Made()
        while payload:
            if made.at % PAGE == 0:
                made.page()
            room = PAGE - made.at % PAGE
            made.data += payload[:room]
            payload = payload[room:]
        fed(made.start, bytes(made.data))


def fed(start, raw):
    """Nothing but a ValueError may come out of it, and no moment from elsewhere."""
    with contextlib.suppress(ValueError):
        moments = Scanner(segment_size=SEGMENT).feed(start, raw)
        assert all(start <= m.lsn < m.end <= start + len(raw) and m.time for m in moments)
