"""`keepwell wal push` against pgBackRest's `archive-push`: the same finished segments, handed over one by one.

    apt-get install pgbackrest
    .venv/bin/python benchmarks/wal_push.py                       100 segments of 16 MB, three rounds
    .venv/bin/python benchmarks/wal_push.py --segments 20 --rounds 1

A server with pgbench writes the log and is stopped. Then each contender is called as the server would call it: through a shell, in the data
directory, in the order of the log, with `archive_status` as it would be. pgBackRest: zst level 3, aes-256-cbc, process-max 2, async off and on.
Both are encrypted and both make what they store durable. Prints a table, and the ratio to reach (≤ 1.0).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import report
from contenders import REPOSITORY
from keepwell.core.units import show_size
from keepwell_commands import KEEPWELL, prepare
from measure import Measured, run, size_of
from server import Server, throwaway

CACHE = REPOSITORY / ".cache" / "bench"
SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "2",
    "full_page_writes": "on",
    "archive_mode": "on",
    "archive_command": "/bin/false",
    "max_wal_size": "4GB",
}

POLICY = """\
version = 1
project = "Benchmark"
[vault]
store = "file://{home}/store"
key = {{ file = "{home}/vault.key" }}
[environments.production]
[environments.production.sources.app]
type = "postgres"
method = "physical"
url = {{ env = "DATABASE_URL" }}
"""

PGBACKREST = """\
[global]
repo1-path={home}/store
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=benchmark
compress-type=zst
compress-level=3
process-max=2
archive-async={asynchronous}
lock-path={home}/lock
log-path={home}/log
spool-path={home}/spool
log-level-console=warn
[main]
pg1-path={data}
"""

LOOP = """\
cd {data}
ls pg_wal/archive_status | grep -E '^[0-9A-F]{{24}}\\.ready$' | sort | while read ready; do
  name=${{ready%.ready}}
  path=pg_wal/$name
  sh -c "{command}"
  mv pg_wal/archive_status/$ready pg_wal/archive_status/$name.done
done
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--postgres", type=int, default=15)
    wanted = parser.parse_args()
    if not shutil.which("pgbackrest"):
        raise SystemExit("pgbackrest is missing: apt-get install pgbackrest")
    prepare()
    work = CACHE / "wal-push"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    with segments(work, wanted.postgres, wanted.segments) as data:
        results = {
            name: [measure(name, data, work / f"{name}-{number}") for number in range(wanted.rounds)]
            for name in ("pgbackrest", "pgbackrest-async", "keepwell")
        }
    shutil.rmtree(work)
    show(results, wanted.segments)


@contextmanager
def segments(work: Path, major: int, count: int) -> Iterator[Path]:
    """A data directory, not running, with so many segments that wait to be archived."""
    data = work / "data"
    with throwaway(work / "server", major, SETTINGS) as server:
        write(server, count)
        # Copied before the server stops, as the benchmark's server is removed with its data: what is finished does not change.
        shutil.copytree(server.data / "pg_wal", data / "pg_wal")
        shutil.copytree(server.data / "global", data / "global")
        shutil.copy(server.data / "PG_VERSION", data / "PG_VERSION")
        shutil.copy(server.data / "postgresql.conf", data / "postgresql.conf")
    ready = sorted((data / "pg_wal" / "archive_status").glob("*.ready"))
    for more in ready[count:]:
        more.unlink()
    for left in (data / "pg_wal" / "archive_status").glob("*"):
        if left.suffix != ".ready" or len(left.stem) != 24:
            left.unlink()
    yield data


def write(server: Server, count: int) -> None:
    environment = {**os.environ, "LANG": "C.UTF-8"}
    common: list[str | Path] = [
        server.programs / "pgbench",
        "-h",
        "127.0.0.1",
        "-p",
        str(server.port),
        "-U",
        "postgres",
        "postgres",
    ]
    subprocess.run([*common, "-i", "-q", "-s", "20"], check=True, capture_output=True, env=environment)
    ready = server.data / "pg_wal" / "archive_status"
    while len(list(ready.glob("*.ready"))) < count:
        subprocess.run([*common, "-c", "4", "-T", "5"], check=True, capture_output=True, env=environment)
        server.run("CHECKPOINT")


def measure(name: str, data: Path, home: Path) -> tuple[Measured, int]:
    home.mkdir(parents=True)
    for done in (data / "pg_wal" / "archive_status").glob("*.done"):
        done.rename(done.with_suffix(".ready"))
    environment = {
        **os.environ,
        "LANG": "C.UTF-8",
        "XDG_CACHE_HOME": str(home / "cache"),
        "DATABASE_URL": "postgresql:///x",
    }
    if name == "keepwell":
        (home / "keepwell.toml").write_text(POLICY.format(home=home))
        prepare = f"{KEEPWELL} init --yes --policy {home}/keepwell.toml"
        command = f"{KEEPWELL} wal push $path --source app --policy {home}/keepwell.toml"
    else:
        asynchronous = "y" if name.endswith("async") else "n"
        (home / "conf").write_text(PGBACKREST.format(home=home, data=data, asynchronous=asynchronous))
        prepare = f"pgbackrest --config={home}/conf --stanza=main --no-online stanza-create"
        command = f"pgbackrest --config={home}/conf --stanza=main archive-push $path"
    run(prepare, environment, home / "log.txt")
    before = size_of(home / "store")
    measured = run(LOOP.format(data=data, command=command), environment, home / "log.txt")
    stored = size_of(home / "store") - before
    left = list((data / "pg_wal" / "archive_status").glob("*.ready"))
    if left:
        raise SystemExit(f"{name} left {len(left)} segments behind")
    shutil.rmtree(home)
    return measured, stored


def show(results: dict[str, list[tuple[Measured, int]]], count: int) -> None:
    rows = []
    times = {name: median(measured.seconds for measured, _ in runs) for name, runs in results.items()}
    for name, runs in results.items():
        rows.append(
            (
                name,
                f"{times[name]:.2f} s",
                f"{times[name] / count * 1000:.0f} ms",
                show_size(median(stored for _, stored in runs)),
                show_size(max(measured.peak for measured, _ in runs)),
                ", ".join(f"{measured.seconds:.2f}" for measured, _ in runs),
            )
        )
    lines = [f"- {name}: {value}" for name, value in report.machine().items()]
    lines += ["", *report.table((f"{count} segments", "time", "each", "stored", "peak memory", "runs"), rows), ""]
    for peer in ("pgbackrest", "pgbackrest-async"):
        ratio = times["keepwell"] / times[peer]
        lines.append(f"keepwell takes {ratio:.2f} x the time of {peer} (to reach: 1.0 x)")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
