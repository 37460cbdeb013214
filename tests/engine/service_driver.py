"""`keepwell serve` (or a worker) with a fast pace, which kills itself where a test wants it. Not a test.

Usage: service_driver.py FOLDER [key=value]…: version=, site=, patience=, faults (a file with the name of a fault).
The fault is looked at at each of its places, and taken away right before it strikes:
`pack` (the first bytes are being stored), `before-commit`, `after-commit`, `after-run` (before DBOS knows), `after-enqueue`
(before the plan is marked as looked at), `hold` (the store does not answer until the file is gone).
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

from keepwell.core import logs
from keepwell.core.streams import Context
from keepwell.engine import service
from keepwell.engine.durable import VERSION
from keepwell.engine.ledger import Ledger
from keepwell.engine.workman import Patience, Workman
from keepwell.policy.load import load
from keepwell.stores.local import LocalStore

FOLDER = Path(sys.argv[1])
OPTIONS = dict(option.split("=", 1) for option in sys.argv[2:])
FAULT = Path(OPTIONS.get("faults", FOLDER / "fault"))


def fault(name):
    with contextlib.suppress(FileNotFoundError):
        if FAULT.read_text() == name:
            FAULT.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def with_faults():
    put, call, mark = LocalStore.put, Workman.__call__, Ledger.mark

    def faulty_put(self, name, data):
        if name.startswith("packs/"):
            fault("pack")
            while FAULT.exists() and FAULT.read_text() == "hold":
                FAULT.with_suffix(".held").touch()
                time.sleep(0.01)  # a store that does not answer
        if name.endswith("metadata.json"):
            fault("before-commit")
        put(self, name, data)
        if name.endswith("metadata.json"):
            self.flush()
            fault("after-commit")

    def faulty_call(self, ident, job):
        done = call(self, ident, job)
        fault("after-run")
        return done

    def faulty_mark(self, until):
        fault("after-enqueue")
        mark(self, until)

    LocalStore.put, Workman.__call__, Ledger.mark = faulty_put, faulty_call, faulty_mark


def main():
    with_faults()
    signals = service.Signals()

    def stop(*_):
        signals.stop.set()
        signals.wake.set()

    signal.signal(signal.SIGTERM, stop)
    logs.configure(as_json=True)
    one = service.Service(
        lambda: load(FOLDER / "keepwell.toml"),
        service.Duty(sites=(OPTIONS.get("site"),), watch="watch" in OPTIONS),
        Context(cache=Path(os.environ["XDG_CACHE_HOME"]) / "context"),
        signals,
        service.Pace(
            plan=0.1, poll=0.1, beat=0.2, patience=float(OPTIONS.get("patience", 60)), end=float(OPTIONS.get("end", 20))
        ),
        lambda loaded: Patience(first=0.1),
        version=OPTIONS.get("version", VERSION),
        started=lambda: print("ready", flush=True),
    )
    if not one.run():
        os._exit(0)


if __name__ == "__main__":
    main()
