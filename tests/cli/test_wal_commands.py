"""`keepwell wal push` and `fetch` as PostgreSQL calls them."""

import signal
import subprocess
import sys

import pytest

from support import wallog
from support.program import PROGRAM, Ran

SIZE = 1 << 20
NAMES = wallog.names(3, 8)
SOURCE = """
[environments.production.sources.db]
type = "postgres"
method = "physical"
url = { env = "KEEPWELL_TEST_URL" }
"""
LOUD = -signal.SIGUSR1


@pytest.fixture
def cluster(project, tmp_path):
    project.policy.write_text(project.policy.read_text() + SOURCE)
    return wallog.Cluster(tmp_path / "data")


@pytest.fixture
def call(project, cluster):
    def call(*args, program=PROGRAM, policy=True, **environ):
        command = [*program, *args, *(["--policy", str(project.policy)] if policy else [])]
        done = subprocess.run(
            command, cwd=cluster.folder, env=project.environ | environ, capture_output=True, timeout=120, check=False
        )
        return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())

    return call


WALL = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        assert not name.startswith(("keepwell.cli.", "keepwell.vault", "typer", "pydantic", "pathlib")), name
sys.meta_path.insert(0, Wall())
from keepwell.cli import main
sys.exit(main())
"""
"""A way to call keepwell that fails as soon as more than the fast lane is imported."""


@pytest.mark.slow
def test_segments_go_there_and_back_and_those_ahead_need_no_program(project, cluster, call):
    for name in NAMES:
        cluster.finish(name)
    first = call("wal", "push", f"pg_wal/{NAMES[0]}")
    assert (first.code, first.out, first.err) == (0, "", "")
    light = [sys.executable, "-c", WALL]
    for name in NAMES[1:]:
        ran = call("wal", "push", f"pg_wal/{name}", program=light)
        assert (ran.code, ran.err) == (0, "")
    for path in cluster.wal.glob("0*"):
        path.unlink()
    target = cluster.wal / "RECOVERYXLOG"
    ahead = []
    for name in NAMES:
        ran = call("wal", "fetch", name, "pg_wal/RECOVERYXLOG", program=light)
        ahead.append(ran.code == 0)
        if ran.code:
            assert call("wal", "fetch", name, "pg_wal/RECOVERYXLOG").code == 0
        assert target.read_bytes() == wallog.segment(name)
        target.unlink()
    assert ahead == [False, True, True, False, True, True, True, True]
    assert call("wal", "fetch", wallog.names(11, 1)[0], "pg_wal/RECOVERYXLOG").code == 1
    assert not target.exists()


@pytest.mark.slow
def test_only_the_end_of_the_log_exits_plainly(project, cluster, call, tmp_path):
    call("wal", "push", str(cluster.finish(NAMES[0])))
    call("wal", "push", str(cluster.finish(NAMES[2])))
    target = cluster.wal / "RECOVERYXLOG"
    end = call("wal", "fetch", NAMES[3], str(target))
    assert (end.code, end.err) == (1, "")
    assert call("wal", "fetch", "00000002.history", str(target)).code == 1
    gap = call("wal", "fetch", NAMES[1], str(target))
    assert gap.code == LOUD
    assert "missing from 0/400000 to 0/500000" in gap.err
    wrongs = [
        ("wal", "fetch"),
        ("wal", "fetch", NAMES[0]),
        ("wal", "fetch", NAMES[0], str(target), "--sorce", "db"),
        ("wal", "fetch", NAMES[0], str(target), "--source", "other"),
        ("wal", "fetch", "nonsense", str(target)),
        ("--quiet", "wal", "fetch", "nonsense", str(target)),
        ("wal", "--quiet", "fetch", "nonsense", str(target)),
        ("wal", "fetch", NAMES[0], str(tmp_path / "none" / "x")),
    ]
    for wrong in wrongs:
        ran = call(*wrong)
        assert ran.code == LOUD, wrong
        assert "Error" in ran.err
    assert call("wal", "fetch", NAMES[0], str(target), policy=False).code == LOUD
    assert call("wal", "fetch", "--help").code == 0
    key = project.key.read_text()
    project.key.unlink()
    assert call("wal", "fetch", NAMES[0], str(target)).code == LOUD
    project.key.write_text(key)
    project.key.chmod(0o600)
    project.vault.rename(tmp_path / "away")
    away = call("wal", "fetch", NAMES[0], str(target))
    assert away.code == LOUD
    assert "Error" in away.err
    assert not list(cluster.folder.rglob("core*"))


@pytest.mark.slow
def test_a_fetch_whose_program_is_broken_ends_by_signal_too(cluster, call, tmp_path):
    broken = [
        sys.executable,
        "-c",
        "import sys; sys.modules['keepwell.cli.program'] = None\nfrom keepwell.cli import main\nsys.exit(main())",
    ]
    assert call("wal", "fetch", NAMES[0], "x", program=broken).code == LOUD


@pytest.mark.slow
def test_a_shell_passes_the_signal_on(cluster, call):
    """PostgreSQL runs the command through a shell: it must see a signal, or a code above 128."""
    shell = ["/bin/sh", "-c", f"{sys.executable} -m keepwell.cli wal fetch nonsense x; exit $?", "sh"]
    assert call(program=shell, policy=False).code == 128 + signal.SIGUSR1
    shell = ["/bin/sh", "-c", f"{sys.executable} -m keepwell.cli wal fetch nonsense x", "sh"]
    assert call(program=shell, policy=False).code in {LOUD, 128 + signal.SIGUSR1}


@pytest.mark.slow
def test_a_push_that_fails_says_why_and_exits_plainly(cluster, call):
    path = cluster.finish(NAMES[0])
    assert call("wal", "push", str(path)).code == 0
    cluster.finish(NAMES[0], seed=2)
    conflict = call("wal", "push", str(path))
    assert conflict.code == 1
    assert "other log under the name" in conflict.err
    path.unlink()
    missing = call("wal", "push", str(path))
    assert missing.code == 1
    assert "cannot be read" in missing.err


def test_json_is_not_answered_from_notes(ready, project, tmp_path, monkeypatch):
    project.policy.write_text(project.policy.read_text() + SOURCE)
    cluster = wallog.Cluster(tmp_path / "data")
    for name in NAMES[:2]:
        cluster.finish(name)
    monkeypatch.chdir(cluster.folder)
    args = ["--policy", str(project.policy)]
    assert ready("wal", "push", f"pg_wal/{NAMES[0]}", "--json", *args).json()["stored"] is True
    second = ready("wal", "push", f"pg_wal/{NAMES[1]}", "--json", *args).json()
    assert second["name"] == NAMES[1]


def test_status_tells_what_there_is_and_what_is_wrong(ready, project, tmp_path):
    project.policy.write_text(project.policy.read_text() + SOURCE)
    cluster = wallog.Cluster(tmp_path / "data")
    ready("wal", "push", str(cluster.finish(NAMES[0])))
    ready("wal", "push", str(cluster.finish(NAMES[2])))
    (found,) = ready("wal", "status", "--offline", "--json").json()
    (log,) = found["clusters"]
    assert log["timelines"] == [{"timeline": 1, "from": "0/300000", "to": "0/600000"}]
    assert log["gaps"] == [{"timeline": 1, "from": "0/400000", "to": "0/500000"}]
    assert found["backups"] == 0
    text = ready("wal", "status", "--offline").out
    assert "0/400000 to 0/500000 of timeline 1 is missing" in text
    assert "there is no physical backup to begin with" in text
    online = ready("wal", "status", "--json").json()[0]
    assert "KEEPWELL_TEST_URL" in online["server"]["unreachable"]


def test_status_without_any_log_or_source_is_a_mistake(ready):
    ran = ready("wal", "status")
    assert ran.code == 2
    assert "no physical source" in ran.err


def test_documents_are_as_the_reference_says(ready, project, tmp_path):
    from test_documents import documented, same_keys

    project.policy.write_text(project.policy.read_text() + SOURCE)
    cluster = wallog.Cluster(tmp_path / "data")
    path = cluster.finish(NAMES[0])
    same_keys(ready("wal", "push", str(path), "--json").json(), documented("wal push"))
    same_keys(ready("wal", "fetch", NAMES[0], str(tmp_path / "x"), "--json").json(), documented("wal fetch"))
    same_keys(ready("wal", "status", "--offline", "--json").json(), documented("wal status"))
