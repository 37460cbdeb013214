"""How long backups stay."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import Field, StrictInt, WithJsonSchema, model_validator

from keepwell.policy.values import Span, Table, wrong


class KeepRule(Table):
    """How long backups of one tier stay: while they are younger than `age`, or among the newest `count`."""

    age: Span | None = None
    count: Annotated[StrictInt, Field(ge=1)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, (str, int, dict, KeepRule)):
            raise wrong(
                "is not a rule", 'Write an age such as "30d", a number such as 12, or { age = "30d", count = 12 }.'
            )
        if isinstance(value, str):
            return {"count": int(value)} if value.strip().isdecimal() else {"age": value}
        return {"count": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _says_something(self) -> KeepRule:
        if self.age is None and self.count is None:
            raise wrong("says neither age nor count", 'Write for example "30d", 12, or { age = "30d", count = 12 }.')
        return self


Rule: TypeAlias = Annotated[
    KeepRule,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": r"^\s*(\d+|(\d+\s*(s|m|h|d|w|y)\s*)+)\s*$"},
                {"type": "integer", "minimum": 1},
                {
                    "type": "object",
                    "properties": {"age": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
                    "minProperties": 1,
                    "additionalProperties": False,
                },
            ],
            "examples": ["30d", 12, {"age": "30d", "count": 12}],
        }
    ),
]


class Keep(Table):
    """How long backups stay, by tier. `Policy.keep` fills in what is left out."""

    daily: Rule | None = Field(default=None, description="Default: 30d; staging 14d; development 7d.")
    weekly: Rule | None = Field(default=None, description="Default: as daily.")
    monthly: Rule | None = Field(default=None, description="Default: as weekly.")
    manual: Rule | None = Field(default=None, description="Default: 30d; staging 14d; development 7d.")

    def rule(self, tier: str) -> KeepRule | None:
        """The rule of a tier; None where there is none."""
        return {"daily": self.daily, "weekly": self.weekly, "monthly": self.monthly, "manual": self.manual}.get(tier)
