"""What is recorded of a run: an entry before it takes effect, one after it, and its log, whatever came of it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from keepwell.core import logs
from keepwell.core.caller import called
from keepwell.core.errors import SourceError, StoreDenied, StoreError, UsageError
from keepwell.operations import auditing, record
from keepwell.operations.auditing import Window
from keepwell.operations.backup import BackupRequest, backup
from keepwell.operations.check import CheckRequest, check
from keepwell.operations.copy import CopyRequest, copy
from keepwell.operations.opening import open_vault
from keepwell.operations.prune import PruneRequest, prune
from keepwell.operations.record import recorded
from keepwell.stores.local import LocalStore
from keepwell.vault import audit
from keepwell.watch.runs import watched
from support import workplace

ALWAYS = Window()


def run(place, verb="backup", **more):
    """A watched run of a backup, as the engine and the command line do it."""
    loaded, context = place.loaded, place.context()
    with watched(loaded, context, verb, "production", **more):
        return backup(loaded, BackupRequest("production", "manual"), context)


def done(place):
    return [(a.begun.document["action"], a.outcome) for a in auditing.actions(place.loaded, place.context(), ALWAYS)]


def verified(place, head=None):
    return auditing.verify(place.loaded, place.context(), head)


def refuse(monkeypatch, part):
    """The store does not take objects whose name holds this."""
    real = LocalStore.put

    def put(self, name, data):
        if part in name:
            raise StoreDenied(f"{name} was refused")
        real(self, name, data)

    monkeypatch.setattr(LocalStore, "put", put)


def test_the_entry_is_there_before_the_action_begins_and_the_result_after_it(place):
    loaded, context = place.loaded, place.context()
    with called("schedule", ["backup/production/20261122T020000Z"]), recorded(loaded, context, "key add") as entry:
        names = place.objects("logs/")
        assert names[-1] == "logs/audit/00000000/0000000003"  # behind the two of init
        assert open_vault(loaded) is open_vault(loaded)  # opened once for the entry and the action
        entry.ended("done", details={"slot": "1234"})
    action = auditing.actions(place.loaded, place.context(), ALWAYS)[-1].json()
    assert (action["action"], action["outcome"], action["by"]) == ("key add", "done", "schedule")
    assert action["command"] == ["backup/production/20261122T020000Z"]
    assert action["details"] == {"slot": "1234"}
    assert action["who"]["role"] == "reader"
    assert action["from"]["pid"] == os.getpid()
    assert place.objects("logs/runs/")[-1] == action["log"]
    assert verified(place).passed


def test_a_backup_names_the_entry_that_it_began_with(place):
    with pytest.raises(UsageError), recorded(place.loaded, place.context(), "verify", "No such!"):
        raise UsageError("there is none")
    run(place)
    (found,) = place.listed()
    entry = found.document["audit"]["entry"]
    assert entry == 5
    assert place.objects("logs/audit/")[entry - 1] == audit.name_of(entry)
    assert done(place) == [("init", "done"), ("verify", "failed"), ("backup", "done")]


def test_a_cut_end_is_found_by_this_machine_by_backups_and_by_who_wrote_the_head_down(place):
    run(place)
    run(place)
    head = verified(place).verdict.head
    written = f"{head.number}:{head.sha256}"
    vault = place.vault()
    vault.store.delete(audit.name_of(head.number))
    (finding,) = verified(place).verdict.findings
    assert "this machine has seen entry 6, and the log ends with 5" in finding.problem
    shutil.rmtree(place.folder / ".keepwell")
    assert verified(place).passed  # nobody is left who has seen the end of the last run
    assert not verified(place, written).passed
    vault.store.delete(audit.name_of(5))
    (finding,) = verified(place).verdict.findings
    assert f"{place.listed()[-1].id} has seen entry 5" in finding.problem
    assert not check(place.loaded, CheckRequest(), place.context()).passed
    with pytest.raises(UsageError):
        verified(place, "5")


def test_a_machine_that_remembers_more_than_is_there_says_so_at_its_next_action(place):
    run(place)
    place.vault().store.delete(audit.name_of(4))
    run(place)
    assert any("its end was cut off" in text for text in place.progress.warnings)
    assert [f.problem for f in verified(place).verdict.findings] == ["entry 4 is missing"]


def test_what_cannot_be_recorded_is_not_begun_but_a_restore_is(place, monkeypatch, tmp_path):
    run(place)
    refuse(monkeypatch, "logs/audit")
    with pytest.raises(StoreDenied, match="backup was not begun"):
        run(place)
    assert len(place.listed()) == 1
    loaded, context = place.loaded, place.context()
    with recorded(loaded, context, "restore", "production", strict=False):
        place.restore(source="app", to=str(tmp_path / "back.db"))
    assert "this restore is not in the audit log" in context.progress.warnings[-1]
    shutil.move(place.folder / "vault", place.folder / "away")
    with recorded(loaded, context, "restore", "production", strict=False), pytest.raises(StoreError):
        open_vault(loaded)


def test_that_the_end_cannot_be_written_fails_nothing_and_the_log_comes_with_the_next_run(place, monkeypatch):
    loaded, context = place.loaded, place.context()
    with recorded(loaded, context, "backup", "production"):
        context.progress.note("half of it is done")
        refuse(monkeypatch, "logs/")
    assert [text.split(":")[0] for text in context.progress.warnings] == [
        "the log of this backup is not in the vault yet",
        "how this backup ended is not in the audit log",
    ]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(place.folder / "xdg"))
    assert place.objects("logs/runs/") == []
    run(place)
    said = auditing.runs(place.loaded, place.context())
    assert [entry.result for entry in said] == ["done", "done"]
    assert "half of it is done" in [line["event"] for entry in said for line in entry.lines]
    assert list((place.folder / ".keepwell" / "runs").glob("*/*")) == []


def test_a_failing_run_leaves_its_log_with_phases_warnings_and_the_error(place):
    place.database.unlink()
    shutil.rmtree(place.uploads)
    with pytest.raises(SourceError):
        run(place)
    said = auditing.run_log(place.loaded, place.context(), "production@latest")
    assert (said.result, said.action, said.log.environment) == ("failed", "backup", "production")
    assert {"info", "warning", "error"} == {line["level"] for line in said.lines}
    assert said.lines[-1]["kind"] == "SourceError"
    assert said.lines[-1]["message"]
    assert done(place)[-1] == ("backup", "failed")
    with pytest.raises(UsageError):
        auditing.run_log(place.loaded, place.context(), "00000000")


KILLED = """
import os, signal, sys
from pathlib import Path
from support import workplace
from keepwell.operations.record import recorded
place = workplace.Workplace(Path(sys.argv[1]))
context = place.context()
with recorded(place.loaded, context, "backup", "production"):
    context.progress.note("before the end")
    print("begun", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_run_that_is_killed_is_running_then_unknown_and_the_next_run_brings_its_log(place):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(place.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(__file__))},
    )
    assert process.stdout.readline() == b"begun\n"
    assert done(place)[-1] == ("backup", "running")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert done(place)[-1] == ("backup", "unknown")
    assert verified(place).passed
    run(place)
    assert done(place)[-2:] == [("backup", "unknown"), ("backup", "done")]
    first = auditing.runs(place.loaded, place.context())[0]
    assert (first.result, first.lines[-1]["event"]) == ("unknown", "before the end")


