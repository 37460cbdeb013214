"""Real repositories, backed up, restored and compared with git's own eyes."""

import os
import subprocess

import pytest

from keepwell.core.errors import Damaged, SourceError, TargetNotEmpty, UsageError
from keepwell.core.streams import Context, Discard, MemoryStreams
from keepwell.sources import git
from keepwell.sources.base import RestoreRequest
from keepwell.sources.git import bundle

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def run(folder, *arguments, stdin=None, **variables):
    done = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env=ENVIRONMENT | variables,
        input=stdin,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


class Project:
    """A working clone, and a vault in memory."""

    def __init__(self, folder, *init):
        self.folder, self.cache = folder / "project", folder / "cache"
        self.folder.mkdir()
        run(self.folder, "init", "-q", "-b", "main", *init)
        self.pieces = {}
        self.streams = MemoryStreams()

    def commit(self, **files):
        for name, text in (files or {"file": os.urandom(2000).hex()}).items():
            (self.folder / name).write_text(text)
        run(self.folder, "add", "--all")
        run(self.folder, "commit", "-q", "-m", "change")
        return run(self.folder, "rev-parse", "HEAD")

    def backup(self, cache=True):
        self.streams = MemoryStreams()
        self.streams.pieces = self.pieces
        return git.capture(git.Spec(self.folder), self.streams, Context(cache=self.cache if cache else None))

    def restore(self, facts, path, *, bare=True, **request):
        return git.restore(facts, self.streams, git.Target(path, bare), RestoreRequest(**request), Context())


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def seen(folder):
    """All that a clone could ask for: refs with what they are, HEAD, and every object that they lead to."""
    refs = run(folder, "for-each-ref", "--format=%(refname) %(objectname) %(objecttype) %(symref)")
    head = run(folder, "rev-parse", "--symbolic-full-name", "HEAD") + run(folder, "rev-parse", "HEAD")
    objects = sorted(line.split()[0] for line in run(folder, "rev-list", "--objects", "--all", "HEAD").splitlines())
    return refs, head, objects


