"""One occurrence of something that the policy wants done."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Literal, TypeAlias

from keepwell.core.clock import UTC

Kind: TypeAlias = Literal["backup", "verify", "prune", "check", "copy", "drill"]


@dataclass(frozen=True)
class Job:
    """What is due, of what, and when. `environment` is the name of the copy where a copy is meant."""

    kind: Kind
    environment: str | None
    due: dt.datetime

    @property
    def ident(self) -> str:
        """`backup/production/20261122T020000Z`: the identity of the occurrence."""
        moment = self.due.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        return "/".join(part for part in (self.kind, self.environment, moment) if part)
