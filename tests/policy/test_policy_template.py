import itertools
import re
from pathlib import Path

import pytest

from keepwell.core.errors import UsageError
from keepwell.policy.load import parse
from keepwell.policy.template import Answers, EnvironmentAnswer, SourceAnswer, render

EVERYTHING = Answers(
    'The "Lead" Management\tSystem — ü \\ \x7f',
    "s3://leads/backups",
    (
        EnvironmentAnswer(
            "production",
            (
                SourceAnswer("app", "postgres", "DATABASE_URL", ("users", 'odd"name')),
                SourceAnswer("uploads", "files", "/srv/app/uploads"),
            ),
            "0 2 * * *",
            "Europe/Berlin",
        ),
        EnvironmentAnswer("staging", (SourceAnswer("app", "postgres", "STAGING_URL"),), "0 3 * * 0"),
        EnvironmentAnswer("development", (SourceAnswer("app", "sqlite", "apps/api/prisma/dev.db"),)),
    ),
    passphrase_env="KEEPWELL_PASSPHRASE",
    options={"region": "eu-central-1"},
)
SMALL = Answers(
    "Leads",
    "file:///var/backups/leads",
    (EnvironmentAnswer("production", (SourceAnswer("app", "sqlite", "app.db"), SourceAnswer("up", "files", "up"))),),
    key_file="/etc/keepwell/vault.key",
)
PATH = Path("/srv/app/keepwell.toml")


def test_the_first_policy_says_what_was_answered():
    policy = parse(render(EVERYTHING), PATH).policy
    assert policy.project == EVERYTHING.project
    assert policy.vault.store == "s3://leads/backups"
    assert policy.vault.options == {"region": "eu-central-1"}
    assert policy.vault.key.passphrase.env == "KEEPWELL_PASSPHRASE"
    production, staging, development = policy.environments.values()
    assert (production.schedule, production.timezone) == ("0 2 * * *", "Europe/Berlin")
    assert production.sources["app"].url.env == "DATABASE_URL"
    assert production.sources["app"].critical_tables == ("users", 'odd"name')
    assert production.sources["uploads"].path == Path("/srv/app/uploads")
    assert staging.schedule == "0 3 * * 0"
    assert development.schedule is None
    assert development.sources["app"].path == Path("/srv/app/apps/api/prisma/dev.db")


def test_the_retention_is_the_strategys():
    policy = parse(render(EVERYTHING), PATH).policy
    assert [policy.keep(name).daily.age.days for name in policy.environments] == [30, 14, 7]


def test_a_local_vault_with_a_key_file_is_written():
    vault = parse(render(SMALL), PATH).policy.vault
    assert vault.key.file == Path("/etc/keepwell/vault.key")
    assert vault.folder() == Path("/var/backups/leads")
    assert "options" not in render(SMALL)


@pytest.mark.parametrize("answers", [EVERYTHING, SMALL])
def test_every_example_loads_when_its_mark_is_taken_away(answers):
    text = render(answers)
    examples = re.findall(r"(?m)^#(?! ).*$", text)
    assert len(examples) >= 8
    for number, _ in enumerate(examples):
        parse(_uncommented(text, {number}), PATH)
    every = parse(_uncommented(text, set(range(len(examples)))), PATH).policy
    assert every.environments["production"].sources["app"].portable == ("weekly", "monthly")


def _uncommented(text: str, which: set[int]) -> str:
    lines, seen = [], -1
    for line in text.splitlines():
        example = line.startswith("#") and not line.startswith("# ")
        seen += example
        lines.append(line[1:] if example and seen in which else line)
    return "\n".join(lines)


def test_every_key_that_is_set_is_explained_above():
    lines = render(EVERYTHING).splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"(version|project|store|key|options|schedule|keep|objectives|url|critical_tables) =", line):
            assert before.startswith("# "), line


def test_an_answer_that_toml_cannot_hold_is_refused():
    bad = SourceAnswer("up", "files", "up\udcff")
    with pytest.raises(UsageError, match="is not UTF-8"):
        render(Answers("x", "file:///x", (EnvironmentAnswer("p", (bad,)),), key_file="k"))


@pytest.mark.parametrize("key", [{}, {"key_file": "a", "passphrase_env": "B"}])
def test_a_vault_has_one_key_to_begin_with(key):
    with pytest.raises(UsageError, match="one key"):
        render(Answers("x", "file:///x", (), **key))
