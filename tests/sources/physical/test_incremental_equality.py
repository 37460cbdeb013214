"""Random histories on PostgreSQL 18: what keepwell lays together is what pg_combinebackup lays together, page for page."""

import os
import shutil
import subprocess
from random import Random

import psycopg
import pytest
from psycopg import sql

from support.backup_chain import Chain, brought_back, files_in, files_of, require_equal
from support.physical_load import give_to_server, logging_server, open_folder

pytestmark = pytest.mark.slow

SEEDS = range(1, 1 + int(os.environ.get("KEEPWELL_TEST_HISTORIES", "1")))
"""Each is half a minute: CI has time for one."""
STEPS = 6


class History:
    """Random changes, from a seed."""

    def __init__(self, server, folder, random):
        self.server, self.random, self.tables, self.made = server, random, [], 0
        self.places = {}
        self.databases = ["postgres"]
        for name in ("fast", "slow"):
            self.places[name] = place = folder / name
            place.mkdir()
            give_to_server(place)
            self.ask(f"CREATE TABLESPACE {name} LOCATION '{place}'")
        for _ in range(4):
            self.create()

    def ask(self, text, database="postgres"):
        with psycopg.connect(self.server.url(database).reveal(), autocommit=True) as connection:
            connection.execute(text)

    def create(self):
        self.made += 1
        name = f"t{self.made}"
        place = self.random.choice(["pg_default", "pg_default", "fast", "slow"])
        self.ask(f"CREATE TABLE {name} (id int PRIMARY KEY, t text) TABLESPACE {place}")
        self.tables.append(name)
        self.insert(name)

    def insert(self, name):
        count = self.random.randint(1, 4000)
        self.ask(
            f"INSERT INTO {name} SELECT coalesce((SELECT max(id) FROM {name}), 0) + n, repeat(md5(n::text), 4) "
            f"FROM generate_series(1, {count}) n"
        )

    def step(self):
        for _ in range(self.random.randint(2, 6)):
            name, number = self.random.choice(self.tables), self.random.randint(2, 60)
            self.made += 1
            match self.random.randint(0, 13):
                case 0 | 1:
                    self.insert(name)
                case 2:
                    self.ask(f"UPDATE {name} SET t = t || 'x' WHERE id % {number} = 0")
                case 3:
                    self.ask(f"DELETE FROM {name} WHERE id % {number} = 1")
                case 4:
                    self.ask(f"DELETE FROM {name} WHERE id > {number * 20}; ")
                    self.ask(f"VACUUM (TRUNCATE) {name}")
                case 5:
                    self.ask(f"VACUUM FULL {name}")
                case 6:
                    self.ask(f"TRUNCATE {name}")
                    if number % 2:
                        self.insert(name)
                case 7:
                    self.ask(f"CREATE INDEX ON {name} (t) TABLESPACE {self.random.choice(['pg_default', 'fast'])}")
                case 8:
                    self.ask(f"ALTER TABLE {name} SET TABLESPACE {self.random.choice(['pg_default', 'fast', 'slow'])}")
                case 9 if len(self.tables) > 2:
                    self.ask(f"DROP TABLE {name}")
                    self.tables.remove(name)
                case 10 if len(self.databases) < 3:
                    strategy = self.random.choice(["wal_log", "file_copy"])
                    self.ask(f"CREATE DATABASE d{self.made} STRATEGY {strategy}")
                    self.databases.append(f"d{self.made}")
                    self.ask("CREATE TABLE inside AS SELECT generate_series(1, 500) n", f"d{self.made}")
                case 11 if len(self.databases) > 1:
                    database = self.random.choice(self.databases[1:])
                    self.ask(f"ALTER DATABASE {database} SET TABLESPACE {self.random.choice(['pg_default', 'fast'])}")
                case 12 if len(self.databases) > 1:
                    self.ask(f"DROP DATABASE {self.databases.pop()}")
                case _:
                    self.create()

    def answers(self, url):
        """Every row of every table, as a digest; read through the heap, so that indexes are not trusted."""
        found = {}
        with psycopg.connect(url, autocommit=True) as connection:
            found["databases"] = [
                row[0] for row in connection.execute("SELECT datname FROM pg_database ORDER BY 1").fetchall()
            ]
            for name in self.tables:
                query = sql.SQL("SELECT count(*), md5(string_agg(id || t, ',' ORDER BY id)) FROM {}")
                found[name] = connection.execute(query.format(sql.Identifier(name))).fetchone()
        return found


def run(server, program, *options):
    command = [server.programs.path(program), *map(str, options)]
    env = {**os.environ, **server.address().environment()}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.mark.parametrize("way", ["server", "files"])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_backup_is_the_full_one_that_pg_combinebackup_makes(seed, way, tmp_path):
    with (
        open_folder() as folder,
        logging_server(18, folder / "server", settings={"summarize_wal": "on", "autovacuum": "off"}) as server,
    ):
        history = History(server, folder, Random(seed))
        chain, made, methods = Chain(server.url(), tmp_path / "cache", read_from=way), [], []
        for step in range(STEPS):
            if step:
                history.step()
            expected = history.answers(server.url().reveal())  # hint bits are set now, and not between the two backups
            history.ask("CHECKPOINT")
            facts, streams = chain.take()
            methods.append(facts["method"])
            mapped = [f"--tablespace-mapping={place}={folder}/b{step}-{name}" for name, place in history.places.items()]
            since = [f"--incremental={made[-1]}/backup_manifest"] if made else []
            run(server, "pg_basebackup", "-D", folder / f"b{step}", "-c", "fast", "--no-sync", *since, *mapped)
            made.append(folder / f"b{step}")
            whole = made[0]
            if step:
                whole = folder / "whole"
                moved = [f"--tablespace-mapping={folder}/b{step}-{n}={folder}/whole-{n}" for n in history.places]
                run(server, "pg_combinebackup", "--no-sync", *made, "-o", whole, *moved)
            require_equal(files_of(streams), files_in(whole))
            for path in folder.glob("whole*"):
                shutil.rmtree(path)
            tablespaces = tuple((str(p), f"{folder}/r{step}-{n}") for n, p in history.places.items())
            assert (
                brought_back(facts, streams, folder / f"r{step}", history.answers, tablespaces=tablespaces) == expected
            )
            for path in folder.glob("r[0-9]*"):
                shutil.rmtree(path)
        assert methods[0].startswith("full" if way == "server" else "files: 0 of ")
        later = "incremental" if way == "server" else "incremental, from the files"
        assert methods[1:] == [later] * (STEPS - 1)
