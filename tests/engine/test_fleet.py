"""Several workers on one PostgreSQL: killed and frozen, every run is done once."""

import contextlib
import datetime as dt
import functools
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import psycopg
import pytest
from service_tools import Serving, until

from keepwell.core.errors import ProgramMissing
from keepwell.engine import database
from keepwell.engine.calendar import plans
from keepwell.engine.durable import Engine, Runs
from keepwell.engine.jobs import Job
from keepwell.engine.ledger import Ledger, RunLost
from keepwell.engine.planner import name_of
from keepwell.engine.workman import document
from keepwell.operations.init import init
from keepwell.policy.load import load
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer, free_port
from support import workplace
from support.servers import unavailable

pytestmark = pytest.mark.slow

SITES = ((2, "us"), (3, "eu"))

ENVIRONMENT = """
[environments.e{number:02}]
site = "{site}"
schedule = "0 2 * * *"
[environments.e{number:02}.sources.files]
type = "files"
path = "uploads/{number}"
"""


@pytest.fixture(scope="module")
def server():
    try:
        programs = servers(15)
    except ProgramMissing as missing:
        unavailable(missing.message)
    folder = tempfile.mkdtemp(prefix="keepwell-fleet-")
    os.chmod(folder, 0o755)  # the server has a user of its own
    with ThrowawayServer(programs, Path(folder) / "server", port=free_port()) as running:
        yield running
    shutil.rmtree(folder)


class Fleet:
    def __init__(self, place, url, stack):
        self.place, self.stack = place, stack
        (place.folder / "engine.url").write_text(url.reveal())
        (place.folder / "engine.url").chmod(0o600)
        policy = place.folder / "keepwell.toml"
        policy.write_text('engine = { file = "engine.url" }\n' + policy.read_text())
        self.database = database.postgres_at(url.reveal(), place.loaded.policy.vault.store)
        self.runs, self.ledger = Runs(self.database), Ledger(self.database)
        stack.callback(self.runs.close)
        stack.callback(self.ledger.close)

    def worker(self, **options):
        one = Serving(self.place.folder, **options)
        self.stack.callback(one.close)
        return one

    def taken(self):
        return [b.document["run"] for b in self.place.listed()]


@pytest.fixture
def stack():
    with contextlib.ExitStack() as found:
        yield found


def test_workers_killed_at_random_leave_every_backup_exactly_once(tmp_path, server, stack):
    count, chance = 60, random.Random(4)
    place = workplace.Workplace(tmp_path)
    text = (
        f'version = 1\nproject = "fleet"\n[vault]\nstore = "file://{tmp_path}/vault"\nkey = {{ file = "vault.key" }}\n'
    )
    for number in range(count):
        (tmp_path / "uploads" / str(number)).mkdir(parents=True)
        (tmp_path / "uploads" / str(number) / "file").write_text(f"of environment {number}")
        text += ENVIRONMENT.format(number=number, site="eu" if number < 40 else "us")
    (tmp_path / "keepwell.toml").write_text(text)
    init(load(tmp_path / "keepwell.toml"), place.context())
    fleet = Fleet(place, server.tcp_url(), stack)
    # Every plan was looked at yesterday, so that all backups are due at once, each once.
    fleet.ledger.prepare()
    due = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    fleet.ledger.mark({name_of(plan): due for plan in plans(place.loaded.policy) if plan.kind == "backup"})

    sites = ["eu", "eu", "us"]
    workers = [fleet.worker(patience=3, site=site) for site in sites]
    workers[0].ready()

    def ended():
        return sum(state == "SUCCESS" for name, state in fleet.runs.states().items() if name.startswith("backup/"))

    killed, goal = 0, 0
    while goal < count - 12:
        goal = min(count, ended() + chance.randrange(4, 12))
        until(functools.partial(lambda goal: ended() >= goal, goal), "some more backups")
        victim = chance.randrange(3)
        os.kill(workers[victim].process.pid, signal.SIGKILL)
        killed += 1
        workers[victim] = fleet.worker(patience=3, site=sites[victim])
    until(lambda: ended() == count, "the last backup", 120)
    assert killed >= 4
    taken = fleet.taken()
    assert len(taken) == len(set(taken)) == count
    assert {run.split("/")[1] for run in taken} == set(place.loaded.policy.environments)
    assert b"left behind" in (tmp_path / "serve.log").read_bytes()  # or nobody was killed in the middle of a run


