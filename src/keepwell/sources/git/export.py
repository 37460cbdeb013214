"""A repository as a file that `git clone` takes."""

from __future__ import annotations

import hashlib
from pathlib import Path

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import Exported
from keepwell.sources.git import bundle

NAME = "repository.bundle"


def export(facts: Facts, streams: Streams, folder: Path, context: Context) -> Exported:
    """Writes `repository.bundle` into the folder. Raises TargetNotEmpty, Damaged, SourceError; an empty repository is one."""
    head = bundle.read_head(streams)
    if not head.by_name and not head.at:
        raise SourceError(
            f"{facts['root']} had no commits, and git knows no empty bundle", hint="There is nothing to export."
        )
    path = folder / NAME
    hasher, size = hashlib.sha256(), 0
    task = f"{NAME}: objects"
    context.progress.begin(task, facts["bytes"])
    with new_file(path) as file:
        for block in bundle.blocks(streams, head):
            if context.cancelled():
                raise Interrupted("the export was interrupted", hint="Nothing was written; start it again.")
            file.write(block)
            hasher.update(block)
            size += len(block)
            context.progress.advance(task, len(block))
    context.progress.end(task)
    return Exported(path, size, hasher.hexdigest(), facts)
