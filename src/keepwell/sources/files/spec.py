"""What to protect, and where to restore to; which names are left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Spec:
    """A folder with everything in it, apart from what `exclude` names.

    A pattern without a slash (`*.tmp`, `cache`) fits that name anywhere; one with a slash (`logs/*.log`,
    `/tmp`) fits the path from the root. `*` and `?` stay within a name, `**` spans folders, `[…]` is one of
    those characters; a slash at the end fits folders only. What is in a folder left out is left out with it.
    """

    path: Path
    exclude: tuple[str, ...] = ()
    attributes: bool = True
    """Whether extended attributes count; `respec` says no where the restored place cannot hold any."""


@dataclass(frozen=True)
class Target:
    """A folder that does not exist yet, or is empty."""

    path: Path


def excluder(patterns: tuple[str, ...]) -> Callable[[str, bool], bool]:
    """A function that says whether a path (from the root, and whether it is a folder) is left out."""
    if not patterns:
        return lambda _path, _folder: False
    either = re.compile("|".join(f"(?:{_expression(pattern)})" for pattern in patterns), re.DOTALL)
    return lambda path, folder: either.fullmatch(path + ("/" if folder else "")) is not None


def _expression(pattern: str) -> str:
    body = pattern.rstrip("/")
    end = "/" if pattern.endswith("/") else "/?"
    start = "" if "/" in body else "(?:.*/)?"
    body = body.lstrip("/")
    text, at = "", 0
    while at < len(body):
        if body.startswith("**/", at):
            text, at = text + "(?:.*/)?", at + 3
        elif body.startswith("**", at):
            text, at = text + ".*", at + 2
        elif body[at] in "*?":
            text, at = text + ("[^/]*" if body[at] == "*" else "[^/]"), at + 1
        elif body[at] == "[" and (close := body.find("]", at + 2)) > 0:
            inside = body[at + 1 : close].replace("\\", "\\\\").replace("[", "\\[")
            inside = "^/" + inside[1:] if inside.startswith("!") else inside.replace("^", "\\^")
            text, at = f"{text}[{inside}]", close + 1
        else:
            text, at = text + re.escape(body[at]), at + 1
    return start + text + end
