import pytest
from policy_texts import HEAD, SOURCE

from keepwell.core.errors import PolicyError
from keepwell.policy.load import load
from keepwell.policy.models import SECRET_OPTIONS
from keepwell.stores.cloud import known_options
from keepwell.stores.sftp_address import OPTIONS as SFTP_OPTIONS

POSTGRES = '[environments.production.sources.app]\ntype = "postgres"\n'


def test_every_problem_is_told_at_once_with_its_line_in_order(refused):
    error = refused(
        'version = 1\n[vault]\nstore = "file:///x"\nkey = { file = "k" }\ngrace = "soon"\n[environments.p]\nverify = "all"\n'
        "[environments.p.sources.a]\ntype = 'oracle'\n"
    )
    unknown = "is not a kind of source"
    lines = [line for line in str(error).splitlines() if not line.startswith(" ")]
    assert lines == [
        "keepwell.toml:1: project: is missing",
        'keepwell.toml:5: vault.grace: \'soon\' is not a duration; write for example "30d", "4h", "1h30m" or "7y"',
        "keepwell.toml:7: environments.p.verify: must be 'objects', 'restore', 'round-trip' or 'checks'",
        f"keepwell.toml:9: environments.p.sources.a.type: {unknown}",
    ]
    assert error.hint.startswith("4 problems in ")
    assert error.exit_code == 5


def test_text_that_is_not_toml_names_the_line(refused):
    error = refused("version = 1\nproject = Leads\n[vault]\n")
    assert str(error).startswith("keepwell.toml:2: is not TOML: invalid value")
    assert str(refused('version = 1\nproject = "Leads')).startswith("keepwell.toml:2: is not TOML: ")
    assert str(refused("version = 1\nversion = 1\n")).startswith("keepwell.toml:2: is not TOML: ")


def test_text_that_is_not_utf8_names_the_line(write, refused, tmp_path):
    path = tmp_path / "keepwell.toml"
    path.write_bytes(b'version = 1\nproject = "B\xfcro"\n')
    with pytest.raises(PolicyError, match=r"^keepwell\.toml:2: is not UTF-8 text"):
        load(path)
    path.unlink()
    with pytest.raises(PolicyError, match="No such file"):
        load(path)


def test_an_unknown_key_names_the_one_that_was_meant(refused, refused_production):
    error = str(refused_production('schedul = "0 2 * * *"'))
    assert "keepwell.toml:7: environments.production.schedul: is not a key of this table" in error
    assert 'Did you mean "schedule"?' in error
    assert 'Did you mean "critical_tables"?' in str(refused_production(source='critical_table = ["users"]\n'))
    error = str(refused_production(source='excludes = ["a"]\n'))
    assert "Known here are: checks, critical_tables, path, portable, references, type." in error
    error = str(refused(HEAD.replace("version", 'projekt = "x"\nversion', 1) + SOURCE))
    assert 'keepwell.toml:1: projekt: is not a key of this table\n    Did you mean "project"?' in error
    assert 'Did you mean "expect"?' in str(
        refused_production(source='checks = [{ name = "a", sql = "select 1", expects = "= 1" }]\n')
    )
    assert 'Did you mean "weekly"?' in str(refused_production('keep = { wekly = "1d" }'))
    assert 'Did you mean "env"?' in str(refused(HEAD + POSTGRES + 'url = { evn = "A" }\n'))


SECRET = "correct-horse"


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        (
            HEAD + POSTGRES + f'url = "postgresql://ada:{SECRET}@db/leads"\n',
            "sources.app.url",
            "holds a password in plain",
        ),
        (HEAD + POSTGRES + f'url = "{SECRET}"\n', "sources.app.url", "is written out in plain text"),
        (HEAD + POSTGRES + f'url = "postgresql://db/leads?password={SECRET}"\n', "sources.app.url", "holds a password"),
        (HEAD + POSTGRES + f'url = {{ env = "{SECRET} " }}\n', "sources.app.url.env", "not the name of an environment"),
        (HEAD.replace('{ file = "vault.key" }', f'"{SECRET}"') + SOURCE, "vault.key", "is not a reference to a key"),
        (
            HEAD.replace('{ file = "vault.key" }', f'{{ passphrase = "{SECRET}" }}') + SOURCE,
            "vault.key.passphrase",
            "is written out in plain text",
        ),
        (HEAD.replace("file:///var", f"s3://ada:{SECRET}@var") + SOURCE, "vault.store", "more in it than an address"),
        (HEAD.replace("/leads", f"/leads?token={SECRET}") + SOURCE, "vault.store", "more in it than an address"),
        (
            HEAD.replace("file:///var", "s3://var") + f'options = {{ secret_access_key = "{SECRET}" }}\n' + SOURCE,
            "vault.options.secret_access_key",
            "is written out in plain text",
        ),
    ],
)
def test_a_secret_in_the_policy_is_refused_with_the_reason_and_never_repeated(refused, text, place, what):
    error = refused(text)
    assert f"{place}: " in str(error)
    assert what in str(error)
    assert "Write " in str(error) or "Take it out" in str(error)
    assert SECRET not in str(error) + error.hint + repr(error)
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__ or error.__context__


