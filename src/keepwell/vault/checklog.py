"""The log of checks of a share (`logs/checks/`): which part of the packs was read when, so that the next is another one."""

from __future__ import annotations

import datetime as dt
import secrets
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from keepwell.core.clock import iso
from keepwell.core.errors import Damaged, ObjectMissing
from keepwell.core.streams import Finding
from keepwell.vault.documents import sign, verify
from keepwell.vault.vault import Vault

PREFIX = "logs/checks/"
_ROUNDS = 2
"""So many records of each part stay: one is what the choice goes by, one more is for people."""


@dataclass(frozen=True)
class Share:
    """One of `of` parts of the packs, `number` from 0."""

    number: int
    of: int

    def holds(self, pack: str) -> bool:
        """Whether this part has the pack, by its name; what is no pack's name belongs to the first part."""
        try:
            return int(pack[:12], 16) % self.of == self.number
        except ValueError:
            return self.number == 0


def next_share(vault: Vault, names: Iterable[str], of: int) -> tuple[Share, list[Finding]]:
    """The part that was read longest ago, by the records of these names; and which of them are damaged."""
    records, findings = _read(vault, names)
    last = {share.number: name for name, share in records if share.of == of}  # in the order of time
    return Share(min(range(of), key=lambda number: (last.get(number, ""), number)), of), findings


def record(vault: Vault, now: dt.datetime, share: Share, *, passed: bool) -> None:
    name = f"{PREFIX}{now.strftime('%Y%m%dT%H%M%S.%fZ')}-{secrets.token_hex(2)}.json"
    document = {"time": iso(now), "number": share.number, "of": share.of, "passed": passed}
    vault.store.put(name, sign(vault.keyring, name, document))
    vault.store.flush()


def outdated(vault: Vault) -> list[str]:
    """Names of the records that two later ones of the same part have made useless: no choice changes without them.

    What cannot be read is not among them.
    """
    records, _ = _read(vault, [info.name for info in vault.store.list(PREFIX)])
    names: dict[Share, list[str]] = defaultdict(list)
    for name, share in records:
        names[share].append(name)
    return sorted(name for of_part in names.values() for name in of_part[:-_ROUNDS])


def _read(vault: Vault, names: Iterable[str]) -> tuple[list[tuple[str, Share]], list[Finding]]:
    """The records, oldest first."""
    records, findings = [], []
    for name in sorted(n for n in names if n.startswith(PREFIX)):
        try:
            document = verify(vault.keyring, name, vault.store.get(name))
            records.append((name, Share(int(document["number"]), int(document["of"]))))
        except Damaged as error:
            findings.append(Finding(name, f"{error}. It only says when a part was read: it may be deleted"))
        except ObjectMissing:  # a prune deleted it since the listing
            continue
    return records, findings
