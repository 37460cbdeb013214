"""Projects to run the program in."""

import os
import shutil
from pathlib import Path

import pytest

from support.program import Project, Ran, fill


@pytest.fixture(scope="session")
def first(tmp_path_factory) -> Project:
    """A project with a policy, a vault and its key, to be copied."""
    made = in_folder(tmp_path_factory.mktemp("first"))
    ran = made.init()
    assert ran.code == 0, ran.err
    return made


def in_folder(place: Path, copied: Project | None = None) -> Project:
    folder = place / "project"
    if copied is None:
        folder.mkdir()
        fill(folder)
    else:
        shutil.copytree(copied.folder, folder)
        policy = folder / "keepwell.toml"
        policy.write_text(policy.read_text().replace(str(copied.folder), str(folder)))
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LANG") if name in os.environ}
    return Project(folder, kept | {"XDG_CACHE_HOME": str(place / "cache"), "XDG_CONFIG_HOME": str(place / "config")})


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """Data, and no policy yet."""
    return in_folder(tmp_path)


@pytest.fixture
def project(tmp_path: Path, first: Project) -> Project:
    """With a policy, a vault and its key."""
    return in_folder(tmp_path, first)


class Here:
    """Runs the program inside the test's own process: quicker, and good for everything but signals and locales."""

    def __init__(self, project: Project, capsys, monkeypatch) -> None:
        self.project, self._capsys, self._monkeypatch = project, capsys, monkeypatch
        monkeypatch.setattr("keepwell.cli.program.catch_signals", lambda: None)
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
def ready(project: Project, capsys, monkeypatch) -> Here:
    """The same with a policy, a vault and its key."""
    return Here(project, capsys, monkeypatch)
