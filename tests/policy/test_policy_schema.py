import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest
from policy_texts import HEAD, SOURCE
from test_policy_loading import ISSUE

from keepwell.policy.schema import PUBLISHED, json_schema, render

ROOT = Path(__file__).parents[2]


def keys_of(part: object) -> set[str]:
    """Every key that a policy may have, by its table."""
    if isinstance(part, list):
        return set().union(*map(keys_of, part)) if part else set()
    if not isinstance(part, dict):
        return set()
    named = set(part["properties"]) if isinstance(part.get("properties"), dict) else set()
    return named.union(*(keys_of(value) for value in part.values())) if part else named


def problems(text: str) -> list[str]:
    schema = json_schema()
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(tomllib.loads(text))]


def test_the_published_schema_is_what_the_code_generates():
    assert (ROOT / PUBLISHED).read_text(encoding="utf-8") == render(), (
        f"write it anew: .venv/bin/python -c 'from keepwell.policy.schema import render; print(render(), end=\"\")' > {PUBLISHED}"
    )


def test_the_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert "null" not in render()


@pytest.mark.parametrize(
    "text",
    [
        ISSUE,
        HEAD + SOURCE,
        HEAD.replace("file:///var", "s3://var")
        + 'options = { region = "x", allow_http = true, timeout = 3, secret_access_key = { env = "A" } }\n'
        + 'grace = "1d 12h"\npack_size = "8 MiB"\ncompression = 9\n[environments.production]\nschedule = "0 2 * * mon-fri"\n'
        + 'keep = { daily = "30d", weekly = 12, monthly = { age = "1y", count = 24 }, manual = "7" }\n'
        + 'objectives = { rto = "1h30m" }\n'
        + SOURCE,
    ],
)
def test_the_schema_accepts_what_the_program_accepts(loaded, text):
    assert loaded(text)
    assert problems(text) == []


@pytest.mark.parametrize(
    "text",
    [
        HEAD + SOURCE + "colour = 1\n",
        HEAD.replace("version = 1", "version = 2") + SOURCE,
        HEAD.replace('{ file = "vault.key" }', '"hunter2"') + SOURCE,
        HEAD.replace('file = "vault.key"', 'file = "a", passphrase = { env = "A" }') + SOURCE,
        HEAD + 'grace = "soon"\n' + SOURCE,
        HEAD + SOURCE.replace("production", "Production"),
        HEAD + '[environments.p.sources.a]\ntype = "postgres"\nurl = "postgresql://db"\n',
        HEAD + '[environments.p.sources.a]\ntype = "postgres"\nurl = { env = "A", file = "b" }\n',
        HEAD + "[environments.p]\nkeep = { daily = 0 }\n" + SOURCE,
        HEAD,
    ],
)
def test_the_schema_refuses_what_the_program_refuses(refused, text):
    assert refused(text)
    assert problems(text) != []


def test_every_key_is_explained_in_the_reference():
    reference = (ROOT / "docs/reference/policy.md").read_text(encoding="utf-8")
    missing = {key for key in keys_of(json_schema()) if not re.search(rf"[`.]{key}`", reference)}
    assert missing == set()


def test_every_key_has_a_description():
    schema = json.loads(render())
    tables = [schema, *schema["$defs"].values()]
    bare = {
        f"{table['title']}.{key}"
        for table in tables
        for key, value in table.get("properties", {}).items()
        if "description" not in value and "const" not in value
    }
    assert bare == set()


def test_the_examples_of_the_reference_load(loaded):
    reference = (ROOT / "docs/reference/policy.md").read_text(encoding="utf-8")
    whole, *parts, checks = re.findall(r"(?ms)^```toml\n(.*?)^```", reference)
    assert loaded(whole).policy.keep("production").monthly.count == 12
    assert len(loaded(HEAD + SOURCE + checks).environment("production").sources["app"].checks) == 3
    for part in parts:
        loaded(HEAD + SOURCE + part)


def test_the_error_that_the_reference_shows_is_the_one_that_comes(refused):
    reference = (ROOT / "docs/reference/policy.md").read_text(encoding="utf-8")
    shown = re.search(r"(?ms)^```\n(keepwell\.toml:9: .*?)^```", reference)[1]
    text = HEAD + '\n\n[environments.production]\nschedul = "0 2 * * *"\n' + SOURCE
    assert str(refused(text)) + "\n" == shown
