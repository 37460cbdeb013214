"""What a database refers to in another source of its environment, so that a proof can look whether it is there."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from keepwell.policy.values import Name, Table


class Reference(Table):
    """A query that lists paths, and the source that must have them."""

    sql: str = Field(
        min_length=1,
        description="A query; the first column of its rows are paths in the other source.",
        examples=["select path from uploads"],
    )
    source: Name = Field(description="The source of files or objects that must have them, in the same environment.")

    @property
    def title(self) -> str:
        """As it stands in reports."""
        return f"{self.source} has what `{' '.join(self.sql.split())}` lists"


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict | Reference) else value


References: TypeAlias = Annotated[
    tuple[Reference, ...], BeforeValidator(_listed, json_schema_input_type=Reference | tuple[Reference, ...])
]
"""One table, or a list of them."""
