"""A real server archives with `wal push`, and another recovers with `wal fetch`: all of it, or not at all."""

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
import pytest

from keepwell.core.clock import SystemClock
from keepwell.core.errors import SourceError
from keepwell.core.streams import Context
from keepwell.operations.init import init
from keepwell.operations.opening import open_vault
from keepwell.policy.load import load
from keepwell.sources.postgres.server import ThrowawayServer, unprivileged_user
from support.majors import MAJORS
from support.physical_load import (
    LOGGING,
    await_end_of_recovery,
    fill,
    give_to_server,
    logging_server,
    open_folder,
    programs_of,
    require_balanced,
    run,
)

pytestmark = pytest.mark.slow

POLICY = """\
version = 1
project = "Archive"

[vault]
store = "file://{folder}/vault"
key = {{ file = "vault.key" }}

[environments.production.sources.app]
type = "postgres"
method = "physical"
url = {{ env = "KEEPWELL_TEST_URL" }}
"""


def program():
    """keepwell, as the server's user can run it: where our Python is closed to it, the system's of the same version."""
    user = unprivileged_user()
    paths = ":".join(path for path in sys.path if path.endswith(("site-packages", "/src")))
    for python in (sys.executable, "/usr/bin/python3"):
        command = f"env PYTHONPATH={shlex.quote(paths)} {python} -m keepwell.cli"
        who = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
        with contextlib.suppress(OSError):
            if not subprocess.run(
                [*shlex.split(command), "version"], capture_output=True, check=False, cwd="/", **who
            ).returncode:
                return command
    pytest.skip("the server's user can run no Python that has keepwell's libraries")


class Place:
    def __init__(self, folder):
        self.folder = folder
        (folder / "keepwell.toml").write_text(POLICY.format(folder=folder))
        init(self.loaded, Context(clock=SystemClock()))
        (folder / "cache").mkdir()
        for path in (folder, *folder.rglob("*")):
            give_to_server(path)

    @property
    def loaded(self):
        return load(self.folder / "keepwell.toml")

    def command(self, words):
        cache = shlex.quote(str(self.folder / "cache"))
        return f"XDG_CACHE_HOME={cache} {program()} wal {words} --source app --policy {self.folder}/keepwell.toml"

    def log(self):
        vault = open_vault(self.loaded)
        (system,) = vault.wal_systems("production", "app")
        return vault.wal("production", "app", system)


def archived(server, name):
    """Back when the server has been told that the segment is safe."""
    with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
        limit = time.monotonic() + 120
        while time.monotonic() < limit:
            last, failed = connection.execute("SELECT last_archived_wal, failed_count FROM pg_stat_archiver").fetchone()
            assert not failed, server.log.read_text()[-2000:]
            if last and last >= name:
                return
            time.sleep(0.05)
    raise AssertionError(server.log.read_text()[-2000:])


def recovered(place, base, server, name, **more):
    """A copy of the base, ready to be recovered from the vault."""
    folder = place.folder / name
    folder.mkdir()
    shutil.copytree(base, folder / "data", symlinks=True)
    (folder / "data" / "recovery.signal").touch()
    for path in (folder, *folder.rglob("*")):
        give_to_server(path)
    settings = {**LOGGING, "restore_command": place.command("fetch %f %p"), "archive_mode": "off", **more}
    return ThrowawayServer(programs_of(server.programs.major), folder, settings=settings)


def recover(server):
    """Raises SourceError where it does not start, or stops on the way."""
    server.start()
    await_end_of_recovery(server)


@pytest.fixture(scope="module", params=MAJORS)
def story(request):
    """A server with pgbench's tables, its base, all of its log archived, and the number of transactions at the end."""
    with open_folder() as folder:
        place = Place(folder)
        settings = {"archive_mode": "on", "archive_command": place.command("push %p"), "max_wal_size": "64MB"}
        with logging_server(request.param, folder / "server", settings=settings, segment_size=1 << 20) as server:
            fill(server)
            base = folder / "base"
            take = [server.programs.path("pg_basebackup"), "-D", base, "-X", "none", "-c", "fast"]
            for option, name in (("-h", "host"), ("-p", "port"), ("-U", "user")):
                take += [option, server.address().parameters[name]]
            subprocess.run(take, check=True, capture_output=True)
            run(server, 1500, clients=2)
            with psycopg.connect(server.url().reveal(), autocommit=True) as connection:
                last = connection.execute("SELECT pg_walfile_name(pg_switch_wal())").fetchone()[0]
            archived(server, last)
            balances = require_balanced(server.url().reveal())
        yield place, base, server, balances


def test_everything_that_the_server_archived_comes_back(story):
    place, base, server, balances = story
    found = recovered(place, base, server, "whole")
    try:
        recover(found)
        assert require_balanced(found.url().reveal()) == balances
    finally:
        found.stop()


def test_the_next_segments_were_answered_from_the_note(story):
    place, *_ = story
    assert list((place.folder / "cache" / "keepwell" / "wal-push").glob("*/done"))
    assert len(place.log().coverage().gaps(1)) == 0


@pytest.mark.parametrize("trouble", ["gap", "store"])
def test_a_server_that_cannot_have_its_log_stops_and_is_never_shortened(story, trouble):
    place, base, server, balances = story
    if trouble == "gap" and server.programs.major == 15:
        pytest.skip("twenty seconds of PostgreSQL's own waiting; the other version has it")
    parts = place.log().coverage().parts
    away = place.folder / f"away-{trouble}"
    what = place.folder / "vault" / (parts[len(parts) * 2 // 3].name if trouble == "gap" else "vault.json")
    found = recovered(place, base, server, f"stopped-{trouble}")
    what.rename(away)
    try:
        with pytest.raises(SourceError):
            recover(found)
        said = found.log.read_text()
        assert "could not restore file" in said
        assert "signal" in said or "exit code 1" in said
        assert "archive recovery complete" not in said
        assert ("is missing from" if trouble == "gap" else "Error") in said
        found.stop()
        away.rename(what)
        recover(found)
        assert require_balanced(found.url().reveal()) == balances
    finally:
        found.stop()
        if away.exists():
            away.rename(what)


def test_a_second_server_of_the_same_cluster_is_refused_by_name(story):
    """Two servers with one system identifier must not mix their logs."""
    place, base, *_ = story
    folder = place.folder / "twin"
    folder.mkdir()
    shutil.copytree(base, folder / "data", symlinks=True)
    for path in (folder, *folder.rglob("*")):
        give_to_server(path)
    first = place.log().coverage().parts[-3]
    copied = Path(folder / "data" / "pg_wal" / first.segment)
    copied.write_bytes(bytes(1 << 20))
    data = place.log().read(1, first.start, first.length)
    copied.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    done = subprocess.run(
        place.command(f"push pg_wal/{first.segment}"),
        shell=True,
        cwd=folder / "data",
        capture_output=True,
        text=True,
        check=False,
        env=os.environ,
    )
    assert done.returncode == 1
    assert "other log under the name" in done.stderr
