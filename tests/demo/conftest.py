"""One PostgreSQL server for the tests of the sample, of the newest version there is."""

import itertools
import shutil
import tempfile
from pathlib import Path

import psycopg
import pytest

from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer, free_port


@pytest.fixture(scope="session")
def postgres():
    """`new_database() -> url` on a server that lives as long as the tests."""
    folder = Path(tempfile.mkdtemp(prefix="keepwell-demo-"))
    folder.chmod(0o711)
    # Another locale and time zone than the sample's own, so that nothing leans on the server's settings.
    settings = {"timezone": "Asia/Kathmandu", "datestyle": "SQL, DMY"}
    server = ThrowawayServer(servers(18), folder / "server", port=free_port(), settings=settings, locale="C")
    numbers = itertools.count(1)

    def new_database():
        name = f"sample_{next(numbers)}"
        with psycopg.connect(server.tcp_url().reveal(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return server.tcp_url(name).reveal()

    try:
        server.start()
        yield new_database
    finally:
        server.stop(keep=False)
        shutil.rmtree(folder)
