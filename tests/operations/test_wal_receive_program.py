"""`keepwell wal receive` as a service manager runs it."""

import json
import os
import signal
import subprocess
import sys

import pytest

from keepwell.keys.slots import read_key_file
from keepwell.sources.physical.slot import slot_state
from keepwell.stores import open_store
from keepwell.vault.vault import Vault
from operations import walbench
from operations.test_wal_receive_servers import folder, programs, server  # noqa: F401 - fixtures
from operations.walbench import Bench, write

pytestmark = pytest.mark.slow

POLICY = """
version = 1
project = "Receiving"

[vault]
store = "file://{folder}/vault"
key = {{ file = "vault.key" }}

[environments.production.sources.app]
type = "postgres"
method = "physical"
url = {{ env = "APP_URL" }}
slot = "own_slot"
"""


def _ordinary_signals():
    """Where the tests run in the background, the shell has them ignore the keyboard's interrupt."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


class Program:
    def __init__(self, folder, server):  # noqa: F811
        Bench(folder)
        (folder / "keepwell.toml").write_text(POLICY.format(folder=folder))
        self.folder, self.server, self.processes = folder, server, []
        self.environ = {
            **os.environ,
            "APP_URL": server.url().reveal(),
            "XDG_CACHE_HOME": str(folder / "xdg"),
            "NO_COLOR": "1",
        }
        self.command = [sys.executable, "-m", "keepwell.cli", "wal", "receive", "--source", "app", "--json"]

    def start(self, *options):
        process = subprocess.Popen(
            [*self.command, *options],
            cwd=self.folder,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_ordinary_signals,  # noqa: PLW1509 - two system calls, no locks
        )
        self.processes.append(process)
        return process

    def end(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def until(self, process, so):
        """Until the server says this of its receivers."""
        while not walbench.run(self.server, f"SELECT coalesce({so}, false) FROM pg_stat_replication")[0]:
            assert process.poll() is None, process.communicate()

    def archive(self, system):
        store = open_store(f"file://{self.folder}/vault", {})
        return Vault.open(store, read_key_file(self.folder / "vault.key"), cache=self.folder / "cache2").wal(
            "production", "app", system
        )


@pytest.fixture
def program(folder, server):  # noqa: F811
    made = Program(folder, server)
    yield made
    made.end()


def test_a_signal_ends_it_cleanly_with_everything_stored(program, server):  # noqa: F811
    # Each takes a quarter of a minute: one signal on each server.
    number = signal.SIGTERM if server.programs.major == 15 else signal.SIGINT
    process = program.start("--every", "1000")
    program.until(process, "count(*) > 0 AND bool_and(state = 'streaming')")
    end = write(server, 1000)
    program.until(process, f"min(write_lsn) >= '{end >> 32:X}/{end & 0xFFFFFFFF:X}'")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    told = json.loads(out)
    assert told["slot"] == "own_slot"
    high, low = told["position"].split("/")
    position = int(high, 16) << 32 | int(low, 16)
    assert program.archive(told["system"]).coverage().end(1) == position
    assert slot_state(server.url(), "own_slot").restart <= position
    again = program.start("--once")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert program.archive(told["system"]).coverage().end(1) >= end


def test_no_password_is_told_to_anybody(program, server):  # noqa: F811
    program.environ["APP_URL"] = "postgresql://postgres:s3cr3t@127.0.0.1:1/postgres"
    process = program.start("--once")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "s3cr3t" not in out + err
    assert json.loads(out)["error"]["kind"] == "SourceError"
