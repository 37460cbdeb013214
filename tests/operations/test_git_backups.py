"""Git repositories in a vault: from the policy to a proof, also from a server that wants a password."""

import base64
import contextlib
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from keepwell.core.errors import SourceError
from keepwell.operations.backup import BackupRequest, backup
from keepwell.operations.export import ExportRequest, export
from keepwell.operations.prune import PruneRequest, prune
from keepwell.operations.restore import RestoreRequest, restore
from keepwell.operations.verify import VerifyRequest, verify
from keepwell.policy.load import load
from keepwell.vault import rescue
from support import workplace

pytestmark = pytest.mark.slow

GIT = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org"]
"""What git http-backend is asked with."""


def run(folder, *arguments):
    return subprocess.run([*GIT, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder, name, text):
    (folder / name).write_text(text)
    run(folder, "add", "--all")
    run(folder, "commit", "-q", "-m", name)


@pytest.fixture
def place(tmp_path):
    code = tmp_path / "w" / "code"
    code.mkdir(parents=True)
    run(code, "init", "-q", "-b", "main")
    commit(code, "a", "1")
    return workplace.make(tmp_path / "w", more='[environments.production.sources.code]\ntype = "git"\npath = "code"\n')


def test_every_backup_of_a_repository_outlives_those_before_it(place, tmp_path):
    place.clock.advance(days=-90)  # a prune asks the store for the time, too
    policy = place.folder / "keepwell.toml"
    policy.write_text(policy.read_text().replace('/vault"\n', '/vault"\ngrace = "0s"\n'))
    big = os.urandom(400_000).hex()
    code = place.folder / "code"
    commit(code, "big", big)
    place.backup(sources=["code"])
    commit(code, "b", "2")
    place.clock.advance(days=40)
    second = place.backup()
    assert second.sources["code"].json()["refs"] == 1
    assert second.new < 300_000  # the big one did not cross into the vault again
    place.clock.advance(days=40)
    commit(code, "c", "3")
    place.backup()
    old = {str(backup.id) for backup in place.listed()[:2]}
    pruned = prune(place.loaded, PruneRequest(), place.context())
    assert set(pruned.json()["deleted"]["backups"]) == old
    result = place.verify(level="checks")
    assert (result.proven, place.check()) == (True, [])
    restored = place.restore(source="code", to=str(tmp_path / "back"))
    assert restored.sources["code"].to == str(tmp_path / "back")
    assert (tmp_path / "back" / "big").read_text() == big
    assert run(tmp_path / "back", "log", "--format=%s").split() == ["c", "b", "big", "a"]
    place.restore(source="code", to=str(tmp_path / "back.git"))
    assert run(tmp_path / "back.git", "rev-parse", "--is-bare-repository") == "true"


def test_the_program_in_the_vault_writes_a_bundle(place, tmp_path):
    place.backup()
    program = next(iter(rescue.__path__))
    made = subprocess.run(
        [
            sys.executable,
            f"{program}/recover.py",
            str(place.folder / "vault"),
            "restore",
            "--key-file",
            "vault.key",
            "production@latest",
            "--source",
            "code",
            "--to",
            str(tmp_path / "out"),
        ],
        cwd=place.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    run(tmp_path, "clone", "-q", str(tmp_path / "out" / "repository.bundle"), "cloned")
    assert (tmp_path / "cloned" / "a").read_text() == "1"
    exported = export(place.loaded, ExportRequest("production@latest", "code", tmp_path / "portable"), place.context())
    assert exported.file.read_bytes() == (tmp_path / "out" / "repository.bundle").read_bytes()


class Hub(BaseHTTPRequestHandler):
    """`git http-backend` behind a password."""

    root = ""
    asked: list[str]

    def do_GET(self):
        self.server.asked.append(self.headers.get("Authorization", ""))
        if self.headers.get("Authorization") != "Basic " + base64.b64encode(b'git:t0p secret%"').decode():
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.end_headers()
            return
        path, _, query = self.path.partition("?")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        variables = {
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        said = subprocess.run(
            ["git", "http-backend"], input=body, env=os.environ | variables, capture_output=True, check=True
        ).stdout
        head, _, rest = said.partition(b"\r\n\r\n")
        status = re.search(rb"Status: (\d+)", head)
        self.send_response(int(status[1]) if status else 200)
        for line in head.split(b"\r\n"):
            name, _, value = line.decode().partition(": ")
            if name != "Status":
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(rest)

    do_POST = do_GET  # noqa: N815  the name that http.server looks for

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def hub(root):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.root, server.asked = root, []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_repository_on_a_server_is_fetched_with_a_password_that_nobody_sees(place, tmp_path, monkeypatch):
    code = place.folder / "code"
    run(tmp_path, "clone", "-q", "--mirror", str(code), "code.git")
    monkeypatch.setenv("GIT_TOKEN", 't0p secret%"')
    policy = place.folder / "keepwell.toml"
    with hub(tmp_path) as server:
        url = f"http://127.0.0.1:{server.server_port}/code.git"
        text = policy.read_text().replace('path = "code"', f'url = "{url}"\npassword = {{ env = "GIT_TOKEN" }}')
        policy.write_text(text)
        loaded, context = load(policy), place.context()
        taken = backup(loaded, BackupRequest("production"), context)
        commit(code, "b", "2")
        run(code, "branch", "gone", "HEAD~1")
        run(code, "push", "-q", "--mirror", str(tmp_path / "code.git"))
        run(code, "branch", "-D", "gone")
        place.clock.advance(seconds=2)
        asked = len(server.asked)
        run(code, "push", "-q", "--mirror", str(tmp_path / "code.git"))
        taken = backup(loaded, BackupRequest("production"), context)
        assert len(server.asked) > asked
        facts = place.vault().read(place.vault().find(taken.backup)).facts("code")
        assert (facts["root"], facts["refs"], facts["reused"] > 0) == (url, 1, True)
        monkeypatch.setenv("GIT_TOKEN", "wr0ng secret")
        with pytest.raises(SourceError) as refused:
            backup(loaded, BackupRequest("production", sources=("code",)), context)
        assert "Authentication failed" in str(refused.value)
        assert "credentials" in refused.value.hint
        assert "wr0ng" not in str(refused.value)
    result = verify(loaded, VerifyRequest(taken.backup), context)
    assert result.proven
    restored = restore(loaded, RestoreRequest(taken.backup, to=str(tmp_path / "all")), context)
    assert restored.sources["code"].to == str(tmp_path / "all" / "code.git")
    assert run(tmp_path / "all" / "code.git", "show", "main:b") == "2"
    for path in [p for p in place.folder.rglob("*") if p.is_file()]:
        assert b"t0p secret" not in path.read_bytes(), path
