"""Whether the audit log is what was written: nothing altered, dropped, reordered, or cut off at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from keepwell.core.errors import Damaged
from keepwell.core.streams import Finding
from keepwell.vault import audit
from keepwell.vault.audit import Checkpoint, Entry, Head
from keepwell.vault.vault import Vault


@dataclass(frozen=True)
class Anchor:
    """An entry that somebody out of the log's reach has seen."""

    head: Head
    seen_by: str
    """For people: `this machine`, the id of a backup, …"""


@dataclass
class Verdict:
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    first: int = 1
    """Where the log begins."""
    head: Head = audit.NOTHING
    entries: int = 0
    anchors: int = 0
    """How many could be compared."""

    @property
    def passed(self) -> bool:
        return not self.findings


def verify(vault: Vault, anchors: Iterable[Anchor]) -> Verdict:
    """Reads every entry. Never raises for damage; StoreError where the store cannot be read."""
    known = sorted(anchors, key=lambda a: a.head.number)
    try:
        return _Verifier(vault, known).run()
    except _WentAway:  # a prune removes the front meanwhile; once it is gone it is gone
        return _Verifier(vault, known, last=True).run()


class _WentAway(Exception):
    pass


class _Verifier:
    def __init__(self, vault: Vault, anchors: list[Anchor], *, last: bool = False) -> None:
        self.vault, self.anchors, self.last = vault, anchors, last
        self.verdict = Verdict()

    def run(self) -> Verdict:
        verdict = self.verdict
        there, checkpoints, strange = audit.objects(self.vault.store)
        verdict.notes += [f"{name} is no entry of the audit log" for name in strange]
        start = self._start([info.name for info in checkpoints])
        verdict.first = start.first
        numbers = sorted(number for number in there if number >= start.first)
        if leftovers := len(there) - len(numbers):
            verdict.notes.append(f"{leftovers} entries before {start.first} are left; the next prune deletes them")
        last = numbers[-1] if numbers else start.first - 1
        self._missing(start.first, numbers)
        hashes = self._read(numbers, start)
        verdict.entries = len(hashes)
        if numbers and last in hashes:
            verdict.head = Head(last, hashes[last])
        self._compare(start, last, hashes)
        return verdict

    def find(self, what: str, problem: str) -> None:
        self.verdict.findings.append(Finding(what, problem))

    def _start(self, names: list[str]) -> Checkpoint:
        """By the newest checkpoint that opens; one that does not is a finding."""
        for name in reversed(names):
            try:
                return audit.decode_checkpoint(self.vault.keyring, name, self.vault.store.get(name))
            except Damaged as error:
                self.find(name, f"cannot be believed: {error.message}")
        return Checkpoint(1, "")

    def _missing(self, first: int, numbers: list[int]) -> None:
        for begin, end in gaps(first, numbers):
            self.find(audit.name_of(begin), f"{words(begin, end)} missing")

    def _read(self, numbers: list[int], start: Checkpoint) -> dict[int, str]:
        """SHA-256 of every entry that is there, by number."""
        hashes: dict[int, str] = {start.first - 1: start.previous}
        for name, raw in audit.fetched(self.vault.store, map(audit.name_of, numbers)):
            number = audit.number_of(name) or 0
            if raw is None:
                if not self.last:
                    raise _WentAway
                self.find(name, f"entry {number} went away while the log was read")
                continue
            hashes[number] = audit.sha256_of(raw)
            try:
                entry = audit.decode(self.vault.keyring, name, raw)
            except Damaged as error:
                self.find(name, f"entry {number} was altered: {error.message}")
                continue
            self._follows(entry, hashes.get(number - 1))
        del hashes[start.first - 1]
        return hashes

    def _follows(self, entry: Entry, before: str | None) -> None:
        # Where the one before is missing that is told already, and nothing more can be said.
        if before is not None and entry.previous != before:
            self.find(
                audit.name_of(entry.number),
                f"entry {entry.number} does not follow on the entry {entry.number - 1} that is there: one of the two "
                "is another one than was written",
            )

    def _compare(self, start: Checkpoint, last: int, hashes: dict[int, str]) -> None:
        beyond = [anchor for anchor in self.anchors if anchor.head.number > last]
        if beyond:
            end = beyond[-1]
            self.find(
                audit.name_of(last + 1),
                f"{words(last + 1, end.head.number)} missing at the end: {end.seen_by} has seen entry {end.head.number}, "
                f"and the log ends with {last}",
            )
        for anchor in self.anchors:
            number = anchor.head.number
            there = start.previous if number == start.first - 1 else hashes.get(number)
            if there is None:
                continue
            self.verdict.anchors += 1
            if there != anchor.head.sha256:
                self.find(
                    audit.name_of(number), f"entry {number} is another one than the one that {anchor.seen_by} has seen"
                )


def gaps(first: int, numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last number of each stretch that is missing before and between these, which ascend."""
    expected = first
    for number in numbers:
        if number > expected:
            yield expected, number - 1
        expected = number + 1


def words(begin: int, end: int) -> str:
    return f"entry {begin} is" if begin == end else f"entries {begin} to {end} are"
