"""A process that serves is killed at every place where it matters: each run is done, and committed once."""

import pytest


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
        # The last time the program that comes next is of another version.
        one = serve(version="jobs-2" if fault == "after-run" else "jobs-1").ready()
        ended = queue.done(ident)
        assert ended["result"] == "done"
        assert ended.get("repeated", False) == (fault in {"after-commit", "after-run"})
    assert [len(queue.taken(ident)) for ident in killed] == [1, 1, 1, 1]
    assert place.verify().proven
    one.stop()


@pytest.mark.slow
def test_runs_that_an_older_version_began_or_left_in_the_queue_are_done_by_the_next(serve, queue, arm):
    one = serve(version="jobs-1").ready()
    arm("pack")
    begun = queue.backup()
    one.killed()
    waiting = queue.backup()  # of the same environment, so it was not begun
    serve(version="jobs-2").ready()
    assert queue.done(begun)["result"] == "done"
    assert queue.done(waiting)["result"] == "done"
    assert len(queue.taken(begun)) == len(queue.taken(waiting)) == 1


@pytest.mark.slow
def test_a_process_told_to_end_does_not_wait_for_a_store_that_does_not_answer(place, serve, queue, arm):
    one = serve(end=0.5).ready()
    arm("hold")
    ident = queue.backup()
    while queue.state(ident) != "PENDING":
        pass
    one.stop()
    (place.folder / "fault").unlink()
    assert queue.state(ident) == "ENQUEUED"  # free for whoever comes next, at once
    serve().ready()
    assert queue.done(ident)["result"] == "done"
    assert len(queue.taken(ident)) == 1
