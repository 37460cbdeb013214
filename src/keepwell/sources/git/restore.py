"""Getting a repository back: a mirror that others clone from, or a working clone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from keepwell.core.errors import Damaged, SourceError, TargetNotEmpty, UsageError
from keepwell.core.streams import Context, Facts, Streams
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.git import bundle, refs
from keepwell.sources.git.program import Git, GitFailed
from keepwell.sources.git.refs import Refs
from keepwell.sources.git.repository import empty_repository
from keepwell.sources.git.spec import Target


def restore(facts: Facts, streams: Streams, target: Target, request: RestoreRequest, context: Context) -> RestoreReport:
    """Writes the bundle beside the target, clones it, and compares all refs. The target is there whole or not at all.

    For as long as that takes, it needs twice the space. Raises TargetNotEmpty, UsageError, Damaged, SourceError,
    ProgramMissing.
    """
    if request.tables or request.sql or request.paths:
        raise UsageError(
            "a repository is restored as a whole",
            hint="Restore it with --to, and take files out of it with git: git show REVISION:PATH.",
        )
    started = context.clock.monotonic()
    _refuse_taken(target.path)
    report = RestoreReport()
    shown = str(target.path)
    try:
        target.path.parent.mkdir(parents=True, exist_ok=True)
        with WorkFolder("git", target.path.parent) as work:
            made = work / "made"
            inner = made if target.bare else made / ".git"
            head = bundle.read_head(streams)
            then = refs.of_facts(facts, head.by_name)
            if then.tips:
                _clone(streams, head, inner, facts, context, shown)
            else:
                empty_repository(inner, head.format, context, shown)
            git = Git(inner, context, shown=shown)
            _point(git, then, head.at)
            _require_same(git, then, context)
            if not target.bare:
                _check_out(git, made, then)
            _take_place(made, target.path)
    except OSError as error:
        raise SourceError(
            f"cannot write {target.path}: {error.strerror}", hint="Check the rights and the free space there."
        ) from error
    report.bytes = facts["bytes"]
    report.seconds["restore"] = context.clock.monotonic() - started
    return report


def _clone(streams: Streams, head: bundle.Head, inner: Path, facts: Facts, context: Context, shown: str) -> None:
    file = inner.parent / ".repository.bundle" if inner.name == ".git" else inner.with_name("repository.bundle")
    file.parent.mkdir(exist_ok=True)
    task = f"{Path(facts['root']).name}: objects"
    context.progress.begin(task, facts["bytes"])
    with file.open("xb") as out:
        for block in bundle.blocks(streams, head):
            out.write(block)
            context.progress.advance(task, len(block))
    context.progress.end(task)
    git = Git(None, context, {"protocol.file.allow": "always"}, shown=shown)
    try:
        git.run("clone", "-q", "--mirror", "--template=", "--", str(file), str(inner))
    except GitFailed as error:
        if "No space left" in error.said:
            raise
        raise Damaged(
            f"what came out of the vault cannot be cloned: {error.message}",
            hint="Run `keepwell check`, and restore an older backup or a copy.",
        ) from error
    file.unlink()
    # It names a file that is not there any more.
    dataclasses.replace(git, folder=inner).run("config", "--remove-section", "remote.origin")


def _point(git: Git, then: Refs, at: str) -> None:
    for name, target in then.symbolic.items():
        git.run("symbolic-ref", name, target)
    if then.head:
        git.run("symbolic-ref", "HEAD", then.head)
    else:
        git.run("update-ref", "--no-deref", "HEAD", at)


def _require_same(git: Git, then: Refs, context: Context) -> None:
    if differences := refs.read(git, context).in_words(then):
        name, how = differences[0]
        raise Damaged(
            f"{len(differences)} refs did not come back as they were backed up; {name} {how}",
            hint="Run `keepwell check`, and restore an older backup or a copy.",
        )


def _check_out(git: Git, made: Path, then: Refs) -> None:
    git.run("config", "core.bare", "false")
    if then.at:
        dataclasses.replace(git, variables={"GIT_WORK_TREE": str(made)}).run("read-tree", "-u", "--reset", "HEAD")


def _refuse_taken(path: Path) -> None:
    try:
        empty = not path.is_symlink() and path.is_dir() and not any(path.iterdir())
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}", hint="Check your rights.") from error
    if not empty and (path.exists() or path.is_symlink()):
        raise TargetNotEmpty(
            f"{path} is not empty" if path.is_dir() else f"{path} exists already",
            hint="Nothing was overwritten. Name a folder that does not exist yet.",
        )


def _take_place(made: Path, path: Path) -> None:
    try:
        made.rename(path)  # over an empty folder too, and over nothing else
    except OSError as error:
        _refuse_taken(path)
        raise error from None
