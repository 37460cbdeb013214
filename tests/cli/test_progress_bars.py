"""Progress on a terminal: nothing for short work, bars for long work, and lines that go around the bars."""

import io
from contextlib import redirect_stderr

import pytest

from keepwell.cli import bars
from keepwell.cli.bars import Bars
from keepwell.cli.output import Output, aligned


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Becomes standard error inside `redirect_stderr`: pytest puts its own in place between fixture and test."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_short_work_shows_no_bar(terminal):
    with redirect_stderr(terminal), Bars(Output()) as progress:
        progress.begin("app", 100)
        progress.advance("app", 100)
        progress.end("app")
    assert terminal.getvalue() == ""


def test_long_work_shows_how_far_it_is_and_notes_stay_readable(terminal, monkeypatch):
    started = bars.threading.Event()
    monkeypatch.setattr(bars, "_PATIENCE", 0)
    whole = Bars._start
    monkeypatch.setattr(Bars, "_start", lambda self: (whole(self), started.set()))
    with redirect_stderr(terminal), Bars(Output()) as progress:
        progress.begin("app", 2_000_000)
        assert started.wait(10)
        progress.advance("app", 1_000_000)
        progress.note("half way")
        progress.warn("slow disk")
        progress.begin("rows", 10, "rows")
        progress.end("app")
    said = terminal.getvalue()
    assert "1.0 MB of 2.0 MB" in said
    assert "half way" in said
    assert "slow disk" in said
    assert "0 of 10 rows" in said


def test_with_quiet_there_are_no_notes_and_no_bars_but_warnings(terminal, monkeypatch):
    monkeypatch.setattr(bars, "_PATIENCE", 0)
    with redirect_stderr(terminal), Bars(Output(quiet=True)) as progress:
        progress.begin("app", 10)
        progress.note("half way")
        progress.warn("slow disk")
        progress.end("app")
    assert "slow disk" in terminal.getvalue()
    assert "half way" not in terminal.getvalue()
    assert "app" not in terminal.getvalue()


def test_colours_are_left_out_where_no_color_is_set(terminal, monkeypatch):
    with redirect_stderr(terminal):
        Output().warn("slow disk")
        assert "\033[" in terminal.getvalue()
        monkeypatch.setenv("NO_COLOR", "1")
        Output().warn("other disk")
        monkeypatch.delenv("NO_COLOR")
        Output(color=False).warn("third disk")
    assert "\033[" not in terminal.getvalue().split("slow disk")[1]


def test_columns_stay_in_line_with_wide_characters():
    assert aligned([["名前", "1"], ["ab", "10"]], right=(1,)) == ["名前   1", "ab    10"]
