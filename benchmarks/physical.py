"""Physical backups against pgBackRest, pg_basebackup and Barman, in one run on one machine: writes PHYSICAL.md.

    benchmarks/setup.sh                                          once
    .venv/bin/python benchmarks/physical.py                      3 GB, on PostgreSQL 15 and 18
    .venv/bin/python benchmarks/physical.py --rows 20000 --scale 5 --cycles 3     a trial

The cluster holds the sample database and pgbench's tables. Between backups 1 % of the sample's rows change at random. The wheel's
pg_basebackup cannot compress with Zstandard, so on 18 its tar goes through `zstd -3 --single-thread`, which is what `client-zstd:3`
has (on 15 it is that), and, as a peer of its own, through `zstd -3 -T2`.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg

import report
import s3
from contenders import REPOSITORY
from keepwell.core.units import show_size
from keepwell.demo import sample
from keepwell_commands import KEEPWELL, prepare
from measure import Measured, run, size_of
from server import Server, throwaway

CACHE = REPOSITORY / ".cache" / "bench"
BARMAN = CACHE / "barman" / "bin"
SETTINGS = {
    "wal_level": "replica",
    "max_wal_senders": "10",
    "full_page_writes": "on",
    "archive_mode": "on",
    "archive_command": "/bin/true",
    "wal_keep_size": "1GB",
}
MEMORY_LIMIT = 300_000_000
TWO_THREADS = "pg_basebackup, two threads of zstd"
SAMPLE, BALLAST = "leads", "pgbench"

POLICY = """\
version = 1
project = "Benchmark"
[vault]
store = "{store}"
key = {{ file = "vault.key" }}
{compression}
[environments.production]
[environments.production.sources.app]
type = "postgres"
method = "physical"
url = {{ env = "DATABASE_URL" }}
{source}
"""

PGBACKREST = """\
[global]
{repo}
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=benchmark
compress-type=zst
compress-level=3
process-max=2
start-fast=y
archive-check=n
archive-copy=n
lock-path={home}/lock
log-path={home}/log
spool-path={home}/spool
log-level-console=warn
[main]
pg1-path={data}
pg1-port={port}
pg1-socket-path={socket}
pg1-user=postgres
"""

BARMAN_CONF = """\
[barman]
barman_home = {home}/barman
barman_user = root
log_file = {home}/barman.log
log_level = WARNING
[main]
description = benchmark
conninfo = host=127.0.0.1 port={port} user=postgres dbname=postgres
streaming_conninfo = host=127.0.0.1 port={port} user=postgres
backup_method = postgres
streaming_archiver = on
slot_name = barman
create_slot = auto
path_prefix = {programs}
backup_compression = {compression}
backup_compression_format = tar
"""


class Bench:
    """One server, and a folder for everyone's stores."""

    def __init__(self, server: Server, work: Path, results: report.Results, tag: str) -> None:
        self.server, self.work, self.results, self.tag = server, work, results, tag
        self._homes = itertools.count()
        self.env = {
            **os.environ,
            "PATH": f"{server.programs}:{BARMAN}:{os.environ['PATH']}",
            "DATABASE_URL": server.url("postgres"),
            "XDG_CACHE_HOME": str(work / "cache"),
            "LANG": "C.UTF-8",
        }

    def home(self, name: str) -> Path:
        """A new folder. It stays until this server is done: for a while after deletions ext4 makes new files slowly."""
        home = self.work / f"{name}-{self.tag}-{next(self._homes)}".replace(" ", "-")
        home.mkdir(parents=True)
        return home

    def rounds(self, count: int) -> Iterator[int]:
        """Before each, the sample is as dense as it was when it was filled, so that each is the same measurement: else rows that a
        round changed lie scattered in the next, and are pruned there. And the cluster is brought into the page cache: whoever is
        first does not read from the disk for all.
        """
        for number in range(count):
            with psycopg.connect(self.server.url(SAMPLE), autocommit=True) as connection:
                connection.execute("VACUUM (FULL, FREEZE, ANALYZE)")
            self.server.run("CHECKPOINT")
            subprocess.run(f"find '{self.server.data}' -type f -exec cat {{}} + > /dev/null", shell=True, check=True)
            yield number

    def do(self, what: str, who: str, script: str, store: Path | Callable[[], int] | None = None) -> Measured:
        def size() -> int:
            return size_of(store) if isinstance(store, Path) else store() if store else 0

        before = size()
        self.server.run("CHECKPOINT")
        measured = run(script, self.env, self.work / "log")
        stored = size() - before if store else None
        self.results.add(f"{what} ({self.tag})", who, measured, stored)
        say(
            f"{self.tag} {what}: {who} {measured.seconds:.1f} s, {show_size(stored or 0)}, {show_size(measured.peak)} at the peak"
        )
        return measured


