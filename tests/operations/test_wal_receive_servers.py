"""The receiver's bad days with real servers, PostgreSQL 14 to 18, and a real vault."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from keepwell.core.errors import Busy, ProgramMissing
from keepwell.core.wal import history_name, parse_segment, segment_name, show_lsn
from keepwell.operations import wal_receiver
from keepwell.operations.wal_contracts import LogLost
from keepwell.operations.wal_start import NEAR
from keepwell.sources.physical.slot import slot_state
from keepwell.sources.postgres.programs import servers
from keepwell.vault.wal import WalConflict
from operations import walbench
from operations.walbench import SLOT, Bench, Running, position, run, write
from support.majors import EVERY, EVERY_NAMES

pytestmark = pytest.mark.slow


@pytest.fixture
def folder():
    made = Path(tempfile.mkdtemp(prefix="keepwell-wal-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=EVERY, ids=EVERY_NAMES)
def programs(request):
    try:
        found = servers(request.param)
    except ProgramMissing as missing:
        found, reason = None, missing.message
    if found is None or found.major != request.param:
        reason = f"no PostgreSQL {request.param} here; tests/setup.sh installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    return found


@pytest.fixture
def server(programs, folder):
    with walbench.server(programs, folder / "server") as running:
        yield running


@pytest.fixture
def bench(folder):
    return Bench(folder)


def test_what_the_server_wrote_is_in_the_vault_byte_for_byte(server, bench):
    write(server)
    first = bench.once(server.url())
    end = write(server)
    second = bench.once(server.url())
    assert second.position >= end
    assert second.bytes < end - first.position + (16 << 20), "it goes on where it ended"
    bench.same(server, second)


def test_the_slot_keeps_nothing_that_the_vault_has(server, bench):
    write(server)
    received = bench.once(server.url())
    state = slot_state(server.url(), SLOT)
    assert state.exists
    assert state.wal_status == "reserved"
    assert state.restart == received.position
    assert state.limit is None
    assert "max_slot_wal_keep_size" in state.advice


def test_no_slot_is_told_as_such(server):
    state = slot_state(server.url(), SLOT)
    assert not state.exists
    assert "wal receive" in state.advice


def test_pending_bytes_are_stored_while_the_segment_goes_on(server, bench):
    with Running(bench, server.url()) as running:
        running.stored(write(server, 10))
        running.stored(write(server, 10))
    assert running.error is None
    assert running.received.connections == 1
    bench.same(server, running.received)


def test_kill_9_at_random_moments_leaves_no_gap(server, bench, folder):
    """Each time a receiver dies, what its server was told is safe must be in the vault."""
    choose = random.Random(server.programs.major)
    driver = Path(__file__).with_name("wal_driver.py")
    stop = threading.Event()

    def load():
        while not stop.is_set():
            write(server, 3000)

    writer = threading.Thread(target=load)
    writer.start()
    try:
        for _ in range(8):
            process = subprocess.Popen(
                [sys.executable, str(driver), str(folder), server.url().reveal()],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": str(driver.parent.parent)},
            )
            for _ in range(choose.randrange(1, 25)):  # it writes a line for each put, before and after
                if not process.stdout.readline():
                    break
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            told = slot_state(server.url(), SLOT)
            if told.exists and (systems := bench.vault.wal_systems("production", "app")):
                spans = bench.archive(systems[0]).coverage().spans(1)
                # Pieces are stored side by side: behind what it was told a later one may be there before an earlier one.
                assert not told.restart or not spans or spans[0][1] >= told.restart
    finally:
        stop.set()
        writer.join()
    received = bench.once(server.url())
    bench.same(server, received)


def test_a_restart_of_the_server_is_lived_through(server, bench):
    with Running(bench, server.url, every=30.0) as running:
        write(server)
        running.until(lambda me: me.receiver.received.connections)
        server.stop()  # waits for the receiver: everything must be stored first
        server.start()
        end = write(server)
        running.receiver._flow.goal = end
        running.until(lambda me: me.received is not None or me.error)
    assert running.error is None
    assert running.received.connections >= 2
    assert running.received.position >= end
    bench.same(server, running.received)


def test_a_crash_of_the_server_is_lived_through(server, bench):
    with Running(bench, server.url) as running:
        write(server)
        running.until(lambda me: me.receiver.received.bytes)
        server.stop(keep=False)
        server.start()
        running.stored(write(server))
    assert running.error is None
    bench.same(server, running.received)


def test_an_idle_server_is_no_stall(programs, folder, bench):
    with walbench.server(programs, folder / "server", wal_sender_timeout="1s") as server:
        sent = []
        with Running(bench, server.url()) as running:
            running.until(lambda me: me.receiver.received.connections)
            run(server, "SELECT pg_sleep(4)")  # four times what the server bears without a word
            running.stored(write(server, 5))
        assert running.error is None
        assert running.received.connections == 1, sent
        assert "terminating walsender" not in server.log.read_text()


def test_a_store_that_is_away_holds_the_log_back_on_the_server(server, bench):
    with Running(bench, server.url()) as running:
        running.stored(write(server, 100))
        bench.store.away = True
        end = write(server, 400_000)  # more than the buffer may take
        running.until(lambda me: any("takes no log" in text for text in me.warnings))
        held = slot_state(server.url(), SLOT)
        assert held.restart < end
        assert held.restart <= bench_end(bench, running)
        bench.store.away = False
        running.stored(end)
    assert running.error is None
    assert any("takes log again" in text for text in running.notes)
    bench.same(server, running.received)


def bench_end(bench, running):
    bench.store.away = False
    try:
        return bench.archive(running.receiver.received.system).coverage().end(1)
    finally:
        bench.store.away = True


def test_a_server_can_be_stopped_while_the_store_is_away(server, bench):
    with Running(bench, server.url) as running:
        running.stored(write(server, 100))
        bench.store.away = True
        write(server, 100)
        running.until(lambda me: any("takes no log" in text for text in me.warnings))
        server.stop()
        assert "database system is shut down" in server.log.read_text()
        assert any("letting it go" in text for text in running.warnings)
        bench.store.away = False
        server.start()
        running.stored(write(server, 100))
    assert running.error is None
    bench.same(server, running.received)


def test_log_that_comes_by_archiving_too_is_no_conflict(server, bench):
    write(server)
    first = bench.once(server.url())
    archive = bench.archive(first.system)
    with Running(bench, server.url()) as running:
        for _ in range(3):
            write(server, 60_000)
            done = position(server) // (16 << 20) * (16 << 20)
            for path in sorted((server.data / "pg_wal").glob("0" * 7 + "1*")):
                line, begin = parse_segment(path.name)
                if begin < done and begin >= archive.coverage().spans(1)[0][0]:
                    archive.put(
                        line, begin, path.read_bytes(), segment_size=16 << 20, time=running.receiver._clock.now()
                    )
        running.stored(position(server))
    assert running.error is None
    bench.same(server, running.received)


def test_log_that_is_missing_behind_the_slot_is_asked_for(server, bench):
    first = bench.once(server.url())
    last = write(server, 250_000) // (16 << 20) * (16 << 20) - (16 << 20)
    assert first.position < last < first.position + NEAR
    archive = bench.archive(first.system)
    whole = (server.data / "pg_wal" / segment_name(1, last, 16 << 20)).read_bytes()
    archive.put(1, last, whole, segment_size=16 << 20, time=walbench.SystemClock().now())
    run(server, f"SELECT pg_replication_slot_advance('{SLOT}', '{show_lsn(last + 100)}')")
    assert len(archive.coverage().spans(1)) == 2
    bench.same(server, bench.once(server.url()))


def test_other_bytes_in_the_vault_end_the_receiver(server, bench):
    write(server)
    received = bench.once(server.url())
    archive = bench.archive(received.system)
    begin = received.position // (16 << 20) * (16 << 20) + (16 << 20)
    end = write(server, 400_000)
    assert end > begin + (16 << 20)
    archive.put(1, begin, b"\1" * (16 << 20), segment_size=16 << 20, time=walbench.SystemClock().now())
    with pytest.raises(WalConflict):
        bench.once(server.url())


def test_a_second_receiver_is_busy(server, bench, monkeypatch):
    monkeypatch.setattr(wal_receiver, "BUSY", 0.3)
    with Running(bench, server.url()) as running:
        running.stored(write(server, 10))
        with pytest.raises(Busy, match="another receiver"):
            bench.once(server.url())
    assert running.error is None


def test_a_lost_slot_names_the_gap_and_the_way_out(programs, folder, bench):
    limits = {"max_slot_wal_keep_size": "16MB", "wal_keep_size": "0", "min_wal_size": "32MB", "max_wal_size": "64MB"}
    with walbench.server(programs, folder / "server", **limits) as server:
        write(server)
        before = bench.once(server.url()).position
        for _ in range(6):
            write(server, 60_000)
            run(server, "CHECKPOINT")
        assert slot_state(server.url(), SLOT).lost
        with pytest.raises(LogLost, match="timeline 1") as caught:
            bench.once(server.url())
        assert "--accept-gap" in caught.value.hint
        assert not slot_state(server.url(), SLOT).exists, "it would only fill the disk"
        received = bench.once(server.url(), accept_gap=True)
        assert [(line, start) for line, start, _ in received.gaps] == [(1, before)]
        end = write(server, 100)
        again = bench.once(server.url())
        assert again.position >= end
        spans = bench.archive(again.system).coverage().spans(1)
        assert len(spans) == 2
        assert spans[0][1] == before


@pytest.fixture
def standby(programs, folder, server):
    """A copy of the server that follows it."""
    write(server)
    other = walbench.server(programs, folder / "standby")
    other._make_folder()
    made = subprocess.run(
        [programs.path("pg_basebackup"), "-D", str(other.data), "-c", "fast", "-R", "--no-sync", "-X", "stream"],
        env=server.address().environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    # What -R writes names options that an older libpq refuses, and a wheel's server may load the system's.
    with (other.data / "postgresql.auto.conf").open("a") as settings:
        address = " ".join(f"{name}={server.address().get(name)}" for name in ("host", "port", "user"))
        settings.write(f"primary_conninfo = '{address}'\n")
    if other._user is not None:
        for path in [other.data, *other.data.rglob("*")]:
            os.chown(path, other._user.pw_uid, other._user.pw_gid, follow_symlinks=False)
    other.start()
    yield other
    other.stop(keep=False)


def caught_up(standby, end):
    """Waits in the standby itself, where it replays."""
    run(
        standby,
        f"""DO $$ BEGIN
            FOR i IN 1..3000 LOOP
                EXIT WHEN pg_last_wal_replay_lsn() >= '{end >> 32:X}/{end & 0xFFFFFFFF:X}';
                PERFORM pg_sleep(0.01);
            END LOOP; END $$""",
    )


def test_a_standby_that_is_promoted_while_it_streams_goes_on_with_its_new_timeline(server, standby, bench):
    with Running(bench, standby.url()) as running:
        end = write(server)
        running.stored(end)
        caught_up(standby, end)
        run(standby, "SELECT pg_promote()")
        last = write(standby)
        running.until(lambda me: me.receiver.received.timeline == 2)
        running.stored(last)
    assert running.error is None
    assert running.received.switches == 1
    archive = bench.archive(running.received.system)
    history = (standby.data / "pg_wal" / history_name(2)).read_bytes()
    assert archive.read_file(history_name(2)) == history
    bench.same(standby, running.received, timeline=2)
    coverage = archive.coverage()
    (fork,) = coverage.history(2)
    assert coverage.end(1) == fork.end
    path = coverage.path_to(2, 1, coverage.spans(1)[0][0])
    assert path[-1][2] >= last


def test_a_failover_goes_on_with_the_new_primary_without_a_gap(server, standby, bench):
    address = {"now": server}

    def url():
        return address["now"].url()

    with Running(bench, url) as running:
        end = write(server)
        running.stored(end)
        caught_up(standby, end)
        address["now"] = standby
        server.stop(keep=False)
        run(standby, "SELECT pg_promote()")
        last = write(standby)
        running.until(lambda me: me.receiver.received.timeline == 2)
        running.stored(last)
    assert running.error is None
    assert any("another server" in text for text in running.warnings)
    bench.same(standby, running.received, timeline=2)
    coverage = bench.archive(running.received.system).coverage()
    assert coverage.gaps(1) == []
    assert coverage.path_to(2, 1, coverage.spans(1)[0][0])[-1][2] >= last


def test_told_to_end_it_ends_with_everything_stored(server, bench):
    with Running(bench, server.url(), every=1000.0) as running:
        write(server, 50)
        running.until(lambda me: me.receiver._flow and me.receiver._flow.intake and me.receiver._flow.intake.waiting)
    assert running.error is None
    bench.same(server, running.received)
    assert slot_state(server.url(), SLOT).restart == running.received.position
