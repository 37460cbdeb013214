"""keepwell against its peers, in one run on one machine: prints the ratios and writes RESULTS.md.

    benchmarks/setup.sh                                        once
    .venv/bin/python benchmarks/run.py                         1 GB, three rounds: about half an hour on two cores
    .venv/bin/python benchmarks/run.py --size 100MB --runs 1   a trial; its results stay under .cache/bench
    .venv/bin/python benchmarks/run.py --big                   also the memory at ten times the data

In every round each work is done by all contenders one after the other, in an order that rotates, so that a busy
minute of the machine falls on all of them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import report
from contenders import PEERS, REPOSITORY, Contender, fresh_home
from keepwell.core.units import show_size, size
from keepwell.demo import sample
from keepwell_commands import CONTENDER, HELP, LIST, PREPARE_SMALL, many_backups, prepare
from measure import run, size_of
from server import Server, throwaway

CACHE = REPOSITORY / ".cache" / "bench"
BYTES_PER_ROW = 2540  # of pg_dump's text, for each lead with all that belongs to it
CASES = ("first", "recent", "random", "restore", "commands")
MEMORY_LIMIT = 300_000_000


def main() -> None:
    asked = arguments()
    prepare()
    everybody = [*PEERS, CONTENDER]
    names = asked.only or [c.name for c in (PEERS if asked.peers_only else everybody)]
    contenders = [contender for contender in everybody if contender.name in names]
    rows = asked.rows or -(-size(asked.size) // BYTES_PER_ROW)
    work = CACHE / "work"
    work.mkdir(parents=True, exist_ok=True)
    results = report.Results()
    with throwaway(Path(asked.data), asked.postgres) as server:
        for contender in contenders:
            results.facts[contender.name] = contender.version_here(fresh_home(contender, work), server.programs)
        results.facts["server"] = server.version
        prepare_databases(server, rows, asked.cases, results)
        for number in range(asked.runs):
            turn = number % len(contenders)
            one_round(server, [*contenders[turn:], *contenders[:turn]], asked.cases, work, results)
        if CONTENDER in contenders:
            memory(results)
            if asked.big:
                ten_times(server, rows * 10, work, results)
            if "commands" in asked.cases:
                commands(server, asked.backups, work, results)
        results.facts["load average at the end"] = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    shutil.rmtree(work)
    text = report.document(results, contenders, f"{asked.runs} runs of each. The server runs without fsync.")
    whole = not asked.only and not asked.peers_only and rows * BYTES_PER_ROW >= size("1 GB") and asked.cases == CASES
    out = asked.out or (REPOSITORY / "benchmarks" if whole else CACHE) / "RESULTS.md"
    out.write_text(text)
    print(text)
    say(f"written to {out}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1.05 GB", help="of the dump, about (default: %(default)s)")
    parser.add_argument("--rows", type=int, help="number of leads, instead of --size")
    parser.add_argument("--runs", type=int, default=3, help="rounds (default: %(default)s)")
    parser.add_argument("--postgres", type=int, default=15, help="major version of the server (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=[c.name for c in (*PEERS, CONTENDER)], help="these contenders")
    parser.add_argument("--peers-only", action="store_true", help="everybody but keepwell")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="these works (default: all)")
    parser.add_argument("--big", action="store_true", help="also keepwell's memory at ten times the data")
    parser.add_argument("--backups", type=int, default=1000, help="how many `list` must show (default: %(default)s)")
    parser.add_argument("--data", default="/tmp/keepwell-bench-postgres", help="folder for the server's data")
    parser.add_argument("--out", type=Path, help="where to write (default: RESULTS.md here; trials: .cache/bench)")
    return parser.parse_args()


def prepare_databases(server: Server, rows: int, cases: tuple[str, ...], results: report.Results) -> None:
    """`base`, and copies of it a day later, file by file, so that unchanged rows lie where they lay."""
    say(f"filling the sample with {rows:,} leads")
    server.create("base")
    counts = sample.fill_postgres(server.url("base"), rows)
    ways: tuple[sample.How, ...] = ("recent", "random")
    for how in ways:
        if how in cases:
            server.create(how, template="base")
            sample.change_postgres(server.url(how), 0.01, how)
    server.run("CHECKPOINT")
    stored = server.ask("base", "SELECT pg_database_size(current_database())")
    results.facts["sample"] = (
        f"{sum(counts.values()):,} rows in {len(counts)} tables, {show_size(int(str(stored)))} on disk"
    )


def one_round(
    server: Server, contenders: list[Contender], cases: tuple[str, ...], work: Path, results: report.Results
) -> None:
    for contender in contenders:
        home = fresh_home(contender, work)
        run(contender.prepare, environment(contender, home, server), home / "log")
    dump_size(server, work, results)
    for contender in contenders:
        backup(server, contender, "base", "first", work, results)
    for how in ("recent", "random"):
        if how not in cases:
            continue
        for contender in contenders:
            # Each second backup starts from the store, and the caches, as the first one left them.
            home = work / contender.name
            saved = home.with_suffix(".saved")
            shutil.copytree(home, saved, symlinks=True)
            backup(server, contender, how, how, work, results)
            shutil.rmtree(home)
            saved.rename(home)
    if "restore" in cases:
        for contender in contenders:
            if contender.restore:
                restore(server, contender, work, results)


def backup(server: Server, contender: Contender, database: str, name: str, work: Path, results: report.Results) -> None:
    home = work / contender.name
    before = size_of(home / "store")
    label = "first" if name == "first" else "second"
    with server.known_as(database, "leads"):
        measured = run(contender.backup, environment(contender, home, server, LABEL=label), home / "log")
    stored = size_of(home / "store") - before
    results.add(name, contender.name, measured, stored)
    say(
        f"{name}: {contender.name} {measured.seconds:.1f} s, {show_size(stored)}, {show_size(measured.peak)} at the peak"
    )


def restore(server: Server, contender: Contender, work: Path, results: report.Results) -> None:
    home = work / contender.name
    server.create("restored")
    server.run("CHECKPOINT")
    variables = environment(contender, home, server, TARGET_URL=server.url("restored"))
    measured = run(contender.restore, variables, home / "log")
    results.add("restore", contender.name, measured)
    say(f"restore: {contender.name} {measured.seconds:.1f} s")
    if sample.fingerprint_postgres(server.url("restored")) != sample.fingerprint_postgres(server.url("base")):
        raise SystemExit(f"{contender.name} restored something else than was backed up")
    server.run('DROP DATABASE "restored" WITH (FORCE)')


def dump_size(server: Server, work: Path, results: report.Results) -> None:
    if "dump" not in results.facts:
        counted = work / "dump-size"
        script = f'pg_dump "{server.url("base")}" | wc -c > "{counted}"'
        env = {"PATH": f"{server.programs}:{os.environ['PATH']}"}
        alone = run(script, env, work / "dump-log").seconds
        results.facts["dump"] = f"{show_size(int(counted.read_text()))} of text; pg_dump alone takes {alone:.1f} s"


def memory(results: report.Results) -> None:
    for work in results.times:
        peak = results.peak(work, CONTENDER.name)
        if peak:
            what = f"peak memory, {report.WORKS[work]}"
            results.singles.append((what, show_size(peak), "≤ 300 MB", peak <= MEMORY_LIMIT))


def ten_times(server: Server, rows: int, work: Path, results: report.Results) -> None:
    """keepwell alone: memory must not grow with the database."""
    say(f"filling ten times the sample: {rows:,} leads")
    server.create("big")
    sample.fill_postgres(server.url("big"), rows)
    home = fresh_home(CONTENDER, work)
    run(CONTENDER.prepare, environment(CONTENDER, home, server), home / "log")
    backup(server, CONTENDER, "big", "first logical backup of 10 x the data", work, results)
    name = "restore of 10 x the data"
    server.create("restored")
    variables = environment(CONTENDER, home, server, TARGET_URL=server.url("restored"))
    results.add(name, CONTENDER.name, run(CONTENDER.restore, variables, home / "log"))
    for case in ("first logical backup of 10 x the data", name):
        peak = results.peak(case, CONTENDER.name) or 0
        results.singles.append((f"peak memory, {case}", show_size(peak), "≤ 300 MB", peak <= MEMORY_LIMIT))
    for database in ("restored", "big"):
        server.run(f'DROP DATABASE "{database}" WITH (FORCE)')


def commands(server: Server, backups: int, work: Path, results: report.Results) -> None:
    home = fresh_home(CONTENDER, work)
    env = environment(CONTENDER, home, server)
    say(f"making {backups} small backups")
    run(PREPARE_SMALL, env, home / "log")
    run(many_backups(backups), env, home / "log")
    for what, script, limit in (
        (f"`keepwell list` on {backups:,} backups", LIST, 1.0),
        ("`keepwell --help`", HELP, 0.3),
    ):
        for _ in range(5):
            results.add(what, CONTENDER.name, run(script, env, home / "log"))
        seconds = results.seconds(what, CONTENDER.name) or 0.0
        results.singles.append((what, f"{seconds:.2f} s", f"≤ {limit:g} s", seconds <= limit))


def environment(contender: Contender, home: Path, server: Server, **more: str) -> dict[str, str]:
    return contender.environment(home, server.programs) | {"DATABASE_URL": server.url("leads")} | more


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