class Keepwell:
    def __init__(
        self,
        bench: Bench,
        name: str = "keepwell",
        compression: str = "",
        source: str = "",
        store: tuple[str, Callable[[], int]] | None = None,
    ) -> None:
        self.bench, self.name = bench, name
        self.home = bench.home(name)
        self.store: Path | Callable[[], int] = store[1] if store else self.home / "store"
        address = store[0] if store else f"file://{self.store}"
        policy = POLICY.format(store=address, compression=compression, source=source)
        (self.home / "keepwell.toml").write_text(policy)
        self.command = f'"{KEEPWELL}" --policy "{self.home}/keepwell.toml"'
        run(f"{self.command} init --yes", bench.env, bench.work / "log")

    def backup(self, what: str) -> None:
        self.bench.do(what, self.name, f"{self.command} backup production --json", self.store)

    def restore(self, what: str) -> None:
        target = self.home / "restored"
        self.bench.do(
            what, self.name, f"{self.command} restore production@latest --source app --immediate --to {target}"
        )


def main() -> None:
    asked = arguments()
    prepare()
    results = report.Results()
    work = CACHE / "physical"
    for major in asked.postgres:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        settings = SETTINGS | ({"summarize_wal": "on"} if major >= 17 else {})
        with throwaway(Path(asked.data), major, settings) as server:
            results.facts[f"server {major}"] = server.version
            fill(server, asked, results, major)
            bench = Bench(server, work, results, f"PostgreSQL {major}")
            if major < 17:
                for number in bench.rounds(asked.rounds):
                    old(bench, number)
                for number in bench.rounds(asked.rounds):
                    in_bucket(bench, number)
            else:
                new(bench, asked)
    results.facts["pgBackRest"] = said("pgbackrest", "version")
    results.facts["Barman"] = said(str(BARMAN / "barman"), "--version")
    results.facts["load average at the end"] = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    text = document(results, asked.rounds)
    asked.out.write_text(text)
    print(text)
    say(f"written to {asked.out}")
    shutil.rmtree(work)


def pgbackrest(bench: Bench, home: Path, repo: str) -> str:
    """The command for a new repository; its configuration and log are in `home`."""
    server = bench.server
    conf = PGBACKREST.format(repo=repo, home=home, data=server.data, port=server.port, socket=server.data.parent)
    (home / "conf").write_text(conf)
    (home / "log").mkdir()
    command = f"pgbackrest --config={home}/conf --stanza=main"
    run(f"{command} stanza-create", bench.env, bench.work / "log")
    return command


def old(bench: Bench, number: int) -> None:
    """15: pgBackRest from Debian, and pg_basebackup with its own Zstandard."""
    home = bench.home("pgbackrest")
    rest = pgbackrest(bench, home, f"repo1-path={home}/repo")
    repo = home / "repo"
    bench.do("full backup", "pgBackRest", f"{rest} backup --type=full", repo)
    ours = Keepwell(bench)
    ours.backup("full backup")
    same = Keepwell(bench, "keepwell at zstd's own level 3", "compression = 3")
    same.backup("full backup")
    over = Keepwell(bench, "keepwell over the connection", source='read_from = "server"')
    over.backup("full backup")
    plain = bench.home("pg_basebackup")
    url = bench.env["DATABASE_URL"]
    script = f'pg_basebackup -d "{url}" -c fast -Ft -X fetch -Z client-zstd:3 -D {plain}/full'
    bench.do("full backup", "pg_basebackup", script, plain)
    change(bench, number)
    bench.do("backup after 1 % changed", "pgBackRest", f"{rest} backup --type=incr", repo)
    ours.backup("backup after 1 % changed")
    ours.backup("backup when nothing changed")
    target = home / "restored"
    target.mkdir()
    bench.do(
        "restore of a full",
        "pgBackRest",
        f"{rest} --pg1-path={target} --set={first_set(rest, bench)} restore --type=none",
    )
    ours.restore("restore of the latest")


