"""Is a restored repository what was backed up?"""

from __future__ import annotations

import contextlib
import re
import tempfile
from collections.abc import Iterator
from typing import NoReturn

from keepwell.core.errors import SourceError, UsageError
from keepwell.core.streams import Context, Facts, Finding, Streams
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.git import bundle, objects, refs
from keepwell.sources.git.program import Git, GitFailed
from keepwell.sources.git.spec import Spec, Target

_MOST_FINDINGS = 100
_AS_WRITTEN = re.compile(r"(?:error|warning) in (?:commit|tree|tag|blob) ")
"""How fsck begins what it says of an object's form: bad dates, odd modes. It came back as it was: its id is of its content."""


@contextlib.contextmanager
def sandbox(facts: Facts, context: Context) -> Iterator[Target]:  # noqa: ARG001 - the contract of sources
    """A private folder; it is removed afterwards."""
    with WorkFolder("sandbox", context.work) as folder:
        yield Target(folder / "repository.git")


def respec(target: Target, facts: Facts, spec: Spec) -> Spec:  # noqa: ARG001 - the contract of sources
    """How to capture the restored repository."""
    return Spec(target.path)


def examine(target: Target, facts: Facts, context: Context) -> list[Finding]:
    """`git fsck --full`; the refs are those of the backup; as many objects can be reached from them."""
    inner = target.path if target.bare else target.path / ".git"
    git = Git(inner, context, shown=str(target.path))
    name = str(facts["root"])
    findings = [Finding(name, f"git fsck: {problem}") for problem in _fsck(git, context)]
    try:
        found = refs.read(git, context)
        if found.digest != facts["digest"]:
            findings.append(
                Finding(name, f"its {len(found.by_name)} refs are not the {facts['refs']} that were backed up")
            )
        with WorkFolder("git", context.work) as work:
            count = sum(1 for _ in objects.walk(git, found.tips, (), work)) if found.tips else 0
    except SourceError as error:
        return [*findings, Finding(name, error.message)][:_MOST_FINDINGS]
    if count != facts["objects"]:
        findings.append(
            Finding(name, f"{count} objects can be reached from its refs; {facts['objects']} were backed up")
        )
    return findings[:_MOST_FINDINGS]


def count_rows(target: Target, facts: Facts) -> dict[str, int]:  # noqa: ARG001 - the contract of sources
    """Repositories have no tables."""
    return {}


def query(target: Target, sql: str) -> NoReturn:  # noqa: ARG001 - the contract of sources
    """Raises UsageError."""
    raise UsageError(
        "a check with SQL cannot be asked of a repository",
        hint="Move the check to a database source in the policy, or use a check with a command.",
    )


def compare(then: Facts, now: Facts, *, streams: Streams | None = None, target: Target | None = None) -> list[Finding]:
    """Refs and objects at backup time against those of the restored repository; with `streams` and `target` each ref
    that differs is named.
    """
    root = str(then["root"])
    findings = []
    if then["digest"] != now["digest"]:
        if streams is not None and target is not None:
            inner = target.path if target.bare else target.path / ".git"
            found = refs.read(Git(inner, Context(), shown=str(target.path)), Context())
            before = refs.of_facts(then, bundle.read_head(streams).by_name)
            findings += [Finding(name, how) for name, how in found.in_words(before)[:_MOST_FINDINGS]]
        findings = findings or [Finding(root, "the refs are not those that were backed up")]
    findings += [
        Finding(root, f"{what}: {now[what]}; {then[what]} at backup time")
        for what in ("format", "objects", "lfs")
        if then[what] != now[what]
    ]
    return findings


def _fsck(git: Git, context: Context) -> list[str]:
    try:
        with tempfile.TemporaryFile(dir=context.work) as out:
            said = git.into(out, "fsck", "--full", "--no-dangling", "--no-progress")
            out.seek(0)
            said += out.read().decode("utf-8", "replace")
    except GitFailed as error:
        said = error.said or error.message
    lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("notice:")]
    odd = [line for line in lines if _AS_WRITTEN.match(line)]
    for line in odd[:_MOST_FINDINGS]:
        context.progress.note(f"{git.shown}: kept as it was written: {line}")
    return [line for line in lines if line not in odd]
