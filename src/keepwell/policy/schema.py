"""The JSON Schema of keepwell.toml, for editors. Published as schema/keepwell.schema.json."""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from keepwell.policy.models import VERSION, Policy

PUBLISHED = "schema/keepwell.schema.json"
"""Where the repository has it. After a change of the models, write `render()` there; a test compares the two."""

_NULL = {"type": "null"}


class _Generate(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # the key is its own title; editors show the description


def json_schema() -> dict[str, Any]:
    """What an editor needs to complete and check a policy. The program's own checks are stricter."""
    schema = Policy.model_json_schema(schema_generator=_Generate)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:keepwell:policy:{VERSION}",
        "title": "keepwell.toml",
        **{key: _for_toml(value) for key, value in schema.items() if key != "title"},
    }


def render() -> str:
    """The published file."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _for_toml(part: Any) -> Any:
    """Without what TOML does not have (null), and without the hints of other tools."""
    if isinstance(part, list):
        return [_for_toml(item) for item in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _for_toml(value) for key, value in part.items() if key != "discriminator" and not _unsaid(key, value)}
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
    if "anyOf" not in kept:
        return kept
    choices = [choice for choice in kept.pop("anyOf") if choice != _NULL]
    return {**choices[0], **kept} if len(choices) == 1 else {"anyOf": choices, **kept}


def _unsaid(key: str, value: Any) -> bool:
    """A default that only says "not given", or that of a table, whose keys say their own."""
    return key == "default" and (value is None or isinstance(value, dict))
