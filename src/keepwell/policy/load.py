"""Finding and reading keepwell.toml."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from keepwell.core.errors import PolicyError, UsageError
from keepwell.policy.lines import KeyPath, locate
from keepwell.policy.models import Environment, Policy
from keepwell.policy.problems import Problem, dotted, problems_of
from keepwell.policy.values import nearest

NAME = "keepwell.toml"
VARIABLE = "KEEPWELL_POLICY"
_WHERE = re.compile(r"\s*\(at (?:line (\d+), column (\d+)|end of document)\)$")
_MOST_BYTES = 4 << 20


@dataclass(frozen=True)
class LoadedPolicy:
    """A valid policy, and where it came from. Its paths are absolute."""

    policy: Policy
    path: Path
    """The file, absolute."""

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but not wise, each with the mend. Looked for only when asked: it takes a fifth of a second."""
        from keepwell.policy.advice import warnings_of

        return tuple(warnings_of(self.policy, self.base))

    @property
    def base(self) -> Path:
        """The folder that relative paths, secret files and commands start from."""
        return self.path.parent

    def environment(self, name: str) -> Environment:
        """Raises UsageError where the policy has no such environment."""
        if name in self.policy.environments:
            return self.policy.environments[name]
        known = self.policy.environments
        raise UsageError(
            f"there is no environment {name!r} in {self.path}",
            hint=f"{nearest(name, known)} The policy has: {', '.join(known)}.".strip(),
        )


def find(start: Path | None = None, *, explicit: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """The policy file: `explicit` (--policy), else KEEPWELL_POLICY, else keepwell.toml in `start` or a folder above it.

    Raises PolicyError where there is none. A file that was named is not searched for anywhere else.
    """
    if explicit is not None:
        return _named(explicit, "--policy")
    if environ.get(VARIABLE):
        return _named(Path(environ[VARIABLE]), VARIABLE)
    folder = (start or Path.cwd()).absolute()
    for place in (folder, *folder.parents):
        if (place / NAME).is_file():
            return place / NAME
    raise PolicyError(
        f"there is no {NAME} in {folder} or in a folder above it",
        hint="`keepwell init` writes one; or name it with --policy or the environment variable KEEPWELL_POLICY.",
    )


def load(path: Path) -> LoadedPolicy:
    """Raises PolicyError: its text has every problem, each as `keepwell.toml:LINE: key.path: what is wrong`."""
    return parse(_read(path), path)


def parse(text: str, path: Path) -> LoadedPolicy:
    """As `load`, of a text that is not yet in the file `path`."""
    path = path.absolute()
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _not_toml(path, text, error) from None
    except RecursionError:
        raise PolicyError(f"{path.name}: tables and lists are nested too deeply") from None
    try:
        policy = Policy.model_validate(data, context={"base": path.parent})
    except ValidationError as error:
        problems = problems_of(error, data)
    else:
        return LoadedPolicy(policy, path)
    # Outside of the except clause: the original error must not travel along, it knows the values.
    raise _invalid(path, text, problems)


def _named(path: Path, by: str) -> Path:
    if path.is_dir() and (path / NAME).is_file():
        return (path / NAME).absolute()
    if not path.exists():
        raise PolicyError(
            f"the policy {path}, named by {by}, does not exist", hint="Correct the path, or write one: `keepwell init`."
        )
    return path.absolute()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise PolicyError(
            f"the policy {path} cannot be read: {error.strerror}", hint="Check the path, its owner and mode."
        ) from None
    if len(raw) > _MOST_BYTES:
        raise PolicyError(f"{path} is larger than 4 MiB: that is no policy", hint="Check the path.")
    try:
        return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"{path.name}:{line}: is not UTF-8 text", hint=f"Save {path} as UTF-8.") from None


def _not_toml(path: Path, text: str, error: tomllib.TOMLDecodeError) -> PolicyError:
    message = str(error)
    found = _WHERE.search(message)
    line = int(found[1]) if found and found[1] else text.count("\n") + (not text.endswith("\n"))
    column = f", column {found[2]}" if found and found[2] else ""
    what = message[: found.start()] if found else message
    return PolicyError(
        f"{path.name}:{line}: is not TOML: {what[:1].lower()}{what[1:]}{column}",
        hint="Texts stand in quotes, lists in [ ], inline tables { } on one line; a table [name] or a key may stand only once.",
    )


def _invalid(path: Path, text: str, problems: list[Problem]) -> PolicyError:
    lines = locate(text)
    placed = sorted(((_line(lines, problem.path), problem) for problem in problems), key=lambda pair: pair[0])
    shown: list[str] = []
    for line, problem in placed:
        shown.append(f"{path.name}:{line}: {dotted(problem.path)}: {problem.what}")
        if problem.mend:
            shown.append(f"    {problem.mend}")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    return PolicyError("\n".join(shown), hint=f"{count} in {path}. docs/reference/policy.md explains every key.")


def _line(lines: Mapping[KeyPath, int], path: KeyPath) -> int:
    """The line of the key; where it is missing, of the nearest table around it."""
    while path not in lines:
        path = path[:-1]
    return lines[path]
