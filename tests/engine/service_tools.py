"""Processes that serve, and the queue that they serve from, as tests use them."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from keepwell.engine import database
from keepwell.engine.durable import Runs
from keepwell.engine.jobs import Job
from keepwell.engine.workman import document

DRIVER = Path(__file__).with_name("service_driver.py")


def until(condition, what, seconds=60):
    """Waits for a state of other processes: they tell nobody, so it is asked for."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
        time.sleep(0.02)
    return found


class Serving:
    """A process that serves; the next one may be started when it has ended."""

    def __init__(self, folder, machine=None, **options):
        self.log = (folder / "serve.log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), str(folder), *(f"{k}={v}" for k, v in options.items())],
            env=os.environ | ({"XDG_CACHE_HOME": str(folder / machine)} if machine else {}),
            stdout=subprocess.PIPE,
            stderr=self.log,
        )

    def ready(self):
        assert self.process.stdout.readline() == b"ready\n"
        return self

    def killed(self):
        """Waits for its death by its own hand."""
        assert self.process.wait(60) == -signal.SIGKILL

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.log.close()


class Queue:
    def __init__(self, place):
        self.runs = Runs(database.sqlite_at(place.folder / ".keepwell" / "engine.db"))
        self.place = place
        self.count = 0

    def backup(self, environment="production"):
        """Enqueues a backup that is due; its identity."""
        self.count += 1
        job = Job("backup", environment, dt.datetime(2026, 11, 22, 2, self.count, tzinfo=dt.UTC))
        self.runs.enqueue(job.ident, document(job), site=None, group=f"environment/{environment}")
        return job.ident

    def state(self, ident):
        found = self.runs.state(ident)
        return found[0] if found else None

    def done(self, ident):
        until(lambda: self.state(ident) == "SUCCESS", f"the end of {ident}")
        return self.runs.state(ident)[1]

    def taken(self, ident):
        return [b for b in self.place.listed() if b.document.get("run") == ident]
