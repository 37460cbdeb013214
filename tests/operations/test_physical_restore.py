"""A physical backup in a vault, with its log there: planned, restored, started, proven."""

import datetime as dt
import re
import tarfile

import psycopg
import pytest

from keepwell.core.errors import UsageError
from keepwell.core.wal import is_segment, parse_lsn, parse_segment, show_lsn
from keepwell.operations.export import ExportRequest, export
from keepwell.operations.physical_restore import Wish
from keepwell.operations.verify import VerifyRequest, verify
from keepwell.sources import physical
from keepwell.sources.base import Recovery, RestoreRequest
from keepwell.sources.physical import canary, start
from support import workplace
from support.majors import EVERY, EVERY_NAMES
from support.physical import base_backup, into_streams
from support.physical_load import fill, give_to_server, load, logging_server, open_folder, require_balanced, run

pytestmark = pytest.mark.slow
SEGMENT = 16 << 20


class Site:
    """A server, its log in an archive folder, and a workplace with a vault that has a backup of it."""

    def __init__(self, server, archive, place, folder):
        self.server, self.archive, self.place, self.folder = server, archive, place, folder

    def ask(self, sql):
        with psycopg.connect(self.server.url().reveal(), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def backup(self, name):
        """As the capture makes it; its socket is where tests look for the started server."""
        base = base_backup(self.server, self.folder / name)
        self.sockets = self.folder / "sockets"
        self.sockets.mkdir(exist_ok=True, mode=0o700)
        give_to_server(self.sockets)
        (base / "postgresql.conf").write_text(f"unix_socket_directories='{self.sockets}'\nlisten_addresses=''\n")
        facts, streams = into_streams(self.server, base)
        ((time,),) = self.ask("SELECT clock_timestamp()")
        facts["wal"] |= {"stop": show_lsn(self.consistent()), "time": time.isoformat()}
        facts["checksums"] = self.ask("SHOW data_checksums")[0][0] == "on"
        with self.place.vault().begin(environment="production", tier="manual", now=self.place.clock.now()) as session:
            sink = session.sink("main")
            for stream in streams.names():
                writer = sink.stream(stream, "pages" if stream == "pages" else "content")
                writer.write(bytes(streams.data[stream]))
                writer.close()
            session.done("main", facts)
            return str(session.commit(database="cluster", host="test", seconds=1.0).id)

    def consistent(self):
        """Where the backup stopped: behind its last record, by the file that the server wrote about it."""
        found = None
        while found is None:
            # The server may still be copying it.
            texts = [path.read_text() for path in sorted(self.archive.glob("*.backup"))]
            found = re.search(r"STOP WAL LOCATION: (\S+)", texts[-1]) if texts else None
        return parse_lsn(found[1])

    def archived(self):
        """All log so far is in the vault."""
        self.ask("CREATE TABLE IF NOT EXISTS last (at timestamptz)")
        ((name,),) = self.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())")
        self.ask("INSERT INTO last VALUES (now())")
        self.ask("SELECT pg_switch_wal()")
        while not self.ask(f"SELECT 1 FROM pg_stat_archiver WHERE last_archived_wal >= '{name}'"):
            pass
        system = str(self.ask("SELECT system_identifier FROM pg_control_system()")[0][0])
        log = self.place.vault().wal("production", "main", system)
        for path in sorted(self.archive.iterdir()):
            if is_segment(path.name):
                timeline, at = parse_segment(path.name)
                log.put(timeline, at, path.read_bytes(), segment_size=SEGMENT, time=self.place.clock.now())

    def moment(self):
        run(self.server, 20)
        state = require_balanced(self.server.url().reveal())
        return self.ask("SELECT clock_timestamp()")[0][0], state

    def restore(self, to, **wish):
        return self.place.restore("production", source="main", to=str(to), wish=Wish(**wish))

    def proof(self, **more):
        return verify(self.place.loaded, VerifyRequest("production@latest", **more), self.place.context()).sources[
            "main"
        ]


@pytest.fixture(params=EVERY, ids=EVERY_NAMES)
def site(request):
    with open_folder() as folder:
        archive = folder / "archive"
        archive.mkdir()
        archive.chmod(0o777)
        settings = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
        with logging_server(request.param, folder / "source", settings=settings) as server:
            fill(server)
            place = workplace.make(folder / "work")
            yield Site(server, archive, place, folder)


def test_a_moment_is_planned_reached_and_told(site):
    backup = site.backup("first")
    time, state = site.moment()
    site.moment()
    site.archived()
    data = site.folder / "restored"
    try:
        result = site.restore(data, recovery=Recovery(time=time), start=True)
        assert require_balanced(f"host={site.sockets} user=postgres dbname=postgres") == state
    finally:
        if (data / "postmaster.pid").exists():
            start.stop(site.server.programs, data)
    found = result.json()["sources"]["main"]
    assert found["recovery"]["backup"] == backup
    assert found["recovery"]["bytes"] > 0
    assert dt.datetime.fromisoformat(found["reached"]["time"]) <= time
    command = next(
        line for line in (data / "postgresql.auto.conf").read_text().splitlines() if line.startswith("restore_command")
    )
    assert "wal fetch %f %p --source main --environment production" in command
    with pytest.raises(UsageError, match=r"does not go on|log"):
        site.restore(site.folder / "future", recovery=Recovery(time=time + dt.timedelta(days=1)))
    assert not (site.folder / "future").exists()


