"""A receiver in a process of its own, to be killed: `wal_driver.py FOLDER URL`. A line before and after each put."""

import sys
from pathlib import Path

from keepwell.core.secrets import Secret
from operations.walbench import Bench


def main():
    folder, url = Path(sys.argv[1]), Secret(sys.argv[2])
    bench = Bench(folder)
    store = bench.store.inner
    for name in ("put", "flush"):
        call = getattr(store, name)

        def told(*args, call=call):
            sys.stdout.write("before\n")
            sys.stdout.flush()
            call(*args)
            sys.stdout.write("after\n")
            sys.stdout.flush()

        setattr(store, name, told)
    bench.receiver(url, every=0.05).run()


main()
