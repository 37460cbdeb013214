"""The demo's production server: a real PostgreSQL, thrown away at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keepwell.core.streams import Context
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.postgres.connection import connected
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import ThrowawayServer

DATABASE = "leads"
_NEWEST_MAJOR = 18


class DemoServer:
    """Plays production: a database that can be made, and lost."""

    def __init__(self, server: ThrowawayServer) -> None:
        self._server = server

    @property
    def url(self) -> str:
        return self._server.url(DATABASE).reveal()

    @property
    def version(self) -> str:
        return self._server.programs.version

    def create_database(self) -> None:
        self._run(f"CREATE DATABASE {DATABASE} TEMPLATE template0")

    def drop_database(self) -> None:
        self._run(f"DROP DATABASE {DATABASE} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        with connected(self._server.address()) as connection:
            connection.execute(statement.encode())


@contextlib.contextmanager
def demo_server(context: Context) -> Iterator[DemoServer]:
    """Raises ProgramMissing, SourceError. As root it runs as an unprivileged user, hence not in the demo's own folder."""
    work = WorkFolder("demo")
    folder = work.path
    folder.chmod(0o711)
    server = ThrowawayServer(servers(_NEWEST_MAJOR), folder / "server", clock=context.clock)
    try:
        server.start()
        yield DemoServer(server)
    finally:
        server.stop(keep=False)
        work.remove(quietly=True)
