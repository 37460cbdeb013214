"""A run that fails is tried again where that may help, and nobody gets a run that is another's."""

import datetime as dt
import threading
import types
from unittest.mock import Mock

import pytest

from keepwell.core.clock import FakeClock
from keepwell.core.errors import Busy, KeyWrong, ProofFailed, StoreError
from keepwell.core.streams import Context
from keepwell.engine import execute, workman
from keepwell.engine.durable import Stopped
from keepwell.engine.execute import Outcome
from keepwell.engine.jobs import Job
from keepwell.engine.ledger import RunLost
from keepwell.engine.workman import Patience, Workman, document, read

JOB = Job("backup", "production", dt.datetime(2026, 11, 22, 2, tzinfo=dt.UTC))
DONE = Outcome("done", backup="production/20261122T020003Z-7f3a")


@pytest.fixture
def man(monkeypatch):
    """Its `attempts` say what each attempt does: an outcome, or an error to raise."""
    policy = types.SimpleNamespace(policy=types.SimpleNamespace(copies=()))
    clock = FakeClock()
    stopping = threading.Event()
    stopping.wait = clock.sleep  # the workman waits on it
    found = Workman(lambda: policy, Context(clock=clock), None, "me", lambda job: None, Patience, stopping)
    found.attempts, found.retried, found.clock = [], [], clock

    def run(job, loaded, context, *, permit, will_retry):
        found.retried.append(will_retry)
        what = found.attempts.pop(0)
        if isinstance(what, BaseException):
            raise what
        return what

    monkeypatch.setattr(execute, "run", run)
    monkeypatch.setattr(workman, "_LOG", Mock())
    return found


def test_a_store_that_is_down_is_tried_again_with_growing_waits_and_told_of_at_the_last_try(man):
    man.attempts = [StoreError("down")] * 4
    began = man.clock.monotonic()
    assert man(JOB.ident, document(JOB)) == {"result": "failed", "kind": "StoreError", "message": "down", "hint": ""}
    assert man.retried == [True, True, True, False]  # the watch tells nobody until the last
    assert 60 + 240 + 960 <= man.clock.monotonic() - began < 60 + 240 + 960 + 5


def test_a_run_that_succeeds_at_the_second_try_is_done(man):
    man.attempts = [StoreError("down"), DONE]
    assert man(JOB.ident, document(JOB))["result"] == "done"


@pytest.mark.parametrize("error", [KeyWrong("not this key"), ProofFailed("not equal")])
def test_what_no_other_try_can_mend_is_not_tried_again(man, error):
    man.attempts = [error]
    assert man(JOB.ident, document(JOB))["kind"] == type(error).__name__


def test_another_one_at_the_same_environment_is_waited_for_and_is_no_failure(man):
    man.attempts = [*[Busy("another backup is running")] * 9, StoreError("down"), DONE]
    assert man(JOB.ident, document(JOB))["result"] == "done"
    assert man.retried[-1]  # waiting used up none of the tries


def test_the_text_of_an_unknown_error_is_never_kept(man):
    man.attempts = [ValueError("password=hunter2")] * 4
    assert "hunter2" not in str(man(JOB.ident, document(JOB)))


@pytest.mark.parametrize("why", ["stopping", "lost", "taken"])
def test_a_run_that_ends_because_the_process_ends_or_another_has_it_is_left_open(man, why):
    man.attempts = [RunLost("taken over")] if why == "taken" else [StoreError("whatever the interruption made of it")]
    if why != "taken":
        run = execute.run

        def interrupted(*args, **options):
            getattr(man, why).set()
            return run(*args, **options)

        execute.run = interrupted
    with pytest.raises(Stopped):
        man(JOB.ident, document(JOB))


def test_jobs_are_read_as_they_were_written():
    assert read(document(JOB)) == JOB
    whole = Job("prune", None, JOB.due)
    assert read(document(whole)) == whole
    # What lies in a queue must be read by every later version.
    assert document(JOB) == {"kind": "backup", "environment": "production", "due": "2026-11-22T02:00:00Z"}
