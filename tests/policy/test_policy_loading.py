import datetime as dt
import os
from pathlib import Path

import pytest
from policy_texts import HEAD, SOURCE

from keepwell.core.errors import PolicyError, UsageError
from keepwell.policy.load import find, load
from keepwell.policy.models import FilesSource, KeepRule, PostgresSource, SqliteSource

ISSUE = """
version = 1
project = "Lead Management System"

[vault]
store = "file:///var/backups/leads"          # or s3://bucket/prefix, gs://…, az://…
key = { file = "/etc/keepwell/vault.key" }   # or { passphrase = { env = "KEEPWELL_PASSPHRASE" } }

[environments.production]
schedule = "0 2 * * *"
[environments.production.sources.app]
type = "postgres"
url = { env = "DATABASE_URL" }
method = "logical"
critical_tables = ["users", "leads", "closed_deals"]
checks = [{ name = "won deals have amounts", sql = "select count(*) from closed_deals where amount <= 0", expect = "= 0" }]
[environments.production.sources.uploads]
type = "files"
path = "/srv/app/uploads"

[environments.development]
[environments.development.sources.app]
type = "sqlite"
path = "apps/api/prisma/dev.db"
"""


def days(number: int) -> KeepRule:
    return KeepRule(age=dt.timedelta(days=number))


def test_the_policy_of_the_issue_loads_as_it_stands(loaded, tmp_path):
    policy = loaded(ISSUE).policy
    app = policy.environments["production"].sources["app"]
    assert isinstance(app, PostgresSource)
    assert app.url.env == "DATABASE_URL"
    assert app.critical_tables == ("users", "leads", "closed_deals")
    assert app.checks[0].expectation.holds(0)
    assert policy.environments["production"].schedule == "0 2 * * *"
    assert policy.vault.key.file == Path("/etc/keepwell/vault.key")
    assert isinstance(policy.environments["production"].sources["uploads"], FilesSource)
    development = policy.environments["development"]
    assert development.schedule is None
    assert isinstance(development.sources["app"], SqliteSource)


def test_what_is_left_out_is_what_the_strategy_says(loaded):
    policy = loaded(ISSUE).policy
    objectives = policy.environments["production"].objectives
    hours = [
        span.total_seconds() / 3600 for span in (objectives.rto, objectives.rto_max, objectives.rpo, objectives.rpo_max)
    ]
    assert hours == [4, 8, 24, 24]
    assert policy.environments["production"].timezone == "UTC"
    assert policy.environments["production"].verify == "checks"
    assert policy.vault.grace == dt.timedelta(hours=24)
    assert policy.vault.compression is None
    assert policy.vault.pack_size == 32 << 20


@pytest.mark.parametrize(("name", "kept"), [("production", 30), ("staging", 14), ("development", 7), ("qa", 30)])
def test_the_default_retention_depends_on_the_environment(loaded, name, kept):
    policy = loaded(HEAD + SOURCE.replace("production", name)).policy
    keep = policy.keep(name)
    assert [keep.rule(tier) for tier in ("daily", "weekly", "monthly", "manual")] == [days(kept)] * 4
    assert policy.keep_rules() == {name: keep}


def test_a_rule_may_be_an_age_a_number_or_both(production):
    keep = production('keep = { daily = "30d", weekly = 12, monthly = { age = "1y", count = 24 }, manual = "7" }').keep
    assert keep.daily == days(30)
    assert keep.weekly == KeepRule(count=12)
    assert keep.monthly == KeepRule(age=dt.timedelta(days=365), count=24)
    assert keep.manual == KeepRule(count=7)


def test_a_tier_without_a_rule_stays_as_long_as_the_tier_below(loaded):
    keep = loaded(f'{HEAD}[environments.production]\nkeep = {{ daily = "90d" }}\n{SOURCE}').policy.keep("production")
    assert (keep.weekly, keep.monthly) == (days(90), days(90))
    assert keep.manual == days(30)
    keep = loaded(f"{HEAD}[environments.production]\nkeep = {{ weekly = 8 }}\n{SOURCE}").policy.keep("production")
    assert (keep.daily, keep.monthly) == (days(30), KeepRule(count=8))


def test_relative_paths_start_at_the_policy_wherever_it_is_loaded_from(loaded, tmp_path, monkeypatch):
    policy = loaded(HEAD + SOURCE)
    assert policy.base == tmp_path
    assert policy.policy.vault.key.file == tmp_path / "vault.key"
    assert policy.environment("production").sources["app"].path == tmp_path / "app.db"
    monkeypatch.chdir("/")
    assert load(Path(os.path.relpath(tmp_path / "keepwell.toml", "/"))) == policy


