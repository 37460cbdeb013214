"""`wal status` beside a real server: windows, gaps, and how far behind the vault is."""

from pathlib import Path

import psycopg
import pytest

from keepwell.core.clock import SystemClock
from keepwell.core.errors import UsageError
from keepwell.core.streams import Context
from keepwell.core.wal import parse_lsn
from keepwell.operations.backup import BackupRequest, backup
from keepwell.operations.init import init
from keepwell.operations.opening import open_vault
from keepwell.operations.wal_push import PushRequest, push
from keepwell.operations.wal_status import StatusRequest, wal_status
from keepwell.policy.load import load
from keepwell.sources.postgres.server import free_port
from support.physical_load import logging_server, open_folder

pytestmark = pytest.mark.slow

POLICY = """\
version = 1
project = "Status"

[vault]
store = "file://{folder}/vault"
key = {{ file = "vault.key" }}

[environments.production.sources.app]
type = "postgres"
method = "physical"
url = {{ file = "url" }}
"""


class Place:
    def __init__(self, folder, server):
        self.folder, self.server = folder, server
        (folder / "url").write_text(server.url().reveal())
        (folder / "keepwell.toml").write_text(POLICY.format(folder=folder))
        init(self.loaded, self.context())

    @property
    def loaded(self):
        return load(self.folder / "keepwell.toml")

    def context(self):
        return Context(cache=self.folder / "cache", clock=SystemClock())

    def status(self, **more):
        (found,) = wal_status(self.loaded, StatusRequest(**more), self.context())
        return found

    def ask(self, sql):
        with psycopg.connect(self.server.url().reveal(), autocommit=True) as connection:
            return connection.execute(sql).fetchone()[0]

    def push_all(self, but=""):
        """What is finished, as the server would hand it over."""
        self.ask("SELECT pg_switch_wal()")
        wal = Path(self.server.data) / "pg_wal"
        current = self.ask("SELECT pg_walfile_name(pg_current_wal_lsn() + 1)")
        log = self.log()
        known = {part.segment for part in log.coverage().parts} if log else set()
        for path in sorted(wal.glob("0000*")):
            if len(path.name) == 24 and path.name < current and path.name not in {*known, but}:
                push(self.loaded, PushRequest(path), self.context())

    def log(self):
        vault = open_vault(self.loaded)
        systems = vault.wal_systems("production", "app")
        return vault.wal("production", "app", *systems) if systems else None

    def write(self, megabytes):
        """So much log, at least."""
        self.ask(f"INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, {megabytes * 1000}) RETURNING 1")


@pytest.fixture(scope="module")
def server():
    settings = {"archive_mode": "on", "archive_command": "/bin/true"}
    with (
        open_folder() as folder,
        logging_server(15, folder / "server", settings=settings, segment_size=1 << 20) as server,
    ):
        with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
            connection.execute("CREATE TABLE t (filler text)")
        yield server


@pytest.fixture
def place(server, tmp_path):
    return Place(tmp_path, server)


def test_the_window_grows_with_the_log_and_ends_at_a_gap(place):
    before = place.status()
    assert any("no physical backup" in problem for problem in before.problems)
    assert any("has no log" in problem for problem in before.problems)
    backup(place.loaded, BackupRequest("production"), place.context())
    place.write(2)
    middle = place.ask("SELECT now()")
    place.write(2)
    place.push_all()
    found = place.status()
    assert found.problems == []
    (cluster,) = found.clusters
    (window,) = cluster.windows
    assert window.begin < middle < window.end
    assert found.system == cluster.system
    assert found.behind_bytes < 1 << 20
    assert window.end_lsn <= parse_lsn(place.ask("SELECT pg_current_wal_lsn()::text"))
    place.write(5)
    behind = place.status()
    assert behind.behind_bytes > found.behind_bytes
    assert behind.behind_seconds >= 0
    place.push_all()
    parts = place.log().coverage().parts
    lost = parts[-3]
    open_vault(place.loaded).store.delete(lost.name)
    broken = place.status()
    assert any("a gap" in problem for problem in broken.problems)
    assert broken.clusters[0].windows[0].end_lsn == lost.start
    assert broken.clusters[0].windows[0].gap[1] == lost.start
    assert [(gap.start, gap.end) for gap in broken.clusters[0].gaps] == [(lost.start, lost.end)]
    backup(place.loaded, BackupRequest("production"), place.context())
    place.push_all(but=lost.segment)
    around = place.status()
    (before_it, after_it) = around.clusters[0].windows
    assert before_it.gap[1] == lost.start
    assert after_it.gap is None
    assert after_it.begin > before_it.end
    place.push_all()
    mended = place.status()
    (whole,) = mended.clusters[0].windows
    assert (whole.begin, len(whole.backups)) == (window.begin, 2)
    assert mended.clusters[0].gaps == mended.problems == []


def test_a_server_that_does_not_answer_is_told_and_the_vault_s_side_stays(place):
    backup(place.loaded, BackupRequest("production"), place.context())
    place.push_all()
    (place.folder / "url").write_text(f"postgresql://postgres@127.0.0.1:{free_port()}/postgres?connect_timeout=5")
    found = place.status()
    assert found.unreachable
    assert any(found.unreachable in problem for problem in found.problems)
    assert found.behind_bytes is None
    assert len(found.clusters[0].windows) == 1
    assert place.status(ask=False).unreachable == ""


def test_a_writer_key_sees_positions_and_says_what_it_cannot(place):
    backup(place.loaded, BackupRequest("production"), place.context())
    place.push_all()
    key = place.folder / "writer.key"
    open_vault(place.loaded).add_slot(key, role="writer", label="w", now=SystemClock().now())
    policy = place.folder / "keepwell.toml"
    policy.write_text(policy.read_text().replace("vault.key", str(key)))
    found = place.status()
    assert found.clusters[0].timelines
    assert any("writer key" in problem for problem in found.problems)


def test_a_source_that_is_not_there_is_a_mistake(place):
    with pytest.raises(UsageError):
        place.status(source="nothing")
    with pytest.raises(UsageError):
        place.status(environment="nothing")
