"""The providers' own backups, asked of a server that answers as their published references say."""

import datetime as dt
import http.server
import json
import threading
from contextlib import contextmanager

import pytest

from keepwell.core.clock import UTC
from keepwell.policy.load import load
from keepwell.watch.providers import providers_of, providers_seen

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = 86400
BRANCH = {"id": "br-1", "name": "main", "default": True, "current_state": "ready"}
NEON = {
    "/projects/p-1": {"project": {"id": "p-1", "history_retention_seconds": 7 * DAY}},
    "/projects/p-1/branches": {"branches": [{"id": "br-2", "name": "dev", "current_state": "ready"}, BRANCH]},
}
BACKUPS = "/projects/abc/database/backups"


@contextmanager
def api(answers):
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Authorization"]))
            answer = answers.get(self.path, 404)
            self.send_response(answer if isinstance(answer, int) else 200)
            if answer == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def ask(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN", "sesame")

    def _ask(provider):
        (tmp_path / "keepwell.toml").write_text(
            f"""version = 1
project = "Leads"
vault = {{ store = "file:///v", key = {{ file = "k" }} }}
[environments.production.sources.app]
type = "postgres"
url = {{ env = "URL" }}
provider = {provider}
"""
        )
        (found,) = providers_seen(providers_of(load(tmp_path / "keepwell.toml"), NOW))
        return found

    return _ask


def neon(url, more=""):
    return f'{{ neon = {{ project = "p-1", token = {{ env = "TOKEN" }}, endpoint = "{url}"{more} }} }}'


def supabase(url):
    return f'{{ supabase = {{ ref = "abc", token = {{ env = "TOKEN" }}, endpoint = "{url}" }} }}'


def test_neon_keeps_a_history_up_to_now(ask):
    with api(NEON) as (url, seen):
        found = ask(neon(url))
    assert (found.newest, found.window, found.error) == (NOW, dt.timedelta(days=7), "")
    assert {auth for _, auth in seen} == {"Bearer sesame"}


def test_a_branch_that_is_archived_or_missing_is_told(ask):
    branches = {"branches": [BRANCH | {"current_state": "archived"}]}
    with api(NEON | {"/projects/p-1/branches": branches}) as (url, _):
        assert ask(neon(url)).error == "the branch main is archived"
        assert ask(neon(url, ', branch = "gone"')).error == "the project has no branch gone"


def test_supabase_counts_completed_backups_only(ask):
    backups = [
        {"status": "COMPLETED", "inserted_at": "2026-11-17T02:00:00Z"},
        {"status": "COMPLETED", "inserted_at": "2026-11-22T02:00:00Z"},
        {"status": "FAILED", "inserted_at": "2026-11-23T02:00:00Z"},
    ]
    with api({BACKUPS: {"backups": backups, "physical_backup_data": {}}}) as (url, _):
        found = ask(supabase(url))
    assert found.newest == dt.datetime(2026, 11, 22, 2, tzinfo=UTC)
    assert found.window == NOW - dt.datetime(2026, 11, 17, 2, tzinfo=UTC)


def test_supabase_with_recovery_to_a_moment_reaches_to_its_newest_log(ask):
    reach = {
        "earliest_physical_backup_date_unix": int(NOW.timestamp()) - 8 * DAY,
        "latest_physical_backup_date_unix": int(NOW.timestamp()) - 120,
    }
    with api({BACKUPS: {"backups": [], "physical_backup_data": reach}}) as (url, _):
        found = ask(supabase(url))
    assert (found.newest, found.window) == (NOW - dt.timedelta(seconds=120), dt.timedelta(days=8))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (401, "its API answered 401: the token is wrong, or may not read this project"),
        (500, "its API answered 500"),
        (302, "its API answered 302"),
        ([], "its API answered in a form that keepwell does not know"),
        (
            {"backups": [{"status": "COMPLETED", "inserted_at": "soon"}]},
            "its API answered in a form that keepwell does not know",
        ),
    ],
)
def test_what_cannot_be_asked_is_no_silence(ask, answer, error):
    with api({BACKUPS: answer}) as (url, seen):
        assert ask(supabase(url)).error == error
    assert [path for path, _ in seen] == [BACKUPS]  # the token went nowhere else


def test_a_server_that_is_away_is_told_without_the_token(ask):
    with api({}) as (url, _):
        pass
    assert "does not answer" in ask(supabase(url)).error
    assert "sesame" not in ask(supabase(url)).error