def test_the_record_is_kept_long_enough_to_be_looked_at(refused):
    error = str(refused(HEAD + SOURCE + '[audit]\nkeep = "6d"\n'))
    assert "keepwell.toml:10: audit.keep: is too short" in error
    assert "at least 7 days" in error


def test_a_refused_literal_says_why(refused):
    assert "would be committed to Git" in str(refused(HEAD + POSTGRES + 'url = "postgresql://db/leads"\n'))


def test_every_option_that_is_a_secret_must_be_a_reference():
    known = known_options("s3") | known_options("gs") | known_options("az") | SFTP_OPTIONS
    assert known >= SECRET_OPTIONS
    suspicious = {
        name for name in known if "secret" in name or "token" in name or name.endswith(("key", "word", "phrase"))
    }
    assert suspicious - {"host_key"} <= SECRET_OPTIONS  # that one is public


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("{}", "has none of env, file and command"),
        ('{ env = "A", file = "b" }', "has env and file"),
        ('{ file = "" }', "is empty"),
        ("{ command = [] }", "is empty"),
        ('{ command = "pass show leads" }', "must be a list in square brackets"),
        ("12", "is not a reference to a secret"),
    ],
)
def test_a_reference_is_exactly_one_of_its_three_forms(refused, reference, what):
    assert what in str(refused(HEAD + POSTGRES + f"url = {reference}\n"))


@pytest.mark.parametrize(
    ("store", "what"),
    [
        ("/var/backups", "is not the address of a store"),
        ("file://backups/leads", "is not the address of a folder"),
        ("file:backups", "is not the address of a folder"),
        ("s3:///prefix", "names no bucket"),
        ("sftp://host/leads", "Write sftp://user@host/path"),
        ("sftp://backup@host", "names no folder"),
        ("sftp://backup:hunter2@host/leads", "has more in it than an address"),
        ("ftp://host/leads", "is not the address of a store"),
    ],
)
def test_an_address_that_cannot_be_a_store_is_refused(refused, store, what):
    error = str(refused(HEAD.replace("file:///var/backups/leads", store) + SOURCE))
    assert f"keepwell.toml:4: vault.store: {what}" in error or what in error


