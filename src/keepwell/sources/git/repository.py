"""Finding a repository, and reading its objects without its configuration."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context
from keepwell.sources.git.program import Git, GitFailed


@dataclass(frozen=True)
class Repository:
    """`git` runs in the repository itself, for refs only; `reader` in an empty one of ours that sees its objects."""

    git: Git
    reader: Git
    format: str
    bare: bool
    shown: str


def open_repository(path: Path, shown: str, work: Path, context: Context) -> Repository:
    """`path` is a working clone or a bare repository; `work` a folder of our own. Raises SourceError, ProgramMissing.

    A shallow clone is an error: its oldest commits have no parents there, and what is cloned from it is broken.
    """
    git = Git(_git_folder(path), context, shown=shown)
    try:
        common = Path(_text(git, "rev-parse", "--path-format=absolute", "--git-common-dir"))
        git = dataclasses.replace(git, folder=common)
        objects = _text(git, "rev-parse", "--path-format=absolute", "--git-path", "objects")
        object_format = _text(git, "rev-parse", "--show-object-format")
        shallow = _text(git, "rev-parse", "--is-shallow-repository") == "true"
    except GitFailed as error:
        raise SourceError(
            f"{shown} cannot be read as a Git repository: {error.message.rpartition(': ')[2]}", hint=error.hint
        ) from error
    if shallow:
        raise SourceError(
            f"{shown} is a shallow clone: a part of its history is not in it",
            hint="Complete it with git fetch --unshallow, or name the repository that it was cloned from.",
        )
    if "\n" in objects:
        raise SourceError(f"{shown}: git cannot share objects of a path with a line end", hint="Rename the folder.")
    bare = git.run("config", "--bool", "core.bare", fails=True).strip() == b"true"
    reader = empty_repository(work / "reader.git", object_format, context, shown)
    assert reader.folder is not None
    (reader.folder / "objects" / "info").mkdir(exist_ok=True)
    (reader.folder / "objects" / "info" / "alternates").write_text(f"{objects}\n", "utf-8", "surrogateescape")
    return Repository(git, reader, object_format, bare, shown)


def empty_repository(path: Path, object_format: str, context: Context, shown: str) -> Git:
    """A new bare one."""
    Git(None, context, shown=shown).run("init", "-q", "--bare", f"--object-format={object_format}", "--", str(path))
    return Git(path, context, shown=shown)


def _git_folder(path: Path) -> Path:
    """Never one further up: that would be another repository than the policy names."""
    inner = path / ".git"
    try:
        if inner.is_file():  # a linked worktree, or a submodule
            said = inner.read_text("utf-8", "surrogateescape").strip()
            if said.startswith("gitdir: "):
                return (path / said.removeprefix("gitdir: ")).resolve()
        for folder in (inner, path):
            if (folder / "HEAD").exists() and (folder / "objects").exists():
                return folder.resolve()
        why = "is not a Git repository" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
    raise SourceError(
        f"{path} {why}", hint="Name the folder that has .git in it, or a bare repository, and see that it can be read."
    )


def _text(git: Git, *arguments: str) -> str:
    return git.run(*arguments).decode("utf-8", "surrogateescape").rstrip("\n")
