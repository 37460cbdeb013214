"""Where a cluster is brought back to: a directory, or the sandbox of a proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from keepwell.core.errors import Damaged
from keepwell.core.secrets import Secret
from keepwell.core.streams import Json
from keepwell.sources.base import Recovery

if TYPE_CHECKING:
    from keepwell.sources.physical.cluster import RecoveringServer


class LogMissing(Damaged):
    """Log that more log follows is not in the vault. A backup may have it itself, in its `pg_wal`."""


LogSource: TypeAlias = Callable[[str], bytes | None]
"""A file of the log by its name (a whole segment, or a history); None: the log has no such file, which is its end. Raises
KeepwellError where it cannot be told, so that a failure is never taken for the end."""


@dataclass
class Target:
    """A data directory: new, empty, or with `delta` one that has an older state of the same cluster."""

    path: Path


@dataclass
class Sandbox(Target):
    """A data directory of a proof, and the server that is run there. The fields below `folder` may be set until the server
    is started for the first time.
    """

    folder: Path
    """Where the server keeps everything but the data."""
    recovery: Recovery | None = None
    """A moment to recover to after the backup has become consistent; None: to consistency only."""
    log: LogSource | None = None
    """From where the log behind the backup comes; needed for `recovery`."""
    database: str = "postgres"
    """To which the policy's checks go."""
    server: RecoveringServer | None = None
    reached: dict[str, Json] = field(default_factory=dict)
    """`{"lsn", "timeline", "time"}` at which the recovery ended."""

    @property
    def url(self) -> Secret:
        """Of the running server, through a private socket without a password."""
        assert self.server is not None
        return self.server.url(self.database)