REPO_IN_BUCKET = """\
repo1-type=s3
repo1-path=/pgbackrest
repo1-s3-bucket={name}
repo1-s3-endpoint=localhost
repo1-s3-region=us-east-1
repo1-s3-key={key}
repo1-s3-key-secret={secret}
repo1-s3-uri-style=path
repo1-bundle=y
repo1-storage-port={port}
repo1-storage-ca-file={certificate}"""


def in_bucket(bench: Bench, number: int) -> None:
    """15: the same full backup into a bucket, and after a change."""
    home = bench.home("pgbackrest")
    with s3.bucket(home) as bucket:
        bench.env |= bucket.env
        repo = REPO_IN_BUCKET.format(
            name=s3.NAME, key=s3.KEY, secret=s3.SECRET, port=bucket.port, certificate=bucket.certificate
        )
        rest = pgbackrest(bench, home, repo)
        bench.do("full backup into a bucket", "pgBackRest", f"{rest} backup --type=full", bucket.size)
        options = f'options = {{ endpoint = "{bucket.endpoint}", region = "us-east-1" }}'
        ours = Keepwell(bench, compression=options, store=(f"s3://{s3.NAME}/keepwell", bucket.size))
        ours.backup("full backup into a bucket")
        change(bench, 100 + number)
        bench.do("backup into a bucket after 1 % changed", "pgBackRest", f"{rest} backup --type=incr", bucket.size)
        ours.backup("backup into a bucket after 1 % changed")


def new(bench: Bench, asked: argparse.Namespace) -> None:
    """18: incremental backups, pg_basebackup's and Barman's against ours, and a restore after many of them."""
    barman = Barman(bench)
    for number in bench.rounds(asked.rounds):
        ours = incremental(bench, barman, number)
    for day in range(asked.cycles):
        change(bench, day + 100)
        run(f"{ours.command} backup production --json", bench.env, bench.work / "log")
    bench.results.facts[f"store after {asked.cycles} more backups"] = show_size(size_of(ours.store))
    ours.restore(f"restore of the latest after {asked.cycles} backups")


def incremental(bench: Bench, barman: Barman, number: int) -> Keepwell:
    """One round of it."""
    url = bench.env["DATABASE_URL"]
    ours = Keepwell(bench)
    plain = bench.home("pg_basebackup")

    def basebackup(name: str, threads: str, more: str = "") -> str:
        """Its manifest goes into the tar. Made durable at the end, as pg_basebackup does where it writes files itself."""
        file = f"{plain}/{name}.tar.zst"
        return (
            f'pg_basebackup -d "{url}" -c fast -Ft -X fetch {more} -D - | zstd -q -3 {threads} > {file} && sync {file}'
        )

    bench.do("full backup", "pg_basebackup", basebackup("full", "--single-thread"), plain)
    bench.do("full backup", TWO_THREADS, basebackup("full-t2", "-T2"), plain)
    ours.backup("full backup")
    barman.backup("full backup", "full")
    # For its own incremental backups pg_basebackup needs a full one with its manifest on disk.
    run(f'pg_basebackup -d "{url}" -c fast -Ft -X none -D {plain}/base', bench.env, bench.work / "log")
    change(bench, number)
    more = f"--incremental={plain}/base/backup_manifest"
    bench.do("backup after 1 % changed", "pg_basebackup", basebackup("changed", "--single-thread", more), plain)
    bench.do("backup after 1 % changed", TWO_THREADS, basebackup("changed-t2", "-T2", more), plain)
    ours.backup("backup after 1 % changed")
    barman.backup("backup after 1 % changed", "last")
    ours.backup("backup when nothing changed")
    return ours


