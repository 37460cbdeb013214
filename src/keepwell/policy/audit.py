"""How long is kept what was done and said."""

from __future__ import annotations

import datetime as dt

from pydantic import Field, field_validator

from keepwell.policy.values import Span, Table, wrong

_LEAST = dt.timedelta(days=7)


class AuditPolicy(Table):
    """The audit log and the logs of runs."""

    keep: Span = Field(
        default="90d",
        validate_default=True,
        description="How long entries of the audit log and logs of runs stay in the vault.",
    )

    @field_validator("keep", mode="after")
    @classmethod
    def _long_enough(cls, value: dt.timedelta) -> dt.timedelta:
        if value < _LEAST:
            raise wrong("is too short for anybody to look at what was done", "Keep it for at least 7 days.")
        return value
