"""The real command, as a service manager runs it."""

import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from contextlib import closing

import pytest
from service_tools import until

from support.program import PROGRAM

pytestmark = pytest.mark.slow


@pytest.fixture
def port():
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def asked(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def test_serve_as_a_service_manager_runs_it(place, port, queue):
    policy = place.folder / "keepwell.toml"
    command = [*PROGRAM, "--policy", str(policy), "serve"]
    log = place.folder / "log"

    def lines():
        return [json.loads(line) for line in log.read_text().splitlines()]

    def said(event):
        return lambda: any(line["event"] == event for line in lines())

    with log.open("wb") as err, subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}"], stderr=err) as serving:
        try:
            until(said("serves"), "the start")
            second = subprocess.run(command, capture_output=True, check=False, timeout=60)
            assert second.returncode == 8
            assert str(serving.pid) in second.stderr.decode()
            until(lambda: asked(port, "/readyz")[0] == 200, "readiness")
            assert asked(port, "/healthz") == (200, "ok\n")
            ident = queue.backup()
            assert queue.done(ident)["result"] == "done"

            whole = policy.read_text()
            policy.write_text(whole.replace("version = 1", "version = 7"))
            serving.send_signal(signal.SIGHUP)
            until(said("the changed policy is not used"), "the refusal of a wrong policy")
            policy.write_text(whole + '\n[environments.staging.sources.uploads]\ntype = "files"\npath = "uploads"\n')
            serving.send_signal(signal.SIGHUP)
            until(said("uses the changed policy"), "the new policy")
            staging = queue.backup("staging")
            assert queue.done(staging)["result"] == "done"
            serving.send_signal(signal.SIGTERM)
            assert serving.wait(60) == 0
        finally:
            serving.kill()
    assert [backup.id.environment for backup in place.listed()] == ["production", "staging"]
    assert [line["event"] for line in lines() if line["level"] in {"warning", "error"}] == [
        "the changed policy is not used"
    ]
    listed = subprocess.run(
        [*PROGRAM, "--policy", str(policy), "list", "--json"], capture_output=True, check=True, timeout=60
    )
    assert [line["run"] for line in json.loads(listed.stdout)] == [ident, staging]


def test_a_worker_without_a_shared_database_says_what_is_missing(place):
    place.write_policy(environment='site = "eu"')
    for site, said in (([], "engine"), (["--site", "eu"], "engine"), (["--site", "ue"], "The policy has: eu.")):
        ran = subprocess.run(
            [*PROGRAM, "--policy", str(place.folder / "keepwell.toml"), "worker", *site],
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert ran.returncode == 2
        assert said in ran.stderr.decode()
