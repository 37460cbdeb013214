"""`keepwell audit` and `keepwell logs` as people and scripts use them."""

import json

import pytest
from test_documents import documented, same_keys

OPEN = ("details", "from", "who")


@pytest.fixture
def busy(ready):
    """A project in which a few things were done, one of them in vain."""
    assert ready("backup").code == 0
    assert ready("restore", "production", "--to", "back").code == 0
    assert ready("restore", "production", "--to", "back").code == 1
    assert ready("key", "export", "--to", "writer.key", "--label", "web1").code == 0
    return ready


def test_the_list_says_who_did_what_and_what_came_of_it(busy):
    found = busy("audit", "list", "--json").json()
    assert [(entry["action"], entry["environment"], entry["outcome"]) for entry in found] == [
        ("init", None, "done"),
        ("backup", "production", "done"),
        ("restore", "production", "done"),
        ("restore", "production", "failed"),
        ("key export", None, "done"),
    ]
    (example,) = documented("audit list")
    for entry in found:
        assert entry.keys() == example.keys()
    assert found[3]["message"].endswith("exists already")
    assert found[4]["details"]["role"] == "writer"
    same_keys(
        [{k: v for k, v in found[1].items() if k not in OPEN}], [{k: v for k, v in example.items() if k not in OPEN}]
    )
    assert [entry["number"] for entry in busy("audit", "list", "--last", "2", "--json").json()] == [7, 9]
    assert len(busy("audit", "list", "production", "--since", "1h", "--json").json()) == 3
    assert busy("audit", "list", "--until", "2020-01-01", "--json").json() == []
    assert busy("audit", "list", "--since", "whenever").code == 2
    told = busy("audit", "list").out
    assert "key export" in told
    assert "done" in told


def test_a_writer_key_reads_the_record_too(busy):
    assert len(busy("audit", "list", "--json", "--key-file", "writer.key").json()) == 5
    assert busy("audit", "verify", "--key-file", "writer.key").code == 0
    assert len(busy("logs", "--json", "--key-file", "writer.key").json()) == 3


def test_export_gives_json_lines_with_their_hashes(busy, tmp_path):
    ran = busy("audit", "export")
    entries = [json.loads(line) for line in ran.out.splitlines()]
    assert [entry["number"] for entry in entries] == list(range(1, 11))
    assert [entry["previous"] for entry in entries[1:]] == [entry["sha256"] for entry in entries[:-1]]
    assert busy("audit", "export", "--json").json() == entries
    assert busy("audit", "export", "--to", str(tmp_path / "all.jsonl")).code == 0
    assert (tmp_path / "all.jsonl").read_text() == ran.out
    assert busy("audit", "export", "--to", str(tmp_path / "all.jsonl")).code == 1


def test_verify_tells_what_is_wrong_and_exits_1(busy):
    document = busy("audit", "verify", "--json").json()
    same_keys(document, documented("audit verify"))
    assert document["head"]["entry"] == 10
    head = f"{document['head']['entry']}:{document['head']['sha256']}"
    assert head in busy("audit", "verify").out
    assert busy("audit", "verify", "--head", head).code == 0
    assert busy("audit", "verify", "--head", "10:" + "0" * 64).code == 1
    assert busy("audit", "verify", "--head", "ten").code == 2
    entry = busy.project.vault / "logs" / "audit" / "00000000" / "0000000005"
    raw = entry.read_bytes()
    entry.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    ran = busy("audit", "verify", "--json")
    assert (ran.code, ran.json()["passed"]) == (1, False)
    assert "entry 5 was altered" in ran.json()["findings"][0]["problem"]
    assert "0000000005" in busy("audit", "verify").err
    assert busy("check", "--data").code == 1


def test_logs_lists_runs_and_shows_one(busy):
    found = busy("logs", "--json").json()
    same_keys(found, documented("logs"))
    assert sorted((entry["action"], entry["result"]) for entry in found) == [
        ("backup", "done"),
        ("restore", "done"),
        ("restore", "failed"),
    ]
    ran = busy("logs", found[0]["run"], "--json")
    assert ran.json()["lines"][0]["event"] == "begins"
    failed = next(entry for entry in found if entry["result"] == "failed")
    assert "exists already" in busy("logs", failed["run"]).out
    assert busy("logs", "production@latest").code == 0
    assert busy("logs", "nonesuch").code == 2
    assert len(busy("logs", "--last", "1", "--json").json()) == 1


def test_what_only_looks_leaves_nothing(busy):
    before = sorted((busy.project.vault / "logs").rglob("*"))
    for command in (
        ["list"],
        ["status"],
        ["show", "production"],
        ["key", "list"],
        ["prune", "--dry-run"],
        ["audit", "list"],
    ):
        assert busy(*command).code == 0
    assert sorted((busy.project.vault / "logs").rglob("*")) == before


def test_an_answer_to_an_alert_is_recorded_and_goes_on_without_the_store(busy):
    assert busy("alerts", "silence", "backup-missing:*", "--for", "2h").code == 0
    assert busy("audit", "list", "--json").json()[-1]["action"] == "alerts silence"
    busy.project.vault.rename(busy.project.folder / "away")
    ran = busy("alerts", "silence", "clock-off:*", "--for", "2h")
    assert ran.code == 0
    assert "is not in the audit log" in ran.err
    assert busy("backup").code == 6
