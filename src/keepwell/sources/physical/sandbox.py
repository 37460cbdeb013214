"""A throwaway place for a proof of a physical backup."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keepwell.core.streams import Context, Facts
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.physical.start import programs_for
from keepwell.sources.physical.target import Sandbox


@contextlib.contextmanager
def sandbox(facts: Facts, context: Context) -> Iterator[Sandbox]:
    """An empty data directory; its server (started by `examine`) and everything are gone afterwards.

    Raises ProgramMissing where PostgreSQL of the same major version is not installed: no other can read the files.
    """
    programs_for(facts)
    # Not in `context.work`: as root the server's own user must be able to get there.
    work = WorkFolder("sandbox")
    work.path.chmod(0o711)
    target = Sandbox(work.path / "data", work.path)
    try:
        yield target
    finally:
        if target.server:
            target.server.stop(keep=False)
        work.remove(quietly=True)
