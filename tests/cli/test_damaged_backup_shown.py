"""What `list`, `show`, `status`, `backup` and `doctor` make of a backup whose metadata.json, or proof, was altered."""

import pytest


@pytest.fixture
def spoilt(ready):
    """Two backups, the newest one damaged."""
    # Within one second chance decides which of the two counts as the newer one.
    older, newest = sorted(ready("backup", "--json").json()["backup"] for _ in range(2))
    folders = {path.parent: path for path in ready.project.vault.rglob("metadata.json")}
    (path,) = [p for p in folders.values() if newest.rpartition("-")[2] in p.parent.name]
    flip(path)
    return ready, older, newest


def flip(path):
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw[:40] + bytes([raw[40] ^ 1]) + raw[41:])


@pytest.mark.slow
def test_a_damaged_backup_is_listed_with_the_reason_and_holds_up_nothing(spoilt, monkeypatch, tmp_path):
    keepwell, older, newest = spoilt
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fresh"))  # nothing from before the damage
    ran = keepwell("list", "--json")
    assert ran.code == 0
    healthy, damaged = ran.json()
    assert (healthy["backup"], healthy["status"]) == (older, "complete")
    assert "damage" not in healthy
    assert (damaged["backup"], damaged["status"], damaged["bytes"], damaged["proven"]) == (
        newest,
        "damaged",
        None,
        False,
    )
    assert "altered" in damaged["damage"]
    ran = keepwell("list")
    assert "damaged" in ran.out
    assert newest in ran.err

    ran = keepwell("show", newest, "--json")
    assert (ran.code, ran.json()["status"], ran.json()["objects"]) == (1, "damaged", ["manifest", "metadata.json"])
    assert newest in keepwell("show", newest).err
    assert keepwell("show", older).code == 0

    (status,) = keepwell("status", "--json").json()
    assert (status["state"], status["newest"]["backup"]) == ("fail", older)
    assert [entry["backup"] for entry in status["damaged"]] == [newest]
    assert any(newest in problem for problem in status["problems"])

    ran = keepwell("doctor", "--json")
    assert ran.code == 1
    assert any(newest in d["what"] and d["state"] == "fail" for d in ran.json()["diagnoses"])

    ran = keepwell("restore", "production", "--to", str(tmp_path / "back"), "--json")
    assert (ran.code, ran.json()["error"]["kind"]) == (1, "Damaged")
    assert newest in ran.json()["error"]["message"]
    assert older in ran.json()["error"]["hint"]
    assert keepwell("restore", older, "--to", str(tmp_path / "back")).code == 0

    assert keepwell("prune", "--json").code == 0
    assert keepwell("backup").code == 0
    assert keepwell("show", "production").code == 0
    assert keepwell("check").code == 1


@pytest.mark.slow
def test_a_damaged_proof_is_shown_and_the_backup_is_not_proven(ready, monkeypatch, tmp_path):
    backup = ready("backup", "--json").json()["backup"]
    assert ready("verify", "production", "--json").json()["proven"]
    (proof,) = ready.project.vault.rglob("proof-*.json")
    flip(proof)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "fresh"))
    (listed,) = ready("list", "--json").json()
    assert (listed["status"], listed["proven"]) == ("complete", False)
    assert proof.name in listed["damage"]
    assert proof.name in ready("list").err
    shown = ready("show", backup, "--json").json()
    assert [(p["passed"], p["damaged"]) for p in shown["proofs"]] == [(False, True)]
    (status,) = ready("status", "--json").json()
    assert (status["state"], status["proven"]) == ("fail", None)
    assert any(proof.name in problem for problem in status["problems"])
    assert ready("verify", "production", "--json").json()["proven"]
    (listed,) = ready("list", "--json").json()
    assert listed["proven"]
    assert "damage" not in listed
