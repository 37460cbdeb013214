"""Whether `keepwell serve` stays as it is: its memory, file handles and threads while it takes a backup every few seconds.

    python benchmarks/serve_flat.py [--minutes 10] [--every 3] [--json FILE]

The real program serves a small project (SQLite and a folder of files, a part of which changes before each backup). Backups are put into
its queue from outside, since no schedule is finer than a minute, and a prune every half minute keeps the number of backups
steady. Ends with exit code 1 where the last third needs more than 5 % (and 4 MiB) more memory, or more file handles or
threads, than the second third.
"""

import argparse
import contextlib
import datetime as dt
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from keepwell.engine.database import sqlite_at
from keepwell.engine.durable import Runs
from keepwell.engine.jobs import Job
from keepwell.engine.workman import document

POLICY = """
version = 1
project = "flat"
[vault]
store = "file://{folder}/vault"
key = {{ file = "vault.key" }}
grace = "1m"
[environments.production]
keep = {{ daily = 20, weekly = 20, monthly = 20, manual = 20 }}
[environments.production.sources.app]
type = "sqlite"
path = "app.db"
[environments.production.sources.uploads]
type = "files"
path = "uploads"
"""


def make(folder: Path) -> None:
    (folder / "uploads").mkdir()
    for number in range(200):
        (folder / "uploads" / f"{number}.bin").write_bytes(random.Random(number).randbytes(20_000))
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as db, db:
        db.execute("create table leads (id integer primary key, name text)")
        db.executemany("insert into leads (name) values (?)", [(f"lead {n}",) for n in range(20_000)])
    (folder / "keepwell.toml").write_text(POLICY.format(folder=folder))


def change(folder: Path, chance: random.Random) -> None:
    (folder / "uploads" / f"{chance.randrange(200)}.bin").write_bytes(chance.randbytes(20_000))
    with contextlib.closing(sqlite3.connect(folder / "app.db")) as db, db:
        db.execute("update leads set name = ? where id = ?", (f"lead {chance.random()}", chance.randrange(20_000)))


def sample(process: psutil.Process) -> dict[str, float]:
    with process.oneshot():
        info = process.memory_full_info()
        return {
            "rss": info.rss / 2**20,
            "uss": info.uss / 2**20,
            "handles": process.num_fds(),
            "threads": process.num_threads(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--every", type=float, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="keepwell-flat-") as name:
        folder = Path(name)
        make(folder)
        environ = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
        program = [sys.executable, "-m", "keepwell.cli", "--policy", str(folder / "keepwell.toml")]
        setup = "from keepwell.operations.init import init; from keepwell.policy.load import load; from pathlib import Path; import sys; from keepwell.core.streams import Context; init(load(Path(sys.argv[1])), Context())"
        subprocess.run([sys.executable, "-c", setup, str(folder / "keepwell.toml")], env=environ, check=True)
        log = (folder / "log").open("wb")
        serving = subprocess.Popen([*program, "serve", "--listen", "127.0.0.1:0"], env=environ, stderr=log)
        try:
            found = run(folder, psutil.Process(serving.pid), options)
        finally:
            serving.send_signal(signal.SIGTERM)
            code = serving.wait(60)
        lines = [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
        found["exit"] = code
        found["warnings"] = [line for line in lines if line["level"] in {"warning", "error"}]
    print(json.dumps({k: v for k, v in found.items() if k != "samples"}, indent=2))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))
    return 0 if found["flat"] and code == 0 else 1


def run(folder: Path, process: psutil.Process, options: argparse.Namespace) -> dict:
    chance, runs = random.Random(1), Runs(sqlite_at(folder / ".keepwell" / "engine.db"))
    while b'"serves"' not in (folder / "log").read_bytes():
        time.sleep(0.1)
    began, samples, idents = time.monotonic(), [], []
    next_sample, next_prune = began, began + 30
    while (now := time.monotonic()) - began < options.minutes * 60:
        change(folder, chance)
        enqueue(runs, "backup", "production", idents)
        if now >= next_prune:
            next_prune += 30
            enqueue(runs, "prune", None, idents)
        if now >= next_sample:
            next_sample += 10
            samples.append({"at": round(now - began, 1)} | sample(process))
            print("  ".join(f"{key} {value:.1f}" for key, value in samples[-1].items()), file=sys.stderr, flush=True)
        time.sleep(max(0.0, options.every - (time.monotonic() - now)))
    states = runs.states()
    runs.close()
    third = len(samples) // 3
    parts = [samples[third : 2 * third], samples[2 * third :]]
    # The least of a third is what the process needs between two runs; a leak shows there, however busy the machine is.
    second, last = [{key: min(s[key] for s in part) for key in ("rss", "uss", "handles", "threads")} for part in parts]
    flat = (
        last["uss"] <= max(second["uss"] * 1.05, second["uss"] + 4)
        and last["handles"] <= second["handles"]
        and last["threads"] <= second["threads"]
    )
    done = [ident for ident in idents if states.get(ident) == "SUCCESS"]
    return {
        "flat": flat,
        "enqueued": len(idents),
        "done": len(done),
        "second third": second,
        "last third": last,
        "most": {key: max(s[key] for s in samples) for key in ("rss", "uss", "handles", "threads")},
        "samples": samples,
    }


def enqueue(runs: Runs, kind: str, environment: str | None, idents: list[str]) -> None:
    job = Job(kind, environment, dt.datetime.now(dt.UTC))
    group = f"environment/{environment}" if environment else kind
    runs.enqueue(job.ident, document(job), site=None, group=group)
    idents.append(job.ident)


if __name__ == "__main__":
    sys.exit(main())
