"""Backs up and prunes a vault until it is killed; says on standard output what it has committed. Not a test.

Usage: kill_driver.py STORE KEY_FILE SEED. A line is written only after the call has returned:
`committed <id> <sha256>`, `removing <id>` (before), `removed <id>` (after).
"""

from __future__ import annotations

import datetime as dt
import hashlib
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
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main(folder: str, key: str, seed: str) -> None:
    store = LocalStore(Path(folder))
    chance = random.Random(seed)
    vault = Vault.open(store, slots.read_key_file(Path(key)), cache=Path(key).parent / "cache")
    pool = [random.Random(f"pool {n}").randbytes(chance.randrange(1, 40_000)) for n in range(12)]
    say("ready")
    while True:
        action = chance.random()
        known = vault.backups()
        if action < 0.65 or len(known) < 3:
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
            gone = chance.sample(known, chance.randrange(min(3, len(known) - 1)))
            for backup in gone:
                say("removing", backup.id)
            prune(vault, gone, grace=chance.choice([dt.timedelta(0), dt.timedelta(hours=1)]), progress=Silent())
        else:
            say("undoing")
            undo(vault)


if __name__ == "__main__":
    main(*sys.argv[1:])
