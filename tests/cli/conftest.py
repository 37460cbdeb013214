"""Projects to run the program in."""

import os
from pathlib import Path

import pytest

from support.program import Project, Ran, fill


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """Data, and no policy yet."""
    folder = tmp_path / "project"
    folder.mkdir()
    fill(folder)
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return Project(
        folder, kept | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    )


@pytest.fixture
def project(bare: Project) -> Project:
    """With a policy, a vault and its key."""
    made = bare.init()
    assert made.code == 0, made.err
    return bare


class Here:
    """Runs the program inside the test's own process: quicker, and good for everything but signals and locales."""

    def __init__(self, project: Project, capsys, monkeypatch) -> None:
        self.project, self._capsys, self._monkeypatch = project, capsys, monkeypatch
        monkeypatch.setattr("keepwell.cli.catch_signals", lambda: None)
        monkeypatch.chdir(project.folder)
        for name in list(os.environ):
            if name.startswith("KEEPWELL_"):
                monkeypatch.delenv(name)
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(name, project.environ[name])

    def __call__(self, *args: str) -> Ran:
        from keepwell.cli import main

        self._capsys.readouterr()
        code = main(list(args))
        said = self._capsys.readouterr()
        return Ran(code, said.out, said.err)


@pytest.fixture
def keepwell(bare: Project, capsys, monkeypatch) -> Here:
    """`keepwell("list", "--json")` in the bare project."""
    return Here(bare, capsys, monkeypatch)


@pytest.fixture
def ready(keepwell: Here) -> Here:
    """The same with a policy, a vault and its key."""
    where = ["--store", str(keepwell.project.vault), "--key-file", str(keepwell.project.key)]
    assert keepwell("init", "--yes", *where, "--sqlite", "dev.db", "--files", "uploads").code == 0
    return keepwell