class Barman:
    def __init__(self, bench: Bench) -> None:
        self.bench, self.home = bench, bench.home("barman")
        conf = self.home / "conf"
        conf.write_text(
            BARMAN_CONF.format(
                home=self.home, port=bench.server.port, programs=bench.server.programs, compression="none"
            )
            .replace("backup_compression = none\n", "")
            .replace("backup_compression_format = tar\n", "")
        )
        self.command = f"barman -c {conf}"
        (self.home / "barman").mkdir()
        run(
            f"{self.command} receive-wal --create-slot main; ({self.command} receive-wal main >/dev/null 2>&1 &) ; "
            f"for i in 1 2 3 4 5; do {self.command} switch-wal --force main || true; {self.command} cron || true; sleep 1; done",
            bench.env,
            bench.work / "log",
        )

    def backup(self, what: str, incremental: str) -> None:
        more = "" if incremental == "full" else "--incremental last"
        self.bench.do(what, "Barman", f"{self.command} backup main {more}", self.home / "barman" / "main" / "base")


def first_set(rest: str, bench: Bench) -> str:
    import json

    answer = subprocess.run([*rest.split(), "info", "--output=json"], check=True, capture_output=True, env=bench.env)
    return str(json.loads(answer.stdout)[0]["backup"][0]["label"])


def fill(server: Server, asked: argparse.Namespace, results: report.Results, major: int) -> None:
    say(f"filling PostgreSQL {major}: {asked.rows:,} leads, pgbench scale {asked.scale}")
    server.create(SAMPLE)
    sample.fill_postgres(server.url(SAMPLE), asked.rows)
    server.create(BALLAST)
    command = [server.programs / "pgbench", "-i", "-q", "-s", str(asked.scale), "-d", server.url(BALLAST)]
    subprocess.run(command, check=True, capture_output=True)
    for name in (SAMPLE, BALLAST):
        with psycopg.connect(server.url(name), autocommit=True) as connection:
            connection.execute("VACUUM (FREEZE, ANALYZE)")
    server.run("CHECKPOINT")
    size = int(str(server.ask("postgres", "SELECT sum(pg_database_size(oid)) FROM pg_database")))
    results.facts[f"cluster {major}"] = show_size(size)


def change(bench: Bench, seed: int) -> None:
    sample.change_postgres(bench.server.url(SAMPLE), 0.01, "random", seed)
    bench.server.run("CHECKPOINT")


# work, ours, their name, work of theirs, what, goal
Goal = tuple[str, str, str, str, str, float]
P15, P18 = " (PostgreSQL 15)", " (PostgreSQL 18)"
BUCKET, BUCKET_CHANGED = "full backup into a bucket" + P15, "backup into a bucket after 1 % changed" + P15
GOALS: tuple[Goal, ...] = (
    ("full backup" + P15, "keepwell at zstd's own level 3", "pgBackRest", "full backup" + P15, "time", 1.0),
    ("full backup" + P15, "keepwell", "pgBackRest", "full backup" + P15, "faster", 1.2),
    ("full backup" + P15, "keepwell", "pgBackRest", "full backup" + P15, "stored", 1.1),
    ("full backup" + P15, "keepwell", "pg_basebackup", "full backup" + P15, "faster", 1.5),
    ("full backup" + P18, "keepwell", "pg_basebackup", "full backup" + P18, "faster", 1.5),
    ("full backup" + P18, "keepwell", "Barman", "full backup" + P18, "faster", 1.5),
    (
        "backup after 1 % changed" + P18,
        "keepwell",
        "pg_basebackup",
        "backup after 1 % changed" + P18,
        "faster",
        1.5,
    ),
    ("backup after 1 % changed" + P18, "keepwell", "Barman", "backup after 1 % changed" + P18, "faster", 1.5),
    ("backup after 1 % changed" + P18, "keepwell", "keepwell", "full backup" + P18, "stored", 0.2),
    ("backup after 1 % changed" + P15, "keepwell", "pgBackRest", "backup after 1 % changed" + P15, "faster", 2.0),
    (BUCKET, "keepwell", "pgBackRest", BUCKET, "faster", 1.2),
    (BUCKET, "keepwell", "pgBackRest", BUCKET, "stored", 1.1),
    (BUCKET_CHANGED, "keepwell", "pgBackRest", BUCKET_CHANGED, "faster", 2.0),
)


