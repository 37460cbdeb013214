"""Backups through a real PgBouncer: refused where it shares servers between transactions, right where it does not."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Context, MemoryStreams
from keepwell.sources import postgres
from keepwell.sources.postgres.server import free_port

PROGRAM = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
CONFIGURATION = """\
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = {mode}
ignore_startup_parameters = extra_float_digits,options
logfile = {folder}/log
{user}
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.access(PROGRAM, os.X_OK), reason="no pgbouncer; as root: apt-get install pgbouncer"),
]


@pytest.fixture
def pooled(server):
    """The same database behind a pooler of that mode."""
    with contextlib.ExitStack() as stack:

        def start(mode, database):
            # Not below pytest's own folder, in which another user may not look.
            folder, port = Path(stack.enter_context(tempfile.TemporaryDirectory())), free_port()
            user = "user = nobody" if os.getuid() == 0 else ""
            (folder / "users").write_text(f'"postgres" "{server.password.reveal()}"\n')
            (folder / "ini").write_text(
                CONFIGURATION.format(server=server.port, port=port, folder=folder, mode=mode, user=user)
            )
            for path in (folder, *folder.iterdir()):
                if user:
                    shutil.chown(path, "nobody")
            process = subprocess.Popen([PROGRAM, "-q", folder / "ini"], stderr=subprocess.DEVNULL)
            stack.callback(process.wait)
            stack.callback(process.send_signal, signal.SIGTERM)
            deadline = time.monotonic() + 20
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            return postgres.Spec(Secret(f"postgresql://postgres@127.0.0.1:{port}/{database}"))

        yield start


def test_a_pooler_that_shares_servers_between_transactions_is_refused(server, pooled):
    database = server.database("CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")
    with pytest.raises(SourceError, match="connection pooler") as refused:
        postgres.capture(pooled("transaction", database), MemoryStreams(), Context())
    assert "PgBouncer" in refused.value.hint


def test_through_a_pooler_of_sessions_a_backup_is_what_it_is_without(server, pooled):
    database = server.database("CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n")
    facts = postgres.capture(pooled("session", database), MemoryStreams(), Context())
    assert facts["tables"] == server.capture(database)[0]["tables"]