def test_an_option_that_the_store_does_not_have_is_refused(refused):
    s3 = HEAD.replace("file:///var/backups/leads", "s3://leads")
    error = str(refused(s3 + 'options = { endpont = "https://x" }\n' + SOURCE))
    assert (
        'keepwell.toml:6: vault.options.endpont: is not an option of s3:// stores\n    Did you mean "endpoint"?'
        in error
    )
    assert "vault.options: are for buckets" in str(refused(HEAD + 'options = { region = "x" }\n' + SOURCE))
    assert "vault.options.region: is not the value" in str(refused(s3 + "options = { region = [1] }\n" + SOURCE))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (
            "timezone = 'Europe/Berln'",
            "timezone: 'Europe/Berln' is not a time zone\n    Did you mean \"Europe/Berlin\"?",
        ),
        (
            "schedule = '0 2 * *'",
            "schedule: '0 2 * *' has 4 fields instead of five\n    A schedule has five fields: minute",
        ),
        ("schedule = 2", "schedule: must be a text in quotes"),
        (
            "objectives = { rto = '12h' }",
            "objectives.rto: the target rto is longer than the maximum rto_max (rto_max is 12",
        ),
        ("objectives = { rpo_max = '2h' }", "objectives.rpo_max: the target rpo is longer"),
        ("objectives = { rto = '0h' }", "objectives.rto: must be longer than nothing"),
        ("objectives = { rto = 4 }", "objectives.rto: is not a duration"),
        ("keep = { daily = 0 }", "keep.daily.count: must be at least 1"),
        ("keep = { daily = '0d' }", "keep.daily.age: must be longer than nothing"),
        ("keep = { daily = {} }", "keep.daily: says neither age nor count"),
        ("keep = { daily = true }", "keep.daily: is not a rule"),
        ("keep = { daily = '30 days' }", "keep.daily.age: '30 days' is not a duration"),
        ("keep = '30d'", "keep: must be a table"),
        ("verify = 'quick'", "verify: must be 'objects', 'restore', 'round-trip' or 'checks'"),
    ],
)
def test_a_mistake_in_an_environment_names_its_line_and_mend(refused_production, keys, problem):
    expected = problem.replace("rto_max is 12", "rto_max is 8 h 0 min, by default")
    assert f"keepwell.toml:7: environments.production.{expected}" in str(refused_production(keys))


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ("portable = ['weekli']", "portable[0]: must be 'daily', 'weekly', 'monthly' or 'manual'"),
        ("critical_tables = 'users'", "critical_tables: must be a list in square brackets"),
        ("critical_tables = ['']", "critical_tables[0]: must not be empty"),
        ("checks = [{ sql = 'x', expect = '= 0' }]", "checks[0].name: is missing"),
        ("checks = [{ name = 'a' }]", "checks[0]: has neither sql nor command"),
        ("checks = [{ name = 'a', sql = 'x', command = ['y'] }]", "checks[0]: has both sql and command"),
        ("checks = [{ name = 'a', sql = 'x' }]", "checks[0]: has a query but says not what it must answer"),
        ("checks = [{ name = 'a', command = ['x'], expect = '= 0' }]", "checks[0].expect: is only for queries"),
        (
            "checks = [{ name = 'a', sql = 'x', expect = '0' }]",
            "checks[0].expect: '0' is not an expectation; write for",
        ),
        ("checks = [{ name = 'a', sql = 'x', expect = 0 }]", "checks[0].expect: must be a text in quotes"),
        ("checks = [{ name = 'a', command = [] }]", "checks[0].command: must not be empty"),
        (
            "checks = [{ name = 'a', command = ['x'] }, { name = 'a', command = ['y'] }]",
            "checks: two checks are called 'a'",
        ),
        ("checks = [{ name = 'a', command = ['x'] },\n{ name = 'b' }]", "checks[1]: has neither sql nor command"),
    ],
)
def test_a_mistake_in_a_source_names_its_line(refused_production, keys, problem):
    line = 11 + keys[: keys.rfind("{")].count("\n")
    assert f"keepwell.toml:{line}: environments.production.sources.app.{problem}" in str(
        refused_production(source=keys + "\n")
    )


def test_files_are_not_asked_in_sql(refused):
    error = refused(
        HEAD + '[environments.p.sources.up]\ntype = "files"\npath = "up"\n'
        'checks = [{ name = "a", sql = "select 1", expect = "= 1" }]\n'
    )
    assert "keepwell.toml:9: environments.p.sources.up.checks[0].sql: files answer no queries" in str(error)


