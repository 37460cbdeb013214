"""PostgreSQL 15 (Debian) and 18 (wheel), one server each for all tests of this folder."""

import itertools
import os
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

from keepwell.core.errors import ProgramMissing
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, MemoryStreams
from keepwell.sources import postgres
from keepwell.sources.base import RestoreRequest
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer, free_port
from support.majors import MAJORS

VERSIONS = MAJORS

EXTENSION = """
CREATE TABLE rates (country text PRIMARY KEY, percent numeric NOT NULL, ours boolean NOT NULL DEFAULT false);
INSERT INTO rates VALUES ('AT', 20), ('DE', 19);
SELECT pg_catalog.pg_extension_config_dump('rates', 'WHERE ours');
"""


class Server(ThrowawayServer):
    """With what tests need: a fresh database each, and SQL in one line."""

    numbers = itertools.count(1)

    def database(self, sql="", options=""):
        name = f"db_{next(self.numbers)}"
        self.run(f"CREATE DATABASE {name} {options}")
        if sql:
            self.run(sql, name)
        return name

    def run(self, sql, database="postgres"):
        with psycopg.connect(self.url(database).reveal(), autocommit=True) as connection:
            connection.execute(sql)

    def ask(self, sql, database="postgres"):
        with psycopg.connect(self.url(database).reveal(), autocommit=True) as connection:
            return connection.execute(sql).fetchall()

    def login(self, role, database):
        """The address of a role that `CREATE ROLE … LOGIN` made; over the socket nobody asks for a password."""
        return Secret(self.address(database).url().reveal().replace("user=postgres", f"user={role}"))

    def capture(self, database, sink=None, jobs=2, **spec):
        sink = sink or MemoryStreams()
        return postgres.capture(postgres.Spec(self.url(database), **spec), sink, Context(jobs=jobs)), sink

    def restore(self, facts, streams, tables=(), jobs=2):
        """Into a new database; its name and the report."""
        name = f"restored_{next(self.numbers)}"
        target = postgres.Target(self.url(name), create=True)
        report = postgres.restore(facts, streams, target, RestoreRequest(tables=tuple(tables)), Context(jobs=jobs))
        return name, report

    def there_and_back(self, database, jobs=2, **spec):
        """Back up, restore, back up the restored one: both facts, its name, the report."""
        then, streams = self.capture(database, jobs=jobs, **spec)
        name, report = self.restore(then, streams, jobs=jobs)
        now, _ = self.capture(name, jobs=jobs, **spec)
        return then, now, name, report

    def clean(self):
        for (name,) in self.ask("SELECT datname FROM pg_database WHERE datname ~ '^(db|restored)_'"):
            self.run(f"DROP DATABASE {name} WITH (FORCE)")


def new_folder():
    """Where the server's own user can get to, in memory where there is room: a database is 300 small files."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30
    folder = Path(tempfile.mkdtemp(prefix="keepwell-test-", dir=memory if roomy else None))
    folder.chmod(0o755)
    return folder


def start(major, folder):
    try:
        programs = servers(major)
    except ProgramMissing as missing:
        programs = None
        reason = missing.message
    if programs is None or programs.major != major:
        reason = f"no PostgreSQL {major} here; tests/setup.sh installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    settings = {"max_prepared_transactions": "4"}
    if major >= 18:
        extensions = folder / "extension"
        extensions.mkdir(parents=True)
        (extensions / "rates.control").write_text("default_version = '1'\nrelocatable = true\n")
        (extensions / "rates--1.sql").write_text(EXTENSION)
        settings["extension_control_path"] = f"{folder}:$system"
    return Server(programs, folder / "server", port=free_port(), settings=settings)


@pytest.fixture(scope="session")
def all_servers():
    """`give(15)`: started when first asked for."""
    folder = new_folder()
    running = {}

    def give(major):
        if major not in running:
            server = start(major, folder / str(major))
            server.start()
            running[major] = server
        return running[major]

    yield give
    for server in running.values():
        server.stop(keep=False)
    shutil.rmtree(folder)


@pytest.fixture(params=VERSIONS, ids=[f"postgres{major}" for major in VERSIONS])
def server(request, all_servers):
    yield (found := all_servers(request.param))
    found.clean()


@pytest.fixture
def server18(all_servers):
    yield (found := all_servers(18))
    found.clean()


@pytest.fixture
def server15(all_servers):
    yield (found := all_servers(15))
    found.clean()


@pytest.fixture
def open_folder():
    """For a server of the test's own."""
    folder = new_folder()
    yield folder
    shutil.rmtree(folder)