CANARY = "c4naryc4nary"


def test_no_output_of_a_run_holds_a_secret(tmp_path, monkeypatch, capfd):
    source = '[environments.production.sources.db]\ntype = "postgres"\nurl = { env = "CANARY_URL" }'
    place = workplace.make(tmp_path / "work", more=source)
    monkeypatch.setenv("CANARY_URL", f"postgresql://app:{CANARY}@127.0.0.1:1/leads")
    logs.configure(as_json=True)
    context = place.context()
    context.progress = logs.Logged(logs.get("test"), place.progress)
    with called("command", ["restore", "--to", f"postgresql://u:{CANARY}@h/db"]):
        with watched(place.loaded, context, "backup", "production"):
            backup(place.loaded, BackupRequest("production"), context)
        with recorded(place.loaded, context, "export", "production") as entry:
            context.progress.warn(f"a library said {CANARY}")
            entry.ended("failed", f"password={CANARY}", details={"url": f"https://{CANARY}@host"})
    lines = capfd.readouterr().err
    assert [json.loads(line)["run"] for line in lines.splitlines()]
    everything = [lines, json.dumps([e.json() for e in auditing.entries(place.loaded, context, ALWAYS)])]
    everything += [json.dumps(said.lines) for said in auditing.runs(place.loaded, context)]
    everything += [path.read_bytes().decode("latin-1") for path in place.folder.rglob("*") if path.is_file()]
    assert not any(CANARY in text for text in everything)
    assert '["restore", "--to", "postgresql://u:***@h/db"]' in everything[1]
    assert "a library said ***" in everything[0] + everything[-1] + "".join(everything)


