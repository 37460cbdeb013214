"""The real program, run in a small project with a SQLite file and a folder of uploads."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

PROGRAM = [sys.executable, "-m", "keepwell.cli"]


@dataclass
class Ran:
    code: int
    out: str
    err: str

    def json(self):
        """The one document on standard output; more than one, or anything else there, fails."""
        return json.loads(self.out)


@dataclass
class Project:
    folder: Path
    environ: dict[str, str]

    @property
    def policy(self) -> Path:
        return self.folder / "keepwell.toml"

    @property
    def vault(self) -> Path:
        return self.folder / "vault"

    @property
    def key(self) -> Path:
        return self.folder / "vault.key"

    def run(self, *args: str, **environ: str) -> Ran:
        done = subprocess.run(
            [*PROGRAM, *args],
            cwd=self.folder,
            env=self.environ | environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    def init(self, *more: str) -> Ran:
        where = ["--store", str(self.vault), "--key-file", str(self.key)]
        return self.run("init", "--yes", *where, "--sqlite", "dev.db", "--files", "uploads", *more)

    def rewrite(self, old: str, new: str) -> None:
        text = self.policy.read_text()
        assert old in text
        self.policy.write_text(text.replace(old, new))


def fill(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "dev.db")) as database, database:
        database.execute("create table users (id integer primary key, name text not null)")
        database.executemany("insert into users (name) values (?)", [(f"user {n}",) for n in range(300)])
    (folder / "uploads" / "2026").mkdir(parents=True)
    (folder / "uploads" / "2026" / "offer.txt").write_text("an offer\n")