def test_a_frozen_worker_that_wakes_does_not_commit_what_another_has_done(tmp_path, server, stack):
    place = workplace.make(tmp_path / "work")
    fleet = Fleet(place, server.tcp_url(), stack)
    frozen = fleet.worker(machine="a", patience=1, faults=place.folder / "one").ready()
    (place.folder / "one").write_text("hold")
    job = Job("backup", "production", dt.datetime(2026, 11, 22, 2, tzinfo=dt.UTC))
    fleet.runs.enqueue(job.ident, document(job), site=None, group="environment/production")
    until((place.folder / "one.held").exists, "the first bytes")
    os.kill(frozen.process.pid, signal.SIGSTOP)
    other = fleet.worker(machine="b", patience=1, faults=place.folder / "other")
    until(lambda: fleet.runs.state(job.ident)[0] == "SUCCESS", "the run by another worker")
    (place.folder / "one").unlink()
    os.kill(frozen.process.pid, signal.SIGCONT)
    later = Job("backup", "production", dt.datetime(2026, 11, 22, 3, tzinfo=dt.UTC))
    other.stop()
    fleet.runs.enqueue(later.ident, document(later), site=None, group="environment/production")
    until(lambda: fleet.runs.state(later.ident)[0] == "SUCCESS", "a run by the one that woke")
    frozen.stop()
    assert sorted(fleet.taken()) == [job.ident, later.ident]


def test_a_run_in_its_commit_is_not_taken_over_and_a_run_that_was_taken_over_is_not_committed(tmp_path, server, stack):
    place = workplace.make(tmp_path / "work")
    fleet = Fleet(place, server.tcp_url(), stack)
    fleet.ledger.prepare()
    other = Ledger(fleet.database)
    stack.callback(other.close)
    jobs = [Job("backup", "production", dt.datetime(2026, 11, 22, hour, tzinfo=dt.UTC)) for hour in (2, 3)]
    with Engine(fleet.database, "dead", ("nowhere",), lambda ident, job: job):
        for job in jobs:  # at a site where nobody works, so that the test moves them
            fleet.runs.enqueue(job.ident, document(job), site="elsewhere", group=job.ident)
    with psycopg.connect(server.tcp_url().reveal(), autocommit=True) as db:
        db.execute(
            f"update {fleet.database.prefix}workflow_status set status = 'PENDING', executor_id = 'dead', application_version = 'jobs-0'"
        )
    committing, idle = (job.ident for job in jobs)
    fleet.ledger.beat("living", {})
    with fleet.ledger.permit(committing, "dead"):
        assert other.take_over(60) == [idle]
        assert other.take_over(60) == []
    assert other.take_over(60) == [committing]
    with pytest.raises(RunLost), fleet.ledger.permit(committing, "dead"):
        pytest.fail("it was allowed to commit")
    assert other.of_any_version() == 0  # whoever takes a run over may be of any version
    assert set(fleet.runs.states().values()) == {"ENQUEUED"}


def test_a_live_workers_runs_are_its_own(tmp_path, server, stack):
    place = workplace.make(tmp_path / "work")
    fleet = Fleet(place, server.tcp_url(), stack)
    fleet.ledger.prepare()
    job = Job("backup", "production", dt.datetime(2026, 11, 22, 2, tzinfo=dt.UTC))
    with Engine(fleet.database, "me", ("nowhere",), lambda ident, job: job):
        fleet.runs.enqueue(job.ident, document(job), site="elsewhere", group=job.ident)
    with psycopg.connect(server.tcp_url().reveal(), autocommit=True) as db:
        db.execute(
            f"update {fleet.database.prefix}workflow_status set status = 'PENDING', executor_id = 'me', "
            "started_at_epoch_ms = (extract(epoch from now()) - 10) * 1000"
        )
    fleet.ledger.beat("me", {"sites": ["nowhere"]})
    assert fleet.ledger.take_over(60) == []
    assert fleet.ledger.free("me", but=frozenset({job.ident}), older=5) == []
    assert fleet.ledger.free("me", but=frozenset(), older=60) == []  # it may just have been handed out
    assert fleet.ledger.free("me", but=frozenset(), older=5) == [job.ident]
    [worker] = fleet.ledger.workers()
    assert worker.about == {"sites": ["nowhere"]}
    assert fleet.ledger.take_over(60) == []


def test_a_worker_does_only_what_is_of_its_site(tmp_path, server, stack):
    fleet = Fleet(workplace.make(tmp_path / "work"), server.tcp_url(), stack)
    jobs = {site: Job("backup", "production", dt.datetime(2026, 11, 22, hour, tzinfo=dt.UTC)) for hour, site in SITES}
    one = fleet.worker(site="eu").ready()
    for site, job in jobs.items():
        fleet.runs.enqueue(job.ident, document(job), site=site, group=site)
    until(lambda: fleet.runs.state(jobs["eu"].ident)[0] == "SUCCESS", "the run of the worker's site")
    assert fleet.runs.state(jobs["us"].ident)[0] == "ENQUEUED"
    one.stop()
    fleet.worker(site="us")
    until(lambda: fleet.runs.state(jobs["us"].ident)[0] == "SUCCESS", "the run of the other site")