def test_a_tilde_is_the_home_folder(loaded, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    assert loaded(HEAD.replace("vault.key", "~/vault.key") + SOURCE).policy.vault.key.file == Path(
        "/home/ada/vault.key"
    )


def test_windows_line_ends_and_a_byte_order_mark_are_accepted(loaded):
    assert loaded("\ufeff" + (HEAD + SOURCE).replace("\n", "\r\n")).policy.project == "Leads"


def test_store_options_become_texts_and_secret_ones_are_resolved(loaded, monkeypatch):
    vault = loaded(
        HEAD.replace("file:///var/backups/leads", "s3://leads")
        + 'options = { region = "eu-central-1", allow_http = true, timeout = 20, secret_access_key = { env = "S3_SECRET" } }\n'
        + SOURCE
    )
    monkeypatch.setenv("S3_SECRET", "hush")
    assert vault.policy.vault.store_options(vault.base) == {
        "region": "eu-central-1",
        "allow_http": "true",
        "timeout": "20",
        "secret_access_key": "hush",
    }
    assert vault.policy.vault.folder() is None


def test_the_folder_of_a_local_vault_is_known(loaded):
    vault = loaded(HEAD.replace("/var/backups/leads", "/var/my%20backups") + SOURCE).policy.vault
    assert vault.folder() == Path("/var/my backups")


def test_a_loaded_policy_cannot_be_changed(loaded):
    policy = loaded(HEAD + SOURCE).policy
    with pytest.raises(ValueError, match="frozen"):
        policy.project = "Other"


def test_an_unknown_environment_names_the_nearest(loaded):
    with pytest.raises(UsageError, match="no environment 'prodution'") as caught:
        loaded(HEAD + SOURCE).environment("prodution")
    assert 'Did you mean "production"?' in caught.value.hint


def test_the_policy_is_found_in_a_folder_above(write, tmp_path):
    path = write(HEAD)
    below = tmp_path / "apps" / "api"
    below.mkdir(parents=True)
    assert find(below, environ={}) == path


def test_a_named_policy_is_taken_before_the_variable_and_that_before_the_folder(write, tmp_path):
    write(HEAD)
    (tmp_path / "other").mkdir()
    one, two = tmp_path / "one.toml", tmp_path / "other" / "keepwell.toml"
    one.write_text("")
    two.write_text("")
    assert find(tmp_path, explicit=one, environ={"KEEPWELL_POLICY": str(two)}) == one
    assert find(tmp_path, environ={"KEEPWELL_POLICY": str(two)}) == two
    assert find(tmp_path, environ={"KEEPWELL_POLICY": str(two.parent)}) == two


def test_a_named_policy_that_is_missing_is_not_looked_for_elsewhere(write, tmp_path):
    write(HEAD)
    with pytest.raises(PolicyError, match="named by --policy, does not exist"):
        find(tmp_path, explicit=tmp_path / "wrong.toml", environ={})
    with pytest.raises(PolicyError, match="named by KEEPWELL_POLICY, does not exist"):
        find(tmp_path, environ={"KEEPWELL_POLICY": str(tmp_path / "wrong.toml")})


def test_without_a_policy_the_error_says_how_to_make_one(tmp_path):
    with pytest.raises(PolicyError, match=r"no keepwell\.toml in") as caught:
        find(tmp_path, environ={})
    assert "keepwell init" in caught.value.hint
    assert caught.value.exit_code == 5


# Warnings: allowed, but not wise.


def test_a_sound_policy_has_no_warnings(loaded):
    assert loaded(ISSUE).warnings == ()


def test_a_key_file_that_others_can_read_is_warned_of(loaded, tmp_path):
    key = tmp_path / "vault.key"
    key.write_text("")
    key.chmod(0o640)
    [warning] = loaded(HEAD + SOURCE).warnings
    assert "can be read by other users (mode 640)" in warning
    assert f"chmod 600 {key}" in warning
    key.chmod(0o600)
    assert loaded(HEAD + SOURCE).warnings == ()


def test_a_secret_file_that_others_can_read_is_warned_of(loaded, tmp_path):
    (tmp_path / "url").write_text("postgresql:///leads")
    (tmp_path / "url").chmod(0o604)
    [warning] = loaded(
        HEAD + '[environments.production.sources.app]\ntype = "postgres"\nurl = { file = "url" }\n'
    ).warnings
    assert warning.startswith("environments.production.sources.app.url.file: ")


def test_a_key_inside_the_vault_is_warned_of(loaded, tmp_path):
    [warning] = loaded(HEAD.replace("/var/backups/leads", str(tmp_path)) + SOURCE).warnings
    assert "lies inside the vault" in warning


def test_a_folder_that_holds_its_own_vault_is_warned_of_unless_it_is_left_out(loaded, tmp_path):
    head = HEAD.replace("/var/backups/leads", f"{tmp_path}/srv/backups/vault")
    source = '[environments.production.sources.all]\ntype = "files"\npath = "srv"\n'
    [warning] = loaded(head + source).warnings
    assert "backed up into itself" in warning
    assert "'/backups/vault/'" in warning
    assert loaded(head + source + 'exclude = ["/backups/vault/"]\n').warnings == ()
    assert loaded(head + source + 'exclude = ["backups"]\n').warnings == ()


def test_a_schedule_that_cannot_meet_the_written_maximum_is_warned_of(loaded):
    def text(rest: str) -> str:
        return f'{HEAD}[environments.production]\nschedule = "0 2 * * 0"\n{rest}\n{SOURCE}'

    [warning] = loaded(text('objectives = { rpo_max = "48h" }')).warnings
    assert "puts up to 7 days of data at risk" in warning
    assert loaded(text('objectives = { rpo_max = "7d" }')).warnings == ()
    assert loaded(text("")).warnings == ()


def test_a_grace_time_too_short_to_change_ones_mind_is_warned_of(loaded):
    [warning] = loaded(HEAD + 'grace = "0s"\n' + SOURCE).warnings
    assert warning.startswith("vault.grace:")
