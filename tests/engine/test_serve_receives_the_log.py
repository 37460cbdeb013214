"""A process that serves receives the log of its physical sources; when it is killed, one on another machine goes on."""

import contextlib
import shutil
import tempfile
from pathlib import Path

import pytest
from service_tools import Serving, until

from keepwell.core.errors import ProgramMissing
from keepwell.core.streams import Context
from keepwell.operations.auditing import Window, actions
from keepwell.operations.opening import open_vault
from keepwell.policy.load import load
from keepwell.sources.postgres.programs import servers
from operations import walbench
from support import workplace
from support.servers import unavailable

SOURCE = """
[environments.production.sources.cluster]
type = "postgres"
method = "physical"
url = { env = "CLUSTER" }
pitr = "7d"
"""


@pytest.fixture
def server():
    folder = Path(tempfile.mkdtemp(prefix="keepwell-serve-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        programs = servers(15)
    except ProgramMissing as missing:
        unavailable(missing.message)
    try:
        with walbench.server(programs, folder / "server") as running:
            yield running
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def machines(tmp_path, monkeypatch, server):
    """Two with the same policy, vault and key, and each with its own engine."""
    monkeypatch.setenv("CLUSTER", server.url().reveal())
    place = workplace.make(tmp_path / "one", more=SOURCE)
    other = tmp_path / "two"
    other.mkdir()
    for name in ("keepwell.toml", "vault.key"):
        shutil.copy(place.folder / name, other / name)
    return place.folder, other


def stored(folder, position):
    """Whether the vault has the log up to there, without a gap."""
    vault = open_vault(load(folder / "keepwell.toml"))
    spans = [
        span
        for system in vault.wal_systems("production", "cluster")
        for span in vault.wal("production", "cluster", system).coverage().spans(1)
    ]
    assert len(spans) < 2
    return bool(spans) and spans[0][1] >= position


def receptions(folder):
    """As the audit log tells them: who began each, and how it ended."""
    found = actions(load(folder / "keepwell.toml"), Context(), Window())
    return [
        (action.begun.document["by"], action.outcome)
        for action in found
        if action.begun.document["action"] == "wal receive"
    ]


@pytest.mark.slow
def test_the_log_is_received_and_another_machine_takes_over(machines, server):
    here, there = machines
    with contextlib.ExitStack() as stack:
        one = Serving(here)
        stack.callback(one.close)
        written = walbench.write(server)
        until(lambda: stored(here, written), "the log")
        two = Serving(there)
        stack.callback(two.close)
        until(lambda: b"another one receives the log" in (there / "serve.log").read_bytes(), "the other one's turn")
        assert receptions(here) == [("schedule", "running")]
        one.process.kill()
        one.killed()
        written = walbench.write(server)
        until(lambda: stored(there, written), "the log after the kill")
        two.stop()
    assert receptions(there) == [("schedule", "unknown"), ("schedule", "done")]