def test_branches_tags_notes_stashes_and_symbolic_refs_come_back_and_every_object_with_them(project, tmp_path):
    first = project.commit(a="1")
    run(project.folder, "tag", "-a", "v1", "-m", "one")
    run(project.folder, "tag", "tree", f"{first}^{{tree}}")
    run(project.folder, "notes", "add", "-m", "seen", first)
    run(project.folder, "checkout", "-q", "-b", "feature/ä")
    project.commit(b="2")
    run(project.folder, "update-ref", "refs/remotes/origin/main", first)
    run(project.folder, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    run(project.folder, "replace", first, run(project.folder, "rev-parse", "HEAD"))
    (project.folder / "b").write_text("not committed")
    run(project.folder, "stash")
    facts = project.backup()
    assert (facts["refs"], facts["head"], facts["symbolic"]) == (
        9,
        "refs/heads/feature/ä",
        {"refs/remotes/origin/HEAD": "refs/remotes/origin/main"},
    )
    project.restore(facts, tmp_path / "back.git")
    no_replacing = {"GIT_NO_REPLACE_OBJECTS": "1"}
    assert seen(tmp_path / "back.git") == seen(project.folder)
    assert run(tmp_path / "back.git", "rev-list", "--objects", "--all", **no_replacing)
    assert run(tmp_path / "back.git", "config", "--list", "--local").count("remote.") == 0
    assert facts["objects"] == facts["stored"] == len(bundle_objects(tmp_path / "back.git"))


def bundle_objects(folder):
    return run(folder, "cat-file", "--batch-all-objects", "--batch-check").splitlines()


def test_only_new_objects_are_read_and_every_backup_still_stands_alone(project, tmp_path):
    for _ in range(3):
        project.commit()
    before = project.backup()
    project.commit()
    new = os.urandom(30_000).hex()
    project.commit(big=new)
    after = project.backup()
    assert after["reused"] == before["bytes"]
    assert 30_000 < after["bytes"] - before["bytes"] < 60_000
    assert (after["segments"], after["objects"]) == (2, before["objects"] + 6)
    again = project.backup()
    assert (again["reused"], again["bytes"]) == (after["bytes"], after["bytes"])
    project.pieces = {}  # as if every earlier backup were gone, and all with it
    project.restore(again, tmp_path / "back", bare=False)
    assert (tmp_path / "back" / "big").read_text() == new
    assert run(tmp_path / "back", "status", "--porcelain") == ""
    alone = project.backup()
    assert (alone["reused"], alone["segments"], alone["objects"]) == (0, 1, again["objects"])


def test_history_that_was_rewritten_is_counted_out_and_leaves_the_stream_when_it_is_much(project):
    for number in range(6):
        project.commit(**{f"f{number}-{part}": f"{number} {part}" for part in range(5)})
    first = project.backup()
    left = project.commit(mistake="x")
    project.backup()
    run(project.folder, "reset", "-q", "--hard", "HEAD~1")
    project.commit(better="y")
    little = project.backup()
    assert (little["stored"] - little["objects"], little["segments"]) == (3, 3)
    run(project.folder, "branch", "back", left)  # what was counted out is counted in again, and not stored twice
    back = project.backup()
    assert (back["stored"], back["objects"]) == (little["stored"], little["stored"])
    run(project.folder, "branch", "-D", "back")
    run(project.folder, "reset", "-q", "--hard", "HEAD~4")
    much = project.backup()
    assert (much["segments"], much["stored"], much["reused"]) == (1, much["objects"], 0)
    assert much["objects"] < first["objects"]


def test_the_proof_finds_what_is_wrong_with_a_restored_repository(project):
    project.commit(a="1")
    tip = project.commit(a="2")
    facts = project.backup()
    with git.sandbox(facts, Context()) as target:
        project.restore(facts, target.path)
        assert git.examine(target, facts, Context()) == []
        now = git.capture(git.respec(target, facts, git.Spec()), Discard(), Context())
        assert git.compare(facts, now, streams=project.streams, target=target) == []
        run(target.path, "branch", "-f", "main", f"{tip}~1", GIT_DIR=str(target.path))
        now = git.capture(git.respec(target, facts, git.Spec()), Discard(), Context())
        named = git.compare(facts, now, streams=project.streams, target=target)
        assert [(f.what, f.problem.split("; it was ")[1]) for f in named[:1]] == [("refs/heads/main", tip)]
        problems = [finding.problem for finding in git.examine(target, facts, Context())]
        assert problems[0].startswith("its 1 refs are not the 1")
        assert problems[1] == "3 objects can be reached from its refs; 6 were backed up"
        (pack,) = (target.path / "objects" / "pack").glob("*.pack")
        raw = bytearray(pack.read_bytes())
        raw[len(raw) // 2] ^= 1
        pack.chmod(0o600)
        pack.write_bytes(raw)
        assert any("git fsck" in finding.problem for finding in git.examine(target, facts, Context()))


def test_a_bundle_that_lost_a_byte_is_damage_and_leaves_nothing(project, tmp_path):
    project.commit()
    facts = project.backup()
    project.streams.data[bundle.OBJECTS][50] ^= 1
    with pytest.raises(Damaged, match="cannot be cloned"):
        project.restore(facts, tmp_path / "back.git")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "project"]


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_a_repository_without_commits_is_backed_up_as_one(tmp_path, kind):
    project = Project(tmp_path, f"--object-format={kind}")
    facts = project.backup()
    assert (facts["refs"], facts["objects"], facts["head"]) == (0, 0, "refs/heads/main")
    assert facts["warnings"] == ["the repository has no commits"]
    project.restore(facts, tmp_path / "back", bare=False)
    assert run(tmp_path / "back", "symbolic-ref", "HEAD") == "refs/heads/main"
    assert run(tmp_path / "back", "rev-parse", "--show-object-format") == kind
    with pytest.raises(SourceError, match="no empty bundle"):
        git.export(facts, project.streams, tmp_path, Context())
    project.commit(a="1")
    run(project.folder, "checkout", "-q", "--detach")
    facts = project.backup()
    assert facts["head"] is None
    project.restore(facts, tmp_path / "detached.git")
    assert seen(tmp_path / "detached.git") == seen(project.folder)


def test_an_export_is_a_file_that_git_clones(project, tmp_path):
    project.commit(a="1")
    project.backup()
    tip = project.commit(a="2")
    facts = project.backup()
    made = git.export(facts, project.streams, tmp_path / "out", Context())
    assert "records a complete history" in run(project.folder, "bundle", "verify", str(made.path))
    run(tmp_path, "clone", "-q", str(made.path), "cloned")
    assert run(tmp_path / "cloned", "rev-parse", "main") == tip
    assert (tmp_path / "cloned" / "a").read_text() == "2"


def test_what_is_incomplete_or_damaged_is_an_error_and_no_backup(project, tmp_path):
    project.commit(a="1")
    project.commit(a="2")
    for name, options in (("shallow", ["--depth=1"]), ("partial", ["--filter=blob:none", "--no-checkout"])):
        run(project.folder, "config", "uploadpack.allowFilter", "true")
        run(tmp_path, "clone", "-q", *options, f"file://{project.folder}", name)
    with pytest.raises(SourceError, match="is a shallow clone") as shallow:
        git.capture(git.Spec(tmp_path / "shallow"), MemoryStreams(), Context())
    assert "git fetch --unshallow" in shallow.value.hint
    with pytest.raises(SourceError, match="missing blob object") as partial:
        git.capture(git.Spec(tmp_path / "partial"), MemoryStreams(), Context())
    assert "git fsck" in partial.value.hint
    with pytest.raises(SourceError, match="does not exist"):
        git.capture(git.Spec(tmp_path / "nowhere"), MemoryStreams(), Context())
    inside = project.folder / "docs"
    inside.mkdir()
    with pytest.raises(SourceError, match="is not a Git repository"):  # and not the one that it lies in
        git.capture(git.Spec(inside), MemoryStreams(), Context())
    (project.folder / ".git/refs/heads/broken").write_text("")
    with pytest.raises(SourceError, match="refs/heads/broken is broken"):
        project.backup()
    (project.folder / ".git/refs/heads/broken").write_text("1" * 40 + "\n")
    with pytest.raises(SourceError, match=r"missing object|bad object"):
        project.backup()


def test_a_packed_object_that_the_disk_changed_is_found_when_it_is_read(project):
    project.commit(a=os.urandom(5000).hex())
    run(project.folder, "repack", "-adq")
    (pack,) = (project.folder / ".git/objects/pack").glob("*.pack")
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.chmod(0o600)
    pack.write_bytes(raw)
    with pytest.raises(SourceError) as refused:
        project.backup()
    assert "git fsck" in refused.value.hint


def test_nothing_of_the_repository_or_of_the_user_is_executed(project, tmp_path, monkeypatch):
    project.commit(a="1", **{".gitattributes": "* filter=evil"})
    trap = f"touch {tmp_path}/executed"
    hooks = project.folder / ".git" / "hooks"
    for name in ("post-checkout", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman", "post-index-change"):
        (hooks / name).write_text(f"#!/bin/sh\n{trap}\n")
        (hooks / name).chmod(0o755)
    for key in (
        "core.fsmonitor",
        "filter.evil.smudge",
        "filter.evil.clean",
        "core.pager",
        "core.editor",
        "core.sshCommand",
        "core.alternateRefsCommand",
        "uploadpack.packObjectsHook",
        "credential.helper",
        "diff.external",
    ):
        run(project.folder, "config", key, trap)
    run(project.folder, "config", "remote.origin.url", f"ext::{trap}")
    run(project.folder, "config", "remote.origin.promisor", "true")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text((project.folder / ".git/config").read_text())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", trap)
    facts = project.backup()
    project.restore(facts, tmp_path / "back", bare=False)
    with git.sandbox(facts, Context()) as target:
        project.restore(facts, target.path)
        assert git.examine(target, facts, Context()) == []
    assert not (tmp_path / "executed").exists()
    assert (
        sorted(os.listdir(tmp_path / "back" / ".git" / "hooks") if (tmp_path / "back/.git/hooks").exists() else [])
        == []
    )


def test_what_is_not_in_a_repository_is_said_by_count(project):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n"
    project.commit(a=pointer.format("1" * 64))  # by hand, before anybody spoke of LFS
    assert project.backup()["warnings"] == []
    project.commit(**{".gitattributes": "*.bin filter=lfs", "b.bin": pointer.format("2" * 64)})
    project.commit(**{"c.bin": pointer.format("3" * 64), ".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = y\n'})
    for text in ("1", "2"):
        (project.folder / "a").write_text(text)
        run(project.folder, "stash")
    facts = project.backup()
    assert facts["lfs"] == 3
    assert [text.split(":")[0] for text in facts["warnings"]] == [
        "3 files are kept by Git LFS and not in the repository, so not in this backup",
        "of 2 stashes only the newest has a ref; the others are not in this backup",
        "1 submodules are repositories of their own and not in this backup",
    ]


def test_a_linked_worktree_and_a_bare_mirror_give_the_whole_repository(project, tmp_path):
    project.commit(a="1")
    run(project.folder, "worktree", "add", "-q", str(tmp_path / "linked"), "-b", "linked")
    run(tmp_path, "clone", "-q", "--mirror", "--shared", str(project.folder), "mirror.git")
    for path in ("linked", "mirror.git"):
        streams = MemoryStreams()
        facts = git.capture(git.Spec(tmp_path / path), streams, Context())
        assert (facts["refs"], facts["objects"], facts["bare"]) == (2, 3, path == "mirror.git")
        git.restore(facts, streams, git.Target(tmp_path / f"back-{path}"), RestoreRequest(), Context())
        assert seen(tmp_path / f"back-{path}")[2] == seen(project.folder)[2]


def test_nothing_is_overwritten_and_parts_of_a_repository_are_refused(project, tmp_path):
    project.commit(a="1")
    facts = project.backup()
    (tmp_path / "there").mkdir()
    project.restore(facts, tmp_path / "there")  # empty
    with pytest.raises(TargetNotEmpty):
        project.restore(facts, tmp_path / "there")
    with pytest.raises(UsageError, match="as a whole"):
        project.restore(facts, tmp_path / "new", paths=("a",))
