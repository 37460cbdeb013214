"""What a repository points at: refs, symbolic refs, HEAD."""

from __future__ import annotations

import json
import re
import tempfile
from dataclasses import dataclass, field
from typing import Any

from blake3 import blake3

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Facts
from keepwell.sources.git.program import Git

_FORMAT = "%(objectname) %(objecttype) %(refname) %(symref)"
_DANGLING = re.compile(r"ignoring dangling symref (\S+)")
_BROKEN = re.compile(r"ignoring (?:broken ref|ref with broken name) (\S+)")


@dataclass
class Refs:
    """`by_name` has what each ref leads to, those that symbolic refs lead to as well."""

    by_name: dict[str, str] = field(default_factory=dict)
    symbolic: dict[str, str] = field(default_factory=dict)
    """Refs that only name another one: `refs/remotes/origin/HEAD`."""
    head: str = ""
    """The ref that HEAD names, also one that is not there yet; empty: HEAD is detached."""
    at: str = ""
    """The object that HEAD leads to; empty: none yet."""

    @property
    def tips(self) -> list[str]:
        """All objects that something points at, each once, in order."""
        return sorted({*self.by_name.values(), *([self.at] if self.at else [])})

    @property
    def digest(self) -> str:
        return blake3(json.dumps([self.by_name, self.facts()], sort_keys=True).encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        return {"head": self.head or None, "at": self.at or None, "symbolic": dict(sorted(self.symbolic.items()))}

    def in_words(self, then: Refs) -> list[tuple[str, str]]:
        """What differs from `then`: (ref, how)."""
        found = []
        for name in sorted(then.by_name.keys() | self.by_name.keys()):
            old, new = then.by_name.get(name), self.by_name.get(name)
            if new is None:
                found.append((name, "is missing"))
            elif old is None:
                found.append((name, "was not in the backup"))
            elif old != new:
                found.append((name, f"is {new}; it was {old}"))
        found += [
            (name, f"names {self.symbolic.get(name)}; it named {then.symbolic.get(name)}")
            for name in sorted(then.symbolic.keys() | self.symbolic.keys())
            if then.symbolic.get(name) != self.symbolic.get(name)
        ]
        if (self.head or self.at) != (then.head or then.at):
            found.append(("HEAD", f"is {self.head or self.at}; it was {then.head or then.at}"))
        return found


def read(git: Git, context: Context) -> Refs:
    """Raises SourceError where a ref is broken or leads to an object that is not there."""
    refs = Refs()
    with tempfile.TemporaryFile(dir=context.work) as out:
        said = git.into(out, "for-each-ref", f"--format={_FORMAT}")
        out.seek(0)
        for line in out:
            ident, _, name, symbolic = line.decode("utf-8", "surrogateescape").rstrip("\n").split(" ")
            refs.by_name[name] = ident
            if symbolic:
                refs.symbolic[name] = symbolic
    if broken := _BROKEN.search(said):
        raise SourceError(
            f"{git.shown}: the ref {broken[1]} is broken",
            hint="Run git fsck there, and mend or delete the ref; then take the backup again.",
        )
    for name in _DANGLING.findall(said):
        context.progress.note(f"{git.shown}: {name} names a ref that does not exist and is not kept")
    refs.head = git.run("symbolic-ref", "-q", "HEAD", fails=True).decode("utf-8", "surrogateescape").strip()
    refs.at = git.run("rev-parse", "-q", "--verify", "HEAD^{object}", fails=True).decode().strip()
    if not refs.head and not refs.at:
        raise SourceError(f"{git.shown}: HEAD is broken", hint="Run git fsck there, and set HEAD to a branch.")
    return refs


def of_facts(facts: Facts, by_name: dict[str, str]) -> Refs:
    return Refs(by_name, dict(facts["symbolic"]), facts["head"] or "", facts["at"] or "")
