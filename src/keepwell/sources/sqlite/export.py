"""A copy that needs no keepwell: `gunzip database.db.gz`, and it is the database."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from blake3 import blake3

from keepwell.core.errors import Damaged, Interrupted
from keepwell.core.newfile import new_file
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import Exported
from keepwell.sources.sqlite.capture import STREAM

NAME = "database.db.gz"


def export(facts: Facts, streams: Streams, folder: Path, context: Context) -> Exported:
    """Write `database.db.gz` into the folder; the same bytes every time for the same backup.

    The database file itself and not SQL text: it is what `sqlite3` opens and the strategy's `.backup` gives.
    Raises TargetNotEmpty, Damaged, SourceError.
    """
    path = folder / NAME
    task = f"{facts['database']}: export"
    hasher = blake3()
    context.progress.begin(task, facts["size"])
    with new_file(path) as file:
        with gzip.GzipFile(filename="", mode="wb", fileobj=file, mtime=0, compresslevel=6) as packed:
            for block in streams.read(STREAM):
                if context.cancelled():
                    raise Interrupted("the export was interrupted", hint="Nothing was written; start it again.")
                hasher.update(block)
                packed.write(block)
                context.progress.advance(task, len(block))
        if hasher.hexdigest() != facts["digest"]:
            raise Damaged(
                f"the database {facts['database']} came out of the vault with other bytes than went in",
                hint="Run `keepwell check`, and export an older backup or a copy.",
            )
    context.progress.end(task)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Exported(path, path.stat().st_size, sha256, facts)