def test_a_proof_rehearses_a_random_moment_and_notices_missing_log(site):
    site.backup("first")
    for _ in range(3):
        site.moment()
        site.archived()
    proof = site.proof(level="checks")
    assert proof.findings == []
    assert proof.tables["public.pgbench_accounts"] == {"rows": 100_000, "equal": True}
    assert proof.recovery["wanted"].startswith("2")
    assert proof.recovery["reached"]["timeline"] == 2
    vault = site.place.vault()
    parts = [name for name in site.place.objects("wal/") if "/files/" not in name]
    vault.store.delete(parts[len(parts) // 2])
    assert "log" in [finding.what for finding in site.proof(level="objects").findings]


def test_a_backup_without_log_is_proven_by_itself_and_says_so(site):
    site.backup("first")
    proof = site.proof(level="round-trip")
    assert proof.findings == []
    assert any("no log of this cluster" in warning for warning in proof.warnings)
    report = site.restore(site.folder / "restored").sources["main"].report
    assert report.files > 900
    with pytest.raises(UsageError, match="no log"):
        site.restore(site.folder / "other", recovery=Recovery(time=site.moment()[0]))


def test_the_exported_copy_starts_without_keepwell(site):
    site.backup("first")
    made = export(site.place.loaded, ExportRequest("production", "main", site.folder / "out"), site.place.context())
    data = site.folder / "plain"
    data.mkdir(mode=0o700)
    with tarfile.open(made.file) as archive:
        archive.extractall(data, filter="fully_trusted")
    for path in [data, *data.rglob("*")]:
        give_to_server(path)
    starter = start._Starter(site.server.programs, data)
    code, _ = starter.run("start", "-w", "-s", "-l", str(data / "log"))
    assert code == 0, (data / "log").read_text()
    try:
        assert require_balanced(f"host={site.sockets} user=postgres dbname=postgres").transactions == 0
    finally:
        start.stop(site.server.programs, data)


def test_a_backup_that_keepwell_took_is_proven_and_comes_back_to_a_moment(site):
    site.ask(f"CREATE TABLESPACE fast LOCATION '{new_place(site)}'")
    site.ask("CREATE TABLE notes TABLESPACE fast AS SELECT n FROM generate_series(1, 5000) n")
    (site.place.folder / "url").write_text(site.server.url().reveal())
    site.place.write_policy(
        more="""
[environments.production.sources.main]
type = "postgres"
method = "physical"
url = { file = "url" }
critical_tables = ["pgbench_accounts"]
canary = true
checks = [{ name = "books balance", sql = "SELECT sum(abalance) - (SELECT sum(delta) FROM pgbench_history) FROM pgbench_accounts", expect = "= 0" }]
"""
    )
    with load(site.server):
        assert site.place.backup(sources=["main"]).sources["main"].status == "complete"
        # The backup's end is noted in whole seconds.
        ((end,),) = site.ask("SELECT clock_timestamp() + interval '1 second'")
        time = end
        while time <= end:
            ((time,),) = site.ask("SELECT clock_timestamp()")
    site.archived()
    proof = site.proof(level="checks", sources=("main",))
    assert proof.findings == []
    assert [check.passed for check in proof.checks] == [True, True]
    bird = proof.recovery["canary"]
    beyond = parse_lsn(proof.recovery["reached"]["lsn"]) >= parse_lsn(
        site.place.vault().read(site.place.listed()[-1]).facts("main")["canary"]["lsn"]
    )
    assert bird["there"] or not beyond
    assert proof.tables["public.notes"] == {"rows": 5000, "equal": True}
    data = site.folder / "restored"
    wish = {"tablespaces": ((str(site.folder / "tablespace"), str(site.folder / "moved")),)}
    result = site.restore(data, recovery=Recovery(time=time), **wish)
    assert result.sources["main"].plan.recovery.time or result.sources["main"].plan.recovery.lsn
    again = site.restore(data, recovery=Recovery(time=time), delta=True, **wish)
    assert again.sources["main"].report.written < 100_000


def new_place(site):
    place = site.folder / "tablespace"
    place.mkdir()
    give_to_server(place)
    return place


def test_a_canary_that_a_recovery_does_not_bring_back_is_a_finding(site):
    site.backup("first")
    then = canary.write(site.server.url(), "postgres")
    context = site.place.context()
    reader = site.place.vault().read(site.place.listed()[-1])
    facts = reader.facts("main") | {"canary": then}
    with physical.sandbox(facts, context) as target:
        physical.restore(facts, reader.streams("main"), target, RestoreRequest(), context)
        physical.examine(target, facts, context)
        assert canary.look(target, facts) == ({"time": then["time"], "there": False, "newest": None}, [])
        target.reached["lsn"] = show_lsn(parse_lsn(then["lsn"]) + 8)
        _, findings = canary.look(target, facts)
    assert [finding.what for finding in findings] == ["canary"]