@pytest.mark.parametrize("path", ["1", "''", r'"a\u0000b"'])
def test_what_is_no_path_is_refused(refused, path):
    error = refused(f'{HEAD}[environments.p.sources.up]\ntype = "files"\npath = {path}\n')
    assert "environments.p.sources.up.path: is not a path" in str(error)


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        ("type = 'bucket'", 'store: is missing\n    Write for example store = "s3://bucket/prefix".'),
        (
            "type = 'bucket'\nstore = 'file:///srv'",
            'store: is not the address of a bucket: s3://, gs:// or az://\n    For a folder write type = "files" and path.',
        ),
        ("type = 'bucket'\nstore = 's3://b'\noptions = { token = 'x' }", "options.token: is written out in plain text"),
        (
            "type = 'bucket'\nstore = 's3://b'\noptions = { regoin = 'x' }",
            "options.regoin: is not an option of s3:// stores",
        ),
        ("type = 'bucket'\nstore = 's3://b'\nlock = '3d'", "lock: is not a key of this table"),
        (
            "type = 'bucket'\nstore = 's3://b'\nchecks = [{ name = 'a', sql = 'select 1', expect = '= 1' }]",
            "checks[0].sql: objects answer no queries",
        ),
        (
            "type = 'postgres'\nurl = { env = 'A' }\nprovider = {}",
            "provider: names no provider\n    Write provider = { neon = { project",
        ),
        (
            "type = 'postgres'\nurl = { env = 'A' }\nprovider = { supabase = { ref = 'a/b', token = { env = 'T' } } }",
            "provider.supabase.ref: ",
        ),
        (
            "type = 'postgres'\nurl = { env = 'A' }\nprovider = { neon = { project = 'p', token = 'secret' } }",
            "provider.neon.token: is written out in plain text",
        ),
        (
            (
                "type = 'postgres'\nurl = { env = 'A' }\nprovider = { neon = { project = 'p', token = { env = 'T' }, "
                "endpoint = 'http://neon.example' } }"
            ),
            "provider.neon.endpoint: is not encrypted, and the token would be sent there",
        ),
        ("type = 'mysql'", "type: is not a kind of source"),
        ("type = 'sqllite'", 'type: is not a kind of source\n    Did you mean "sqlite"?'),
        ("path = 'x'", 'type: is missing\n    Write one of "postgres", "sqlite", "files", "bucket", "git".'),
        ("type = 'postgres'", 'url: is missing\n    Write url = { env = "DATABASE_URL" }.'),
        ("type = 'sqlite'", "path: is missing"),
        (
            "type = 'postgres'\nurl = { env = 'A' }\npitr = '3d'",
            'pitr: is for method = "physical", and this source is logical',
        ),
        ("type = 'postgres'\nurl = { env = 'A' }\nmethod = 'copy'", "method: must be 'logical'"),
    ],
)
def test_a_kind_of_source_that_is_not_there_is_told(refused, kind, problem):
    assert f"environments.production.sources.app.{problem}" in str(
        refused(f"{HEAD}[environments.production.sources.app]\n{kind}\n")
    )


@pytest.mark.parametrize("name", ["Production", "a b", "-x", "x" * 41, "ü"])
def test_a_name_that_cannot_be_a_folder_is_refused(refused, name):
    error = str(refused(f'{HEAD}[environments."{name}".sources.app]\ntype = "sqlite"\npath = "x"\n'))
    assert "is not a name that keepwell can use" in error
    error = str(refused(f'{HEAD}[environments.p.sources."{name}"]\ntype = "sqlite"\npath = "x"\n'))
    assert "keepwell.toml:6: environments.p.sources." in error


def test_a_name_of_forty_characters_is_accepted(loaded):
    assert loaded(HEAD + SOURCE.replace("production", "x" * 40)).environment("x" * 40)


def test_an_environment_may_not_be_called_like_a_folder_of_the_vault(refused):
    error = str(refused(HEAD + SOURCE.replace("production", "packs")))
    assert "keepwell.toml:6: environments.packs: is the name of a folder that every vault has" in error


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("version = 1", "version = 2", "1: version: is 2, and this keepwell knows 1"),
        ("version = 1", "version = '1'", "1: version: must be a whole number, without quotes"),
        ("version = 1", "version = true", "1: version: must be a whole number, without quotes"),
        ("version = 1\n", "", "1: version: is missing"),
        ('"Leads"', '""', "2: project: must not be empty"),
        ('key = { file = "vault.key" }', "", "3: vault.key: is missing"),
        ('{ file = "vault.key" }', "{}", "5: vault.key: has neither file nor passphrase"),
        ("key =", "compression = 20\nkey =", "5: vault.compression: must be at most 19"),
        ("key =", "compression = 0\nkey =", "5: vault.compression: must be at least 1"),
        ("key =", "pack_size = '100 MiB'\nkey =", "5: vault.pack_size: must lie between 1 MiB and 64 MiB"),
        ("key =", "pack_size = 'big'\nkey =", "5: vault.pack_size: 'big' is not a size"),
        ("key =", "grace = '99999999999y'\nkey =", "5: vault.grace: is longer than time can be counted"),
    ],
)
def test_a_mistake_at_the_top_names_its_line(refused, old, new, problem):
    assert f"keepwell.toml:{problem}" in str(refused((HEAD + SOURCE).replace(old, new, 1)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEAD, "environments: is missing"),
        (HEAD + "[environments]\n", "keepwell.toml:6: environments: has no environment"),
        (HEAD + "[environments.p]\n", "keepwell.toml:6: environments.p.sources: is missing"),
        (HEAD + "[environments.p]\n[environments.p.sources]\n", "environments.p.sources: has nothing to protect"),
        ("environments = 1\n" + HEAD, "keepwell.toml:1: environments: must be a table"),
    ],
)
def test_a_policy_that_protects_nothing_is_refused(refused, text, problem):
    assert problem in str(refused(text))
