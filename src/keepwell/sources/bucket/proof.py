"""Are restored objects what was backed up, and if not: which one?"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NoReturn

from blake3 import blake3

from keepwell.core.errors import Interrupted, KeepwellError, UsageError
from keepwell.core.streams import Context, Facts, Finding, Streams
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.bucket.entries import read_objects
from keepwell.sources.bucket.folder import NAMES, FolderObjects
from keepwell.sources.bucket.spec import Spec, Target

_MOST_FINDINGS = 100
_BLOCK = 1 << 20


@contextlib.contextmanager
def sandbox(facts: Facts, context: Context) -> Iterator[Target]:  # noqa: ARG001 - the contract of sources
    """A private folder; it is removed afterwards."""
    with WorkFolder("sandbox", context.work) as folder:
        yield Target(folder / "objects")


def respec(target: Target, facts: Facts, spec: Spec | None) -> Spec:  # noqa: ARG001 - the contract of sources
    """How to capture what was restored: all of it."""
    objects = target.objects if target.path is None else FolderObjects(target.path)
    assert objects is not None
    return Spec(objects, allow_empty=True, remember=False)


def examine(target: Target, facts: Facts, context: Context) -> list[Finding]:
    """There are as many files and bytes in the folder as objects were backed up, and none besides."""
    assert target.path is not None
    count = size = 0
    for folder, _, names in os.walk(target.path):
        if context.cancelled():
            raise Interrupted("the examination was interrupted", hint="Nothing was changed; start it again.")
        for name in names:
            if name != NAMES or folder != str(target.path):
                count += 1
                size += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - os.walk gives texts
    found = []
    for what, here in (("files", count), ("bytes", size)):
        if here != facts[what]:
            found.append(Finding(str(facts["root"]), f"has {here} {what}; {facts[what]} were backed up"))
    return found


def count_rows(target: Target, facts: Facts) -> dict[str, int]:  # noqa: ARG001 - the contract of sources
    """Objects have no tables."""
    return {}


def query(target: Target, sql: str) -> NoReturn:  # noqa: ARG001 - the contract of sources
    """Raises UsageError."""
    raise UsageError(
        "a check with SQL cannot be asked of a bucket",
        hint="Move the check to a database source in the policy, or use a check with a command.",
    )


def compare(then: Facts, now: Facts, *, streams: Streams | None = None, target: Target | None = None) -> list[Finding]:
    """What differs between the backup and what was captured of the restored place.

    With the backup's `streams` and the `target`, a folder, every object that is lost or changed is named (the first 100).
    """
    root = str(then["root"])
    findings = [
        Finding(root, f"has {now[what]} {what}; {then[what]} were backed up")
        for what in ("files", "bytes")
        if then[what] != now[what]
    ]
    if then["digest"] != now["digest"] and not findings:
        findings.append(Finding(root, "names, contents or metadata are not those that were backed up"))
    if not findings or streams is None or target is None or target.path is None:
        return findings
    return _named(streams, FolderObjects(target.path)) or findings


def _named(streams: Streams, folder: FolderObjects) -> list[Finding]:
    restored = {entry.name: (path, dict(entry.attributes)) for entry, path in folder.entries() if not entry.folder}
    findings: list[Finding] = []
    more = 0
    for entry in read_objects(streams):
        if entry.folder:
            continue
        path, attributes = restored.pop(entry.name, (None, {}))
        try:
            problem = ""
            if path is None or not path.is_file():
                problem = "the object is missing"
            else:
                hasher = blake3()
                with path.open("rb") as file:
                    while block := file.read(_BLOCK):
                        hasher.update(block)
                if hasher.hexdigest() != entry.digest:
                    problem = "the content is not what was backed up"
                elif attributes != dict(entry.attributes):
                    problem = "the metadata is not what was backed up"
        except (OSError, KeepwellError) as error:
            problem = f"cannot be read: {error}"
        if problem and len(findings) < _MOST_FINDINGS:
            findings.append(Finding(entry.name, problem))
        elif problem:
            more += 1
    findings += [Finding(name, "the object was not in the backup") for name in list(restored)[:_MOST_FINDINGS]]
    return findings + ([Finding("…", f"and {more} more")] if more else [])
