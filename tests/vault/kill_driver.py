"""Backs up and prunes a vault until it is killed; says on standard output what it has committed. Not a test.

Usage: kill_driver.py STORE KEY_FILE. For each line on standard input (a seed) it forks a process that works until it is
killed, since starting Python takes longer than what is to be interrupted; an empty line waits for all of them.
Lines on standard output: `<pid> ready`, `<pid> committed <id> <sha256>` (after the call has returned),
`<pid> removing <id>` (before the call), `<pid> ended <signal>`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import os
import random
import sys
import threading
from pathlib import Path

from keepwell.core.errors import Busy
from keepwell.core.progress import Silent
from keepwell.keys import slots
from keepwell.stores.local import LocalStore
from keepwell.vault.prune import prune, undo
from keepwell.vault.vault import Vault


def say(*words: object) -> None:
    os.write(1, f"{os.getpid()} {' '.join(map(str, words))}\n".encode())  # whole or not at all


def serve(folder: str, key: str) -> None:
    children = []
    for line in sys.stdin:
        if seed := line.strip():
            child = os.fork()
            if not child:
                work(folder, key, seed)
            children.append(child)
            continue
        for child in children:
            status = os.waitpid(child, 0)[1]
            os.write(1, f"{child} ended {os.waitstatus_to_exitcode(status)}\n".encode())
        children = []


def work(folder: str, key: str, seed: str) -> None:
    store = LocalStore(Path(folder))
    chance = random.Random(seed)
    vault = Vault.open(store, slots.read_key_file(Path(key)), cache=Path(key).parent / "cache")
    pool = [random.Random(f"pool {n}").randbytes(chance.randrange(1, 40_000)) for n in range(12)]
    say("ready")
    while True:
        action = chance.random()
        known = vault.backups()
        if action < 0.6 or len(known) < 3:
            parts = [chance.choice(pool) for _ in range(chance.randrange(1, 6))] + [
                chance.randbytes(chance.randrange(9000))
            ]
            with vault.begin(
                environment="production", tier="daily", now=dt.datetime.now(dt.UTC), pack_size=32 << 10
            ) as s:
                sink = s.sink("app")
                half = len(parts) // 2
                streams = [sink.stream(name) for name in "ab"]

                def fill(stream, blocks) -> None:
                    for block in blocks:
                        stream.write(block)
                        stream.boundary()
                    stream.close()

                threads = [
                    threading.Thread(target=fill, args=pair)
                    for pair in zip(streams, (parts[:half], parts[half:]), strict=True)
                ]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
                s.done("app", {})
                try:
                    backup = s.commit(database="app", host="driver", seconds=0)
                except Busy:
                    continue
            say("committed", backup.id, hashlib.sha256(b"".join(parts)).hexdigest())
        elif action < 0.95:
            gone = chance.sample(known, chance.randrange(min(4, len(known) - 1)))
            for backup in gone:
                say("removing", backup.id)
            with contextlib.suppress(Busy):
                prune(vault, gone, grace=chance.choice([dt.timedelta(0), dt.timedelta(hours=1)]), progress=Silent())
        else:
            say("undoing")
            undo(vault)


if __name__ == "__main__":
    serve(*sys.argv[1:])
