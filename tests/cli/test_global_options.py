"""Options that every command takes, before or after its name, and what goes to which stream."""

import pytest


@pytest.mark.parametrize("args", [["--json", "list"], ["list", "--json"]])
def test_json_is_taken_before_and_after_the_command(ready, args):
    assert ready(*args).json() == []


@pytest.mark.parametrize("args", [["--json", "key", "list"], ["key", "--json", "list"], ["key", "list", "--json"]])
def test_json_is_taken_at_every_level_of_a_group(ready, args):
    assert len(ready(*args).json()) == 1


def test_the_policy_is_found_in_a_folder_above(ready, monkeypatch):
    monkeypatch.chdir(ready.project.folder / "uploads" / "2026")
    assert ready("list", "--json").json() == []


def test_the_policy_is_named_by_option_or_variable_and_the_option_wins(ready, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert ready("list").code == 5
    assert ready("list", "--policy", str(ready.project.policy)).code == 0
    assert ready("list", "--policy", str(ready.project.folder)).code == 0
    monkeypatch.setenv("KEEPWELL_POLICY", str(ready.project.policy))
    assert ready("list").code == 0
    assert ready("list", "--policy", "nothing.toml").code == 5


def test_the_key_file_is_named_by_option_or_variable_and_the_option_wins(ready, monkeypatch):
    moved = ready.project.key.rename(ready.project.folder / "moved.key")
    assert ready("list").code == 7
    assert ready("list", "--key-file", "moved.key").code == 0
    monkeypatch.setenv("KEEPWELL_KEY_FILE", str(moved))
    assert ready("list").code == 0
    assert ready("--key-file", "nothing.key", "list").code == 7
    assert ready("list", "--key-file", "nothing.key").code == 7


def test_quiet_leaves_answers_warnings_and_errors(ready):
    assert ready("backup", "--quiet").out == ""
    assert ready("list", "-q").out.count("production/") == 1
    ready.project.key.unlink()
    assert "vault.key" in ready("list", "-q").err


def test_nothing_but_the_document_is_on_standard_output(ready):
    (ready.project.folder / "dev.db").unlink()
    ran = ready("backup", "--json")
    assert ran.json()["status"] == "incomplete"
    assert "dev.db" in ran.err


def test_each_command_tells_how_to_call_it(keepwell):
    from keepwell.cli.commands import COMMANDS, GROUPS

    for name in COMMANDS:
        ran = keepwell(name, "--help")
        assert ran.code == 0
        assert ran.out.startswith(f"Usage: keepwell {name} ")
    for group, entries in GROUPS.items():
        for name in entries:
            assert keepwell(group, name, "-h").out.startswith(f"Usage: keepwell {group} {name} ")


def test_the_help_fits_a_terminal_and_shows_examples_as_they_are_to_be_typed(keepwell, monkeypatch):
    import importlib
    import re

    from keepwell.cli.commands import COMMANDS, GROUPS

    monkeypatch.setenv("COLUMNS", "80")
    examples = 0
    calls = [((), None), *(((group,), None) for group in GROUPS)]
    calls += [((name,), entry) for name, entry in COMMANDS.items() if name not in GROUPS]
    calls += [((group, name), entry) for group, entries in GROUPS.items() for name, entry in entries.items()]
    for call, entry in calls:
        text = keepwell(*call, "--help").out
        assert "\\b" not in text
        assert "\b" not in text
        assert not re.search(r"<str>|\[\[|[{}]", text), text
        lines = [line.strip() for line in text.splitlines()]
        shown = set()
        if entry is not None:
            about = importlib.import_module(f"keepwell.cli.{entry.module}").run.__doc__
            for block in re.findall(r"\\b\n(.*?)(?:\n\n|\Z)", about, re.DOTALL):
                shown |= {line.strip() for line in block.splitlines() if line.strip()}
        examples += len(shown)
        assert shown <= set(lines)
        # A command to be copied must not be broken, however long it is.
        assert [line for line in text.splitlines() if len(line) > 80 and line.strip() not in shown] == []
    assert examples >= 5


def test_the_help_shows_every_command_with_its_line(keepwell):
    from keepwell.cli.commands import COMMANDS

    text = " ".join(keepwell("--help").out.split())
    for name, entry in COMMANDS.items():
        assert f"{name} {entry.line}" in text


@pytest.mark.slow
def test_no_colours_where_nobody_asked_for_them(project):
    project.run("backup")
    ran = project.run("list")
    assert ran.code == 0
    assert "\033" not in ran.out + ran.err
