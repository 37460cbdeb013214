"""A project with a vault that is watched, and sinks for what people are told."""

import datetime as dt
import warnings
from types import SimpleNamespace

import pytest
from sinks import http_sink, smtp_sink

from keepwell.watch.book import Book, place
from keepwell.watch.look import Watcher
from keepwell.watch.runs import ending_of_backup, watched
from support.workplace import Workplace, make


class Watched(Workplace):
    """A workplace whose runs and looks are watched, on a clock that the test moves."""

    _watcher = None
    store_clock_apart = dt.timedelta(0)

    def store_now(self):
        return self.clock.now() + self.store_clock_apart

    @property
    def watcher(self):
        self._watcher = self._watcher or Watcher(self.loaded)
        return self._watcher

    @property
    def book(self):
        return Book(place(self.loaded))

    def look(self, *, after=None, **how):
        if after:
            self.clock.advance(**after)
        return self.watcher.look(self.context(), **how)

    def run(self, environment="production", **how):
        """A watched backup."""
        with watched(self.loaded, self.context(), "backup", environment, **how) as run:
            result = self.backup(environment)
            run.ended(ending_of_backup(result))
            return result

    def open(self):
        with self.book.look() as pages:
            return {key: alert for key, alert in pages.alerts().items() if alert.is_open}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """`workplace(environment=…, more=…)`: with data, policy and vault, and no backup yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def made(**parts):
        place = make(tmp_path / "project", **parts)
        found = Watched(place.folder, place.clock, place.progress, place.parts)
        # The test's clock moves by days, and the store's clock with it.
        monkeypatch.setattr("keepwell.watch.gather.store_now", lambda store: found.store_now())
        # However full the disk of this machine is.
        monkeypatch.setattr(
            "keepwell.watch.gather.shutil", SimpleNamespace(disk_usage=lambda _: SimpleNamespace(total=100, free=60))
        )
        return found

    return made


@pytest.fixture
def sink():
    with http_sink() as found:
        yield found


@pytest.fixture
def smtp():
    with smtp_sink() as found:
        yield found


@pytest.fixture
def impatient(monkeypatch):
    """Apprise waits between two messages to one service; here it need not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of its plugins use modules that Python is about to drop
        import apprise

        apprise.Apprise.instantiate("json://localhost")  # loads them all

    monkeypatch.setattr(apprise.NotifyBase, "request_rate_per_sec", 0)
