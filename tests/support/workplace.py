"""A small project (SQLite file, folder of uploads, policy, vault) whose operations are called as functions."""

import contextlib
import datetime as dt
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core.clock import SystemClock
from keepwell.core.progress import Silent
from keepwell.core.streams import Context
from keepwell.operations.backup import BackupRequest, backup
from keepwell.operations.init import init
from keepwell.operations.opening import open_vault
from keepwell.operations.restore import RestoreRequest, restore
from keepwell.operations.verify import VerifyRequest, verify
from keepwell.policy.load import load
from keepwell.vault.check import check

POLICY = """\
version = 1
project = "Lead Management System"

[vault]
store = "file://{folder}/vault"
key = {{ file = "vault.key" }}

[environments.production]
{environment}

[environments.production.sources.uploads]
type = "files"
path = "uploads"
{uploads}

[environments.production.sources.app]
type = "sqlite"
path = "dev.db"
{app}
{more}
"""


class MovingClock(SystemClock):
    """The real time and a shift: long sleeps move the shift, so that nobody waits."""

    def __init__(self):
        self.shift = dt.timedelta(0)

    def now(self):
        return super().now() + self.shift

    def sleep(self, seconds):
        if seconds < 0.5:
            time.sleep(seconds)
        else:
            self.advance(seconds=seconds)

    def advance(self, **by):
        self.shift += dt.timedelta(**by)


@dataclass
class Workplace:
    folder: Path
    clock: MovingClock = field(default_factory=MovingClock)
    progress: Silent = field(default_factory=Silent)
    parts: dict = field(default_factory=dict)

    @property
    def database(self):
        return self.folder / "dev.db"

    @property
    def uploads(self):
        return self.folder / "uploads"

    def write_policy(self, *, environment="", app="", uploads="", more=""):
        self.parts |= {k: v for k, v in locals().items() if k != "self" and v}
        texts = {"environment": "", "app": "", "uploads": "", "more": ""} | self.parts
        (self.folder / "keepwell.toml").write_text(POLICY.format(folder=self.folder, **texts))

    def fill(self):
        with contextlib.closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
            connection.execute(
                "CREATE TABLE leads (id INTEGER PRIMARY KEY, owner INTEGER REFERENCES users, amount REAL)"
            )
            connection.execute("CREATE INDEX leads_by_owner ON leads (owner)")
            connection.execute("CREATE TABLE archive (id INTEGER PRIMARY KEY)")
            connection.executemany("INSERT INTO users (name) VALUES (?)", [(f"user {n}",) for n in range(50)])
            connection.executemany(
                "INSERT INTO leads (owner, amount) VALUES (?, ?)", [(n % 50 + 1, n / 3) for n in range(400)]
            )
        (self.uploads / "2026").mkdir(parents=True)
        (self.uploads / "2026" / "contract.pdf").write_bytes(b"%PDF" + bytes(range(256)) * 100)
        (self.uploads / "logo.svg").write_text("<svg/>")

    def sql(self, statement, path=None):
        with contextlib.closing(sqlite3.connect(path or self.database)) as connection, connection:
            return connection.execute(statement).fetchall()

    @property
    def loaded(self):
        return load(self.folder / "keepwell.toml")

    def context(self, **more):
        return Context(**{"progress": self.progress, "clock": self.clock, "cache": self.folder / "cache"} | more)

    def init(self):
        init(self.loaded, self.context())

    def vault(self, key=None):
        return open_vault(self.loaded, key_file=key)

    def backup(self, environment="production", tier=None, sources=(), **context):
        return backup(self.loaded, BackupRequest(environment, tier, tuple(sources)), self.context(**context))

    def restore(self, name="production@latest", **request):
        return restore(self.loaded, RestoreRequest(name, **request), self.context())

    def verify(self, level=None, name="production@latest", sources=(), after_restore=None):
        request = VerifyRequest(name, level, tuple(sources))
        return verify(self.loaded, request, self.context(), after_restore=after_restore)

    def listed(self):
        return self.vault().backups()

    def objects(self, prefix=""):
        return [info.name for info in self.vault().store.list(prefix)]

    def check(self):
        """Findings of a check of every byte."""
        return check(self.vault(), progress=Silent(), now=self.clock.now(), data=True).findings

    def policy_key(self, path):
        """From now on the policy names this key file."""
        text = (self.folder / "keepwell.toml").read_text()
        (self.folder / "keepwell.toml").write_text(text.replace('"vault.key"', f'"{path}"'))


def make(folder, **parts):
    """A workplace with data, policy and vault, and no backup yet."""
    folder.mkdir(exist_ok=True)
    place = Workplace(folder)
    place.fill()
    place.write_policy(**parts)
    place.init()
    return place
