"""Further vaults that are kept in step with the first."""

from __future__ import annotations

from pydantic import Field, model_validator

from keepwell.policy.keep import Keep
from keepwell.policy.values import Name, Schedule, Timezone, wrong
from keepwell.policy.vault import StorePlace


class CopyPolicy(StorePlace):
    """A copy of the vault in another store: the same encrypted objects, the same keys."""

    name: Name = Field(description="What the copy is called in commands and messages.")
    after_backup: bool = Field(default=False, description="Whether every backup is copied as soon as it is taken.")
    schedule: Schedule | None = Field(
        default=None, description="When the copy is brought up to date, as five cron fields."
    )
    timezone: Timezone = Field(default="UTC", description="The time zone of the schedule.")
    keep: Keep | None = Field(
        default=None, description="How long backups stay in the copy. Default: as in the first vault."
    )

    @model_validator(mode="after")
    def _sometime(self) -> CopyPolicy:
        if self.after_backup and self.schedule is not None:
            raise wrong(
                "is for copies that do not follow every backup", "Take out schedule, or after_backup.", ("schedule",)
            )
        return self