def goals(results: report.Results) -> list[tuple[str, str, str, str, str]]:
    rows = []
    for work, us, peer, their_work, what, reach in GOALS:
        read: Callable[[str, str], float | None] = results.bytes if what == "stored" else results.seconds
        ours, theirs = read(work, us), read(their_work, peer)
        if ours is None or theirs is None:
            continue
        if what == "faster":
            ratio, met, asked = theirs / ours, theirs / ours >= reach, f"≥ {reach:g} x faster"
        else:
            ratio, met = ours / theirs, ours / theirs <= reach
            asked = f"≤ {reach:g} x its {'stored bytes' if what == 'stored' else 'time'}"
        against = peer if their_work == work else f"its own {their_work}"
        rows.append((f"{work}, {us}", against, asked, f"{ratio:.2f} x", "reached" if met else "**missed**"))
    latest = [work for work in results.times if work.startswith("restore of the latest after")]
    theirs = results.seconds("restore of a full" + P15, "pgBackRest")
    for work in [*latest, "restore of the latest" + P15]:
        ours = results.seconds(work, "keepwell")
        if ours and theirs:
            ratio = ours / theirs
            verdict = "reached" if ratio <= 0.8 else "**missed**"
            rows.append((work, "pgBackRest, restore of a full", "≤ 0.8 x its time", f"{ratio:.2f} x", verdict))
    for work, names in results.times.items():
        for name in names:
            if name.startswith("keepwell"):
                peak = results.peak(work, name) or 0
                verdict = "reached" if peak <= MEMORY_LIMIT else "**missed**"
                rows.append((f"peak memory, {work}", name, "≤ 300 MB", show_size(peak), verdict))
    return rows


def document(results: report.Results, rounds: int) -> str:
    lines = ["# Results: physical backups", "", "Made by `benchmarks/physical.py`; do not edit.", ""]
    lines += [f"- {name}: {value}" for name, value in (report.machine() | results.facts).items()]
    lines += [
        "",
        f"The servers run without fsync. Of {rounds} rounds, but for the last restore; ratios are of medians.",
        "",
        "## Ratios",
        "",
    ]
    lines += [*report.table(("work", "against", "to reach", "measured", ""), goals(results)), "", "## All", ""]
    rows = []
    for work, names in results.times.items():
        for name, runs in names.items():
            stored = results.bytes(work, name)
            rows.append(
                (
                    work,
                    name,
                    ", ".join(f"{one.seconds:.1f} s" for one in runs),
                    show_size(stored) if stored is not None else "",
                    show_size(results.peak(work, name) or 0),
                )
            )
    return "\n".join([*lines, *report.table(("work", "by", "time", "stored", "peak memory"), rows)]) + "\n"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--postgres", type=int, nargs="+", default=[15, 18], help="major versions (default: 15 18)")
    parser.add_argument("--rows", type=int, default=413_386, help="leads of the sample (default: %(default)s)")
    parser.add_argument("--scale", type=int, default=110, help="of pgbench (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all but the last restore (default: %(default)s)")
    parser.add_argument("--cycles", type=int, default=30, help="backups before the restore (default: %(default)s)")
    parser.add_argument("--data", default="/tmp/keepwell-bench-physical", help="folder for the server's data")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "benchmarks" / "PHYSICAL.md")
    return parser.parse_args()


def said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip().split("\n")[0]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
