"""Log lines of processes that run by themselves: what they say, and what they never say."""

import io
import json
import logging
import threading
from urllib.parse import quote

import pytest
import structlog

from keepwell.core import logs
from keepwell.core.clock import FakeClock
from keepwell.core.errors import StoreError
from keepwell.core.secrets import Secret, redact, redacted, remember

CANARY = 'c4nary/pass"wörd+7'


@pytest.fixture
def lines():
    """A configured stream, and a function that gives its lines as documents."""
    root = logging.getLogger()
    before = list(root.handlers), root.level
    out = io.StringIO()
    logs.configure(stream=out, clock=FakeClock())
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:], root.level = before
    logging.getLogger("keepwell").setLevel(logging.NOTSET)


def test_a_line_has_time_level_logger_and_what_is_bound(lines):
    log = logs.get("engine")
    with logs.bound(run="r1", verb="backup"):
        log.info("begins", tries=2)
    log.info("idle")
    log.debug("not worth a line")
    first, second = lines()
    assert first == {
        "time": "2026-11-22T02:00:00.000Z",
        "run": "r1",
        "verb": "backup",
        "event": "begins",
        "tries": 2,
        "level": "info",
        "logger": "keepwell.engine",
    }
    assert "run" not in second


def test_notes_from_other_threads_say_whose_run_they_belong_to(lines):
    with logs.bound(run="r1"):
        progress = logs.Logged(logs.get("engine"))
    thread = threading.Thread(target=progress.warn, args=("a page was odd",))
    thread.start()
    thread.join()
    (line,) = lines()
    assert (line["run"], line["level"], line["event"]) == ("r1", "warning", "a page was odd")


def test_no_secret_stands_in_a_line_whatever_way_it_came(lines):
    secret = Secret(f"postgresql://app:{quote(CANARY, safe='')}@db.example/leads")
    log = logs.get("engine")
    connecting = f"connecting to {secret.reveal()}"
    log.info(connecting, url=secret, deep={"a": [secret.reveal(), {"password": "short"}]})
    words = f"SELECT {CANARY}"
    log.info(words)
    log.info("at https://x:other@host/ with ?sig=abcdef&x=1 and password='sp ace'")
    try:
        raise RuntimeError(f"library says {CANARY}")
    except RuntimeError as error:
        log.exception("failed", exc_info=error)
    logging.getLogger("library").warning("retrying %s", secret.reveal())
    text = json.dumps(lines(), ensure_ascii=False)
    for trace in (CANARY, json.dumps(CANARY)[1:-1], "c4nary", "other@", "abcdef", "sp ace", '"short"', "library says"):
        assert trace not in text
    assert lines()[3]["error"] == {"kind": "RuntimeError"}
    assert lines()[3]["at"][-1].endswith("test_no_secret_stands_in_a_line_whatever_way_it_came")
    assert lines()[4]["logger"] == "library"


def test_an_error_of_keepwell_is_told_with_its_hint(lines):
    logs.get("engine").error("failed", exc_info=StoreError("the store is away", hint="Wait."))
    (line,) = lines()
    assert line["error"] == {"kind": "StoreError", "message": "the store is away", "hint": "Wait."}


def test_at_a_terminal_lines_are_for_people_and_hold_no_secret_either(lines):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    out = Terminal()
    logs.configure(stream=out, clock=FakeClock())
    remember("hunter2hunter2")
    logs.get("engine").info("begins with hunter2hunter2", run="r1")
    assert "begins with ***" in out.getvalue()
    assert "hunter2" not in out.getvalue()
    assert not out.getvalue().startswith("{")


def test_redaction_knows_the_forms_of_a_secret_and_leaves_the_rest():
    remember("p@ss/w:rd&1")
    assert redact("x p@ss/w:rd&1 y p%40ss%2Fw%3Ard%261 z") == "x *** y *** z"
    assert redact("nothing to hide: 12 backups of production") == "nothing to hide: 12 backups of production"
    assert redacted({"n": 1, "t": True, "x": None, "token": "abc", "tokens": 3}) == {
        "n": 1,
        "t": True,
        "x": None,
        "token": "***",
        "tokens": 3,
    }
    assert redact("keepwell-key-1:ab12:cd34:QUJDREVG") == "keepwell-key-1:ab12:cd34:***"
