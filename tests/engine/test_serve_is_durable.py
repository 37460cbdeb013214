"""A process that serves is killed at every place where it matters: each run is done, and committed once."""

import pytest
from service_tools import until


@pytest.mark.slow
def test_runs_outlive_kills_at_every_step_and_each_has_one_backup(place, serve, queue, arm):
    one = serve().ready()
    killed = []
    for fault in ("pack", "before-commit", "after-commit", "after-run"):
        arm(fault)
        ident = queue.backup()
        one.killed()
        assert queue.state(ident) == "PENDING"
        assert len(queue.taken(ident)) == (fault in {"after-commit", "after-run"})
        killed.append(ident)
        if fault == "after-run":
            killed.append(queue.backup())  # waits behind it
        # The last time the program that comes next is of another version.
        one = serve(version="jobs-2" if fault == "after-run" else "jobs-1").ready()
        ended = queue.done(ident)
        assert ended["result"] == "done"
        assert ended.get("repeated", False) == (fault in {"after-commit", "after-run"})
    assert queue.done(killed[-1])["result"] == "done"
    assert [len(queue.taken(ident)) for ident in killed] == [1, 1, 1, 1, 1]
    assert place.verify().proven
    one.stop()


@pytest.mark.slow
def test_a_process_told_to_end_does_not_wait_for_a_store_that_does_not_answer(place, serve, queue, arm):
    one = serve(end=0.5).ready()
    arm("hold")
    ident = queue.backup()
    until((place.folder / "fault.held").exists, "the first bytes")
    one.stop()
    (place.folder / "fault").unlink()
    assert queue.state(ident) == "ENQUEUED"  # free for whoever comes next, at once
    serve().ready()
    assert queue.done(ident)["result"] == "done"
    assert len(queue.taken(ident)) == 1
