"""The table of ratios, on the screen and as `RESULTS.md`."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from contenders import Contender
from keepwell.core.clock import SystemClock, iso
from keepwell.core.units import show_size
from measure import Measured

WORKS = {
    "first": "first logical backup",
    "recent": "second, 1 % appended and changed in one recent range",
    "random": "second, 1 % of rows changed at random",
    "restore": "restore into an empty database",
}


@dataclass
class Results:
    """All runs: `times[work][contender]` and `stored[work][contender]` are lists in the order of the rounds."""

    times: dict[str, dict[str, list[Measured]]] = field(default_factory=dict)
    stored: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    singles: list[tuple[str, str, str, bool]] = field(default_factory=list)
    """Measures that are no ratio: what, measured, to reach, reached."""

    def add(self, work: str, name: str, measured: Measured, stored: int | None = None) -> None:
        self.times.setdefault(work, {}).setdefault(name, []).append(measured)
        if stored is not None:
            self.stored.setdefault(work, {}).setdefault(name, []).append(stored)

    def seconds(self, work: str, name: str) -> float | None:
        runs = self.times.get(work, {}).get(name)
        return median(run.seconds for run in runs) if runs else None

    def bytes(self, work: str, name: str) -> float | None:
        runs = self.stored.get(work, {}).get(name)
        return median(runs) if runs else None

    def peak(self, work: str, name: str) -> int | None:
        runs = self.times.get(work, {}).get(name)
        return max(run.peak for run in runs) if runs else None


# work, against, what, at least (keepwell is so many times faster) or at most (keepwell takes so much of it)
GOALS = (
    ("first", "gzip", "faster", 3.0),
    ("first", "restic", "faster", 2.0),
    ("first", "borg", "faster", 2.0),
    ("first", "restic", "stored", 1.05),
    ("first", "borg", "stored", 1.05),
    ("first", "zstd+openssl", "time", 1.1),
    ("recent", "restic", "faster", 3.0),
    ("recent", "borg", "faster", 3.0),
    ("recent", "restic", "stored", 0.25),
    ("recent", "borg", "stored", 0.25),
    ("random", "restic", "stored", 0.5),
    ("random", "borg", "stored", 0.5),
    ("restore", "gzip", "faster", 1.25),
)


def goals(results: Results) -> list[tuple[str, str, str, str, str]]:
    """Rows of the table: work, against, reach, measured, verdict. Only what was measured on both sides."""
    rows = []
    for work, peer, what, reach in GOALS:
        read = results.bytes if what == "stored" else results.seconds
        theirs, ours = read(work, peer), read(work, "keepwell")
        if theirs is None or ours is None:
            continue
        if what == "faster":
            ratio, asked, met = theirs / ours, f"≥ {reach:g} x faster", theirs / ours >= reach
        else:
            ratio, met = ours / theirs, ours / theirs <= reach
            asked = f"≤ {reach:g} x its {'stored bytes' if what == 'stored' else 'time'}"
        rows.append((WORKS[work], peer, asked, f"{ratio:.2f} x", "reached" if met else "**missed**"))
    return rows


def document(results: Results, contenders: list[Contender], limits: str) -> str:
    """RESULTS.md as text."""
    lines = ["# Results", "", "Made by `benchmarks/run.py`; do not edit. Ratios are of medians.", ""]
    lines += [f"- {name}: {value}" for name, value in (machine() | results.facts).items()]
    lines += ["", limits, ""]
    ratios = goals(results)
    if ratios:
        lines += ["## Ratios", "", *table(("work", "against", "to reach", "measured", ""), ratios), ""]
    if results.singles:
        singles = [(what, asked, got, "reached" if met else "**missed**") for what, got, asked, met in results.singles]
        lines += ["## Limits", "", *table(("what", "to reach", "measured", ""), singles), ""]
    lines += ["## Medians", ""]
    rows = []
    for work, names in results.times.items():
        for contender in contenders:
            if contender.name in names:
                stored = results.bytes(work, contender.name)
                rows.append(
                    (
                        WORKS.get(work, work),
                        contender.restore_shown if work == "restore" else contender.shown,
                        f"{results.seconds(work, contender.name):.2f} s",
                        show_size(stored) if stored is not None else "",
                        show_size(results.peak(work, contender.name) or 0),
                    )
                )
    lines += [*table(("work", "by", "time", "stored", "peak memory"), rows), "", "## All runs", ""]
    rows = []
    for work, names in results.times.items():
        for name, runs in names.items():
            stored_runs = results.stored.get(work, {}).get(name, [])
            rows.append(
                (
                    WORKS.get(work, work),
                    name,
                    ", ".join(f"{run.seconds:.2f}" for run in runs),
                    ", ".join(f"{count:,}" for count in stored_runs),
                    ", ".join(f"{run.peak / 1e6:.0f}" for run in runs),
                )
            )
    lines += table(("work", "by", "seconds", "bytes stored", "peak MB"), rows)
    return "\n".join(lines) + "\n"


def machine() -> dict[str, str]:
    cpu = next(
        (line.split(":")[1].strip() for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name")),
        platform.processor(),
    )
    memory = next((line.split()[1] for line in _text("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "0")
    return {
        "date": iso(SystemClock().now()),
        "machine": f"{cpu}, {os.cpu_count()} cores, {show_size(int(memory) * 1024)} of memory",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    def line(cells: tuple[str, ...]) -> str:
        # `|` in a shell pipeline would end the cell.
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]
