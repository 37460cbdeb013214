"""From what `init` is told to the answers that the first policy is made of."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal, TypeAlias

from keepwell.policy.template import EnvironmentAnswer, SourceAnswer

SourceType: TypeAlias = Literal["postgres", "sqlite", "files", "git"]
SCHEDULES = {"staging": "0 2 * * 0", "development": None}
"""The strategy's: production, and any other, daily; staging weekly; development by hand."""


def slug(text: str) -> str:
    """A name as environments and sources have it: a-z, 0-9, _ and -; empty where nothing is left."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9_]+", "-", plain).strip("-_")[:40]


def environment_of(name: str, sources: Sequence[tuple[SourceType, str]]) -> EnvironmentAnswer:
    """`sources` are (type, place): the name of the variable with the URL, or a path."""
    named = tuple(SourceAnswer(each, kind, at) for each, (kind, at) in zip(names(sources), sources, strict=True))
    return EnvironmentAnswer(name, named, SCHEDULES.get(name, "0 2 * * *"))


def names(sources: Sequence[tuple[SourceType, str]]) -> list[str]:
    """A name for each, in order: the first database is `app`, folders and repositories are called as they are."""
    taken: list[str] = []
    for kind, at in sources:
        last = at.rstrip("/").rpartition("/")[2]
        wanted = slug(last.partition(".")[0] if kind in {"sqlite", "git"} else last) or kind
        if kind not in {"files", "git"} and "app" not in taken:
            wanted = "app"
        name, number = wanted, 2
        while name in taken:
            name, number = f"{wanted[:36]}-{number}", number + 1
        taken.append(name)
    return taken