def test_what_only_looks_leaves_no_entry(place):
    run(place)
    before = place.objects("logs/")
    place.vault().backups()
    auditing.actions(place.loaded, place.context(), ALWAYS)
    verified(place)
    run(place, recording=False)
    assert place.objects("logs/") == before


def test_a_push_of_the_log_has_one_entry_a_day(place):
    context = place.context()
    assert [record.due_today(context, "wal push app") for _ in range(3)] == [True, False, False]
    assert record.due_today(context, "wal push other")
    place.clock.advance(days=1)
    assert record.due_today(context, "wal push app")


def test_prune_removes_what_is_older_than_the_policy_keeps_and_the_log_still_verifies(place):
    vault = place.vault()
    for number in range(100):
        audit.append(vault.store, vault.keyring, {"event": "begun", "action": "drill", "number": number})
    run(place)
    old = time.time() - 91 * 86400
    for name in place.objects("logs/audit/00000000/") + place.objects("logs/runs/"):
        os.utime(place.folder / "vault" / name, (old, old))
    result = prune(place.loaded, PruneRequest(dry_run=True), place.context())
    assert (result.audit_entries, result.run_logs) == (0, 0)
    result = prune(place.loaded, PruneRequest(), place.context())
    assert result.json()["record"] == {"audit": 100, "runs": 1}
    verdict = verified(place).verdict
    assert (verdict.findings, verdict.first) == ([], 101)
    assert done(place) == [("drill", "unknown"), ("drill", "unknown"), ("backup", "done")]
    assert place.check() == []


def test_a_copy_has_the_log_and_gives_back_what_the_vault_lost(tmp_path):
    place = workplace.make(tmp_path / "work", more=f'[[copies]]\nname = "offsite"\nstore = "file://{tmp_path}/offsite"')
    run(place)
    assert copy(place.loaded, CopyRequest(), place.context()).clean
    vault = place.vault()
    shutil.rmtree(place.folder / ".keepwell")
    vault.store.delete(audit.name_of(2))
    raw = vault.store.get(audit.name_of(4))
    vault.store.delete(audit.name_of(4))
    problems = [finding.problem for finding in verified(place).verdict.findings]
    assert problems[0] == "entry 2 is missing"
    assert f"the copy at file://{tmp_path}/offsite has seen entry 4" in problems[1]
    mended = check(place.loaded, CheckRequest(repair=True), place.context())
    assert audit.name_of(2) in mended.repair.repaired
    vault.store.put(audit.name_of(4), raw)
    assert verified(place).passed
    assert place.check() == []
