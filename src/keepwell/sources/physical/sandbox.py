"""A throwaway place for a proof of a physical backup."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Facts
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.physical.start import programs_for
from keepwell.sources.physical.target import Sandbox


@contextlib.contextmanager
def sandbox(facts: Facts, context: Context) -> Iterator[Sandbox]:  # noqa: ARG001  (every kind's has a context)
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


def respec(target: Sandbox, facts: Facts, spec: Any) -> Any:  # noqa: ARG001  (as every kind has it)
    """There is none: a restored cluster is not captured again, but compared file by file (`compare_files`). Raises SourceError."""
    raise SourceError(
        f"the cluster in {target.path} is compared with its backup file by file", hint="This is a mistake in keepwell."
    )
