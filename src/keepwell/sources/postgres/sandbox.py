"""A throwaway server of the right version to restore into, with the roles that the backup knows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keepwell.core.streams import Context, Facts
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.postgres.connection import connected
from keepwell.sources.postgres.programs import servers
from keepwell.sources.postgres.server import SUPERUSER, ThrowawayServer
from keepwell.sources.postgres.spec import Spec, Target

DATABASE = "restored"


@contextlib.contextmanager
def sandbox(facts: Facts, context: Context) -> Iterator[Target]:
    """An empty place; the server and its folder are gone afterwards. Raises ProgramMissing, SourceError."""
    major = facts["server_version_num"] // 10000
    programs = servers(major)
    if programs.major != major:
        context.progress.note(
            f"no PostgreSQL {major} server is installed here: restoring into PostgreSQL {programs.version} from {programs.folder}"
        )
    # Not in `context.work`: as root the server's own user must be able to get there.
    work = WorkFolder("sandbox")
    folder = work.path
    server = ThrowawayServer(programs, folder / "server", clock=context.clock)
    folder.chmod(0o711)
    try:
        server.start()
        _make_roles(server, facts)
        yield Target(server.url(DATABASE), create=True, analyze=False)
    finally:
        server.stop(keep=False)
        work.remove(quietly=True)


def respec(target: Target, facts: Facts, spec: Spec | None) -> Spec:
    """How to capture the restored database, with the same settings as the first time."""
    return Spec(
        target.url,
        programs=spec.programs if spec else None,
        lc_monetary=facts["lc_monetary"] or "",
        columns={name: table["columns"] for name, table in facts["tables"].items()},
    )


def _make_roles(server: ThrowawayServer, facts: Facts) -> None:
    from psycopg.sql import SQL, Identifier

    with connected(server.address()) as connection:
        for name in facts["roles"]:
            if name != SUPERUSER:
                # Superusers are superusers again: event triggers are not taken from others.
                kind = SQL("SUPERUSER" if name in facts["superusers"] else "NOSUPERUSER")
                connection.execute(SQL("CREATE ROLE {} {} NOLOGIN").format(Identifier(name), kind))
