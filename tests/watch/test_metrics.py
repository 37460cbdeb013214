"""What Prometheus reads: the format, the names, and that rules and dashboard ask for what there is."""

import json
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keepwell.core.errors import UsageError
from keepwell.watch.endpoint import Endpoint, ListenError, address_of
from keepwell.watch.metrics import render
from keepwell.watch.rules import RULES

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
REFERENCE = ROOT / "docs/reference/metrics.md"
pytestmark = pytest.mark.slow


@pytest.fixture
def place(workplace):
    made = workplace(environment='schedule = "0 2 * * *"', more='[watch]\ncapacity = "1 GB"')
    made.run()
    made.verify()
    return made


def families(text: bytes):
    return {family.name: family for family in text_string_to_metric_families(text.decode())}


def test_the_newest_and_the_newest_proven_backup_are_there_in_seconds_since_1970(place):
    look = place.look()
    found = families(render(look))
    (proven,) = found["keepwell_backup_proven_timestamp_seconds"].samples
    assert proven.labels == {"environment": "production"}
    assert proven.value == look.seen.environments[0].proven.time.timestamp()
    assert {s.labels["source"] for s in found["keepwell_backup_size_bytes"].samples} == {"app", "uploads"}
    assert found["keepwell_vault_up"].samples[0].value == 1
    assert found["keepwell_store_capacity_bytes"].samples[0].value == 10**9
    assert 0 < found["keepwell_store_used_bytes"].samples[0].value < 10**9
    assert found["keepwell_run_success"].samples[0].value == 1
    assert found["keepwell_alert_open"].samples == []


def test_an_open_alert_is_a_sample_and_an_acknowledged_one_is_0(place):
    from keepwell.watch.answers import acknowledged

    look = place.look(after={"days": 3})
    (sample,) = families(render(look))["keepwell_alert_open"].samples
    assert sample.labels["rule"] == "backup-missing"
    assert sample.value == 1
    acknowledged(place.loaded, place.context(), "backup-missing")
    (sample,) = families(render(place.look()))["keepwell_alert_open"].samples
    assert sample.value == 0


def test_when_the_vault_cannot_be_read_nothing_is_said_of_backups(place):
    (place.folder / "vault").rename(place.folder / "away")
    found = families(render(place.look()))
    assert found["keepwell_vault_up"].samples[0].value == 0
    assert found["keepwell_backup_newest_timestamp_seconds"].samples == []


def test_prometheus_own_linter_finds_nothing(place):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian: prometheus) is not here")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=render(place.look()), capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "args", [["check", "rules", "prometheus-rules.yml"], ["test", "rules", "prometheus-rules.test.yml"]]
)
def test_the_rules_are_right_by_promtool(args):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian: prometheus) is not here")
    done = subprocess.run([promtool, *args], cwd=MONITORING, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def names_in(text: str) -> set[str]:
    return set(re.findall(r"\bkeepwell_[a-z_]+", text))


def test_rules_dashboard_and_reference_speak_of_metrics_that_there_are(place):
    there = names_in(render(place.look()).decode())
    rules = (MONITORING / "prometheus-rules.yml").read_text()
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    asked = names_in(rules) | {
        n for p in dashboard["panels"] for t in p["targets"] for n in names_in(t["expr"] + p["description"])
    }
    assert asked <= there
    assert names_in(REFERENCE.read_text()) == there


def test_panels_have_a_place_and_an_id_of_their_own():
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
    assert len({p["id"] for p in panels}) == len(panels)


def get(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Content-Type"], error.read()


def test_over_http_it_is_alive_at_once_and_ready_when_the_vault_was_read(place):
    with Endpoint(("127.0.0.1", 0)) as endpoint:
        assert get(endpoint.port, "/healthz")[0] == 200
        assert get(endpoint.port, "/readyz")[0] == 503
        assert get(endpoint.port, "/metrics")[0] == 503
        endpoint.show(place.look())
        assert get(endpoint.port, "/readyz")[0] == 200
        status, kind, body = get(endpoint.port, "/metrics")
        assert status == 200
        assert kind.startswith("text/plain; version=0.0.4")
        assert "keepwell_look_timestamp_seconds" in families(body)
        assert get(endpoint.port, "/other")[0] == 404
        (place.folder / "vault").rename(place.folder / "away")
        endpoint.show(place.look())
        assert get(endpoint.port, "/readyz")[0] == 503
        assert get(endpoint.port, "/healthz")[0] == 200


def test_a_watch_that_no_longer_looks_is_not_alive(place):
    with Endpoint(("127.0.0.1", 0), place.clock) as endpoint:
        endpoint.show(place.look())
        endpoint._shown -= 301
        assert get(endpoint.port, "/healthz")[0] == 503


def test_a_taken_port_is_said():
    with Endpoint(("127.0.0.1", 0)) as endpoint, pytest.raises(ListenError, match="cannot listen on"):
        Endpoint(("127.0.0.1", endpoint.port))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9478", ("127.0.0.1", 9478)),
        (":80", ("127.0.0.1", 80)),
        ("9478", ("127.0.0.1", 9478)),
        ("[::1]:1", ("::1", 1)),
    ],
)
def test_addresses(text, address):
    assert address_of(text) == address


def test_what_is_no_address_is_refused():
    with pytest.raises(UsageError):
        address_of("localhost")


def test_the_reference_explains_every_rule():
    text = (ROOT / "docs/reference/rules.md").read_text()
    assert {rule for rule in RULES if f"`{rule}`" not in text} == set()
    assert all(rule.about in text for rule in RULES.values())
