"""Folders: everything about a tree comes back, nothing is followed, left out or overwritten in silence."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwell.core.clock import UTC, FakeClock
from keepwell.core.errors import Damaged, Interrupted, SourceError, TargetNotEmpty, UsageError
from keepwell.core.streams import Context, Discard, Finding, MemoryStreams
from keepwell.sources import files
from keepwell.sources.base import RestoreRequest
from keepwell.sources.files import attributes, entries, spec

EVERYTHING = RestoreRequest()
ODD = b"caf\xe9 \xff.txt"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
not_xattrs = pytest.mark.skipif(not attributes.holds_xattrs(Path(tempfile.gettempdir())), reason="no attributes here")


class Remembering(MemoryStreams):
    """A sink with ids, as the vault has; `seen` outlives a backup, `on_write` is called before each write."""

    def __init__(self, seen: dict[bytes, bytes] | None = None, on_write: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.seen = {} if seen is None else seen
        self.on_write = on_write

    def stream(self, name: str, cut: str = "content"):
        inner, owner = super().stream(name), self

        class Writer:
            begun = 0
            closed = False
            position = property(lambda _: inner.position)

            def write(self, data) -> None:
                owner.on_write()
                inner.write(data)

            def boundary(self) -> None:
                self.begun = inner.position

            def take_ids(self) -> bytes:
                data = bytes(owner.data[name][self.begun :])
                owner.seen[hashlib.sha256(data).digest()[:16]] = data
                return hashlib.sha256(data).digest()[:16]

            def reuse(self, ids: bytes, size: int) -> bool:
                if ids not in owner.seen:
                    return False
                assert len(owner.seen[ids]) == size
                inner.write(owner.seen[ids])
                return True

            def close(self) -> None:
                pass

        return Writer()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "uploads"
    (root / "a" / "deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "a.txt").write_bytes(b"beside the folder a, sorts between a and a/")
    (root / "a" / "run.sh").write_bytes(b"#!/bin/sh\n")
    (root / "a" / "run.sh").chmod(0o4755)
    (root / "a" / "deep" / "large.bin").write_bytes(random.Random(1).randbytes(3_000_000))
    (root / "a" / "none").touch()
    (root / os.fsdecode(ODD)).write_bytes(b"odd name")
    (root / "Ünïcode \n name").write_bytes(b"valid name")
    os.link(root / "a.txt", root / "z-link")
    (root / "sym").symlink_to("a/run.sh")
    (root / "sym-folder").symlink_to("/etc")
    (root / "dangling").symlink_to(os.fsdecode(ODD + b"/nowhere"))
    (root / "locked").mkdir()
    (root / "locked" / "inside").write_bytes(b"x")
    os.utime(root / "a.txt", ns=(1_000_000_000_123_456_789, 1_000_000_000_123_456_789))
    os.utime(root / "sym", ns=(5, 987_654_321), follow_symlinks=False)
    (root / "locked").chmod(0o555)
    os.utime(root / "a", ns=(7, 1_234_567_890_000_000_001))
    return root


def take(root: Path, context: Context | None = None, **options) -> tuple[dict, MemoryStreams]:
    streams = MemoryStreams()
    return files.capture(files.Spec(root, **options), streams, context or Context()), streams


def again(place: Path) -> dict:
    return files.capture(files.respec(files.Target(place), {}, files.Spec(place)), Discard(), Context())


def back(facts: dict, streams: MemoryStreams, place: Path, *paths: str):
    return files.restore(facts, streams, files.Target(place), RestoreRequest(paths=paths), Context())


def lines(streams: MemoryStreams) -> list[dict]:
    return [json.loads(line) for line in bytes(streams.data["tree"]).splitlines()]


def rewritten(streams: MemoryStreams, change: Callable[[list[dict]], None]) -> MemoryStreams:
    found = lines(streams)
    change(found)
    streams.data["tree"] = bytearray(b"".join(json.dumps(line).encode() + b"\n" for line in found))
    return streams


def test_facts_count_what_is_there(tree: Path) -> None:
    facts, streams = take(tree)
    assert facts["type"] == "files"
    assert facts["streams"] == ["tree", "content"] == streams.names()
    assert (facts["files"], facts["folders"], facts["links"], facts["hardlinks"]) == (8, 4, 3, 1)
    assert facts["bytes"] == sum(len(data) for data in streams.data.values()) - len(streams.data["tree"])
    assert facts["warnings"] == []
    json.dumps(facts)


def test_everything_about_a_tree_comes_back(tree: Path, tmp_path: Path) -> None:
    os.utime(tree / "a" / "none", ns=(0, -1_500_000_001))  # before 1970
    facts, streams = take(tree)
    place = tmp_path / "new" / "place"
    report = back(facts, streams, place)
    assert report.files == 8
    assert report.warnings == []
    for path in (Path(), *(found.relative_to(tree) for found in tree.rglob("*"))):
        was, now = (tree / path).lstat(), (place / path).lstat()
        assert (was.st_mode, was.st_mtime_ns, was.st_uid) == (now.st_mode, now.st_mtime_ns, now.st_uid), path
        if (tree / path).is_symlink():
            assert os.readlink(tree / path) == os.readlink(place / path)
        elif (tree / path).is_file():
            assert (tree / path).read_bytes() == (place / path).read_bytes()
    assert (place / "a.txt").stat().st_ino == (place / "z-link").stat().st_ino
    assert ODD in os.listdir(os.fsencode(place))
    assert files.compare(facts, again(place)) == []
    assert files.examine(files.Target(place), facts, Context()) == []


def test_the_tree_is_in_the_documented_order_and_names_are_readable(tree: Path) -> None:
    _, streams = take(tree)
    names = [line.get("path") for line in lines(streams)]
    assert names[:7] == [".", "a", "a/deep", "a/deep/large.bin", "a/none", "a/run.sh", "a.txt"]
    assert names[-1] == "Ünïcode \n name"
    assert [line["path64"] for line in lines(streams) if "path64" in line] == ["Y2Fm6SD/LnR4dA=="]


def test_a_file_that_is_a_link_to_outside_is_not_followed(tree: Path) -> None:
    _, streams = take(tree)
    assert {line["path"]: line["target"] for line in lines(streams) if line.get("path") == "sym-folder"} == {
        "sym-folder": "/etc"
    }
    assert not [line for line in lines(streams) if line.get("path", "").startswith("sym-folder/")]


def test_the_root_itself_may_be_a_link(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(tree)
    assert take(tmp_path / "current")[0]["digest"] == take(tree)[0]["digest"]


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no folder"):
        take(tmp_path / "gone")
    (tmp_path / "file").touch()
    with pytest.raises(SourceError, match="is not a folder"):
        take(tmp_path / "file")


def test_an_empty_folder_is_captured_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    facts, streams = take(tmp_path / "mount")
    assert facts["files"] == 0
    assert facts["warnings"] == ["the folder has no files; is the disk mounted?"]
    back(facts, streams, tmp_path / "new")
    assert files.compare(facts, again(tmp_path / "new")) == []


@contextlib.contextmanager
def nobody() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    os.seteuid(65534)
    try:
        yield folder
    finally:
        os.seteuid(0)
        shutil.rmtree(folder)


@as_root
def test_files_that_cannot_be_read_fail_the_backup_and_are_all_named() -> None:
    with nobody() as folder:
        (folder / "root").mkdir()
        (folder / "root" / "one").write_bytes(b"1")
        (folder / "root" / "two").write_bytes(b"2")
        (folder / "root" / "shut").mkdir()
        (folder / "root" / "good").write_bytes(b"3")
        for name in ("one", "two", "shut"):
            (folder / "root" / name).chmod(0)
        with pytest.raises(SourceError, match="cannot read 3 of") as caught:
            take(folder / "root")
        assert all(name in caught.value.message for name in ("'one'", "'two'", "'shut'"))
        assert "good" not in caught.value.message
        assert take(folder / "root", exclude=("one", "two", "shut"))[0]["files"] == 1


@as_root
def test_a_restore_and_proof_work_without_root(tree: Path) -> None:
    facts, streams = take(tree)
    with nobody() as folder, files.sandbox(facts, Context(work=folder)) as target:
        report = files.restore(facts, streams, target, EVERYTHING, Context())
        assert report.warnings == []
        assert files.compare(facts, again(target.path)) == []
        assert files.compare(facts, again(target.path), streams=streams, target=target) == []


@as_root
def test_owners_come_back_and_count_when_run_as_root(tree: Path, tmp_path: Path) -> None:
    os.chown(tree / "a.txt", 12345, 54321)
    os.chown(tree / "sym", 12345, 0, follow_symlinks=False)
    facts, streams = take(tree)
    back(facts, streams, tmp_path / "new")
    assert (tmp_path / "new" / "a.txt").stat().st_uid == 12345
    assert (tmp_path / "new" / "sym").lstat().st_uid == 12345
    assert files.compare(facts, again(tmp_path / "new")) == []
    os.chown(tmp_path / "new" / "a.txt", 12346, 54321)
    now = again(tmp_path / "new")
    assert [finding.problem for finding in files.compare(facts, now)] == ["owners are not those that were backed up"]
    named = files.compare(facts, now, streams=streams, target=files.Target(tmp_path / "new"))
    assert Finding("a.txt", "belongs to 12346:54321; it was 12345:54321") in named


@not_xattrs
def test_extended_attributes_come_back(tree: Path, tmp_path: Path) -> None:
    os.setxattr(tree / "a.txt", "user.origin", b"\x00mail\xff")
    os.setxattr(tree / "empty", "user.label", b"inbox")
    facts, streams = take(tree)
    back(facts, streams, tmp_path / "new")
    assert os.getxattr(tmp_path / "new" / "a.txt", "user.origin") == b"\x00mail\xff"
    assert os.getxattr(tmp_path / "new" / "empty", "user.label") == b"inbox"
    os.removexattr(tmp_path / "new" / "empty", "user.label")
    now = again(tmp_path / "new")
    assert len(files.compare(facts, now)) == 1
    named = files.compare(facts, now, streams=streams, target=files.Target(tmp_path / "new"))
    assert named == [Finding("empty", "has other extended attributes than were backed up")]


def test_special_files_are_left_out_with_a_warning(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with contextlib.chdir(tree), socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        facts, streams = take(tree)
    assert facts["warnings"] == ["pipe is a named pipe and is not kept", "sock is a socket and is not kept"]
    assert "pipe" not in [line.get("path") for line in lines(streams)]


def test_a_file_that_changes_once_while_it_is_read_is_read_again(tree: Path, tmp_path: Path) -> None:
    large = tree / "a" / "deep" / "large.bin"
    state = {"changed": False}

    def change() -> None:
        if not state["changed"]:
            state["changed"] = True
            large.write_bytes(b"y" * 2_500_000)

    streams = Remembering(on_write=change)
    facts = files.capture(files.Spec(tree), streams, Context())
    assert facts["warnings"] == []
    back(facts, streams, tmp_path / "new")
    assert (tmp_path / "new" / "a" / "deep" / "large.bin").read_bytes() == b"y" * 2_500_000


def test_a_file_that_never_rests_is_kept_with_a_warning_and_restorable(tree: Path, tmp_path: Path) -> None:
    large = tree / "a" / "deep" / "large.bin"

    def change() -> None:
        with large.open("ab") as file:
            file.write(b"more")

    streams = Remembering(on_write=change)
    facts = files.capture(files.Spec(tree), streams, Context(cache=tmp_path / "cache", clock=later()))
    assert "a/deep/large.bin was being written" in facts["warnings"][0]
    back(facts, streams, tmp_path / "new")
    assert large.read_bytes().startswith((tmp_path / "new" / "a" / "deep" / "large.bin").read_bytes())


def test_a_file_that_vanishes_meanwhile_is_left_out(tree: Path) -> None:
    notes = []

    context = Context()
    context.progress.note = notes.append
    gone = tree / "z-link"
    os.unlink(gone)
    gone.write_bytes(b"soon gone")
    streams = Remembering(on_write=lambda: gone.unlink(missing_ok=True))
    facts = files.capture(files.Spec(tree), streams, context)
    assert facts["files"] == 7
    assert facts["warnings"] == []
    assert notes == ["z-link was removed during the backup and is not in it"]


def test_a_root_that_is_taken_away_meanwhile_is_an_error(tree: Path) -> None:
    state = {"moved": False}

    def unmount() -> None:
        if not state["moved"]:
            state["moved"] = True
            tree.rename(tree.with_name("elsewhere"))
            tree.mkdir()

    with pytest.raises(SourceError, match="removed, replaced or unmounted"):
        files.capture(files.Spec(tree), Remembering(on_write=unmount), Context())


def test_a_cancelled_capture_and_restore_stop(tree: Path, tmp_path: Path) -> None:
    cancelled = Context(cancelled=lambda: True)
    with pytest.raises(Interrupted):
        take(tree, cancelled)
    facts, streams = take(tree)
    with pytest.raises(Interrupted):
        files.restore(facts, streams, files.Target(tmp_path / "new"), EVERYTHING, cancelled)


@pytest.mark.parametrize(
    ("pattern", "out", "kept"),
    [
        ("*.tmp", ["x.tmp", "a/b/x.tmp"], ["x.tmpl", "tmp"]),
        ("cache", ["cache", "a/cache"], ["cached", "mycache"]),
        ("cache/", ["a/cache/"], ["a/cache"]),
        ("/logs/*.log", ["logs/x.log"], ["logs/a/x.log", "b/logs/x.log"]),
        ("logs/**", ["logs/x", "logs/a/b"], ["logs", "xlogs/a"]),
        ("**/node_modules", ["node_modules", "a/b/node_modules"], ["a/node_modulesx"]),
        ("file?.[ab]", ["file1.a", "x/file2.b"], ["file.a", "file1.c", "file/.a"]),
        ("[!a]x", ["bx"], ["ax", "/x"]),
        ("a+b(1)", ["a+b(1)"], ["aab1"]),
    ],
)
def test_patterns_leave_out_what_they_say(pattern: str, out: list[str], kept: list[str]) -> None:
    excluded = spec.excluder((pattern,))
    assert all(excluded(path.rstrip("/"), path.endswith("/")) for path in out)
    assert not any(excluded(path.rstrip("/"), path.endswith("/")) for path in kept)


def test_what_is_excluded_is_not_in_the_backup_and_the_proof_holds(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree, exclude=("deep", "*.txt"))
    assert facts["excluded"] == 3
    back(facts, streams, tmp_path / "new")
    assert not (tmp_path / "new" / "a" / "deep").exists()
    assert files.compare(facts, again(tmp_path / "new")) == []


def later(**by: float) -> FakeClock:
    """A clock that shows a moment when the files of the test are old enough to be trusted."""
    return FakeClock(dt.datetime.now(UTC) + dt.timedelta(**(by or {"hours": 1})))


def test_unchanged_files_are_not_read_again(tree: Path, tmp_path: Path) -> None:
    context = Context(cache=tmp_path / "cache", clock=later())
    first = Remembering()
    facts = files.capture(files.Spec(tree), first, context)
    assert facts["reused"] == 0
    (tree / "a" / "run.sh").write_bytes(b"#!/bin/bash\n")
    second = Remembering(first.seen)
    reads = []
    with pytest.MonkeyPatch.context() as patch:
        read = os.readv
        patch.setattr(os, "readv", lambda *args: reads.append(1) or read(*args))
        facts = files.capture(files.Spec(tree), second, context)
    assert facts["reused"] == facts["bytes"] - len(b"#!/bin/bash\n")
    assert len(reads) == 1
    back(facts, second, tmp_path / "new")
    assert files.compare(facts, again(tmp_path / "new")) == []
    third = files.capture(files.Spec(tree), Remembering(first.seen), context)
    assert third["reused"] == third["bytes"]


def test_a_file_changed_just_before_the_backup_is_read_again_next_time(tree: Path, tmp_path: Path) -> None:
    seen: dict = {}
    context = Context(cache=tmp_path / "cache", clock=later(seconds=1))
    files.capture(files.Spec(tree), Remembering(seen), context)
    assert files.capture(files.Spec(tree), Remembering(seen), context)["reused"] == 0


def test_a_change_that_keeps_size_and_time_is_noticed(tree: Path, tmp_path: Path) -> None:
    seen: dict = {}
    context = Context(cache=tmp_path / "cache", clock=later())
    before = files.capture(files.Spec(tree), Remembering(seen), context)
    was = (tree / "a" / "run.sh").stat()
    (tree / "a" / "run.sh").write_bytes(b"#!/bin/zs\n")
    os.utime(tree / "a" / "run.sh", ns=(was.st_mtime_ns, was.st_mtime_ns))
    after = files.capture(files.Spec(tree), Remembering(seen), context)
    assert after["digest"] != before["digest"]


def test_what_the_vault_no_longer_has_is_read_again(tree: Path, tmp_path: Path) -> None:
    context = Context(cache=tmp_path / "cache", clock=later())
    files.capture(files.Spec(tree), Remembering(), context)
    streams = Remembering()
    facts = files.capture(files.Spec(tree), streams, context)
    assert facts["reused"] == 0
    back(facts, streams, tmp_path / "new")


@pytest.mark.parametrize("damage", ["text", "cut", "zeros", "folder"])
def test_a_damaged_cache_costs_only_time(tree: Path, tmp_path: Path, damage: str) -> None:
    context = Context(cache=tmp_path / "cache", clock=later())
    seen: dict = {}
    before = files.capture(files.Spec(tree), Remembering(seen), context)
    (cache,) = (tmp_path / "cache").iterdir()
    content = cache.read_bytes()
    cache.unlink()
    if damage == "folder":
        cache.mkdir()
    else:
        cache.write_bytes(
            {"text": b"nonsense" * 1000, "cut": content[:5000], "zeros": content[:4096] + bytes(4096)}[damage]
        )
    after = files.capture(files.Spec(tree), Remembering(seen), context)
    assert after["digest"] == before["digest"]
    assert after["reused"] == 0


@settings(max_examples=60, deadline=None)
@given(at=st.integers(4096, 8191), bit=st.integers(0, 7))
def test_a_flipped_bit_in_the_cache_never_changes_a_backup(at: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        root.mkdir()
        for number in range(5):
            (root / f"f{number}").write_bytes(b"content %d" % number)
        context = Context(cache=Path(name) / "cache", clock=later())
        seen: dict = {}
        before = files.capture(files.Spec(root), Remembering(seen), context)
        (cache,) = (Path(name) / "cache").iterdir()
        content = bytearray(cache.read_bytes())
        content[at] ^= 1 << bit
        cache.write_bytes(content)
        assert files.capture(files.Spec(root), Remembering(seen), context)["digest"] == before["digest"]


def test_a_sink_without_ids_leaves_nothing_to_trust(tree: Path, tmp_path: Path) -> None:
    context = Context(cache=tmp_path / "cache", clock=later())
    take(tree, context)
    assert take(tree, context)[0]["reused"] == 0


def test_an_interrupted_backup_keeps_the_cache_of_the_last_one(tree: Path, tmp_path: Path) -> None:
    seen: dict = {}
    context = Context(cache=tmp_path / "cache", clock=later())
    files.capture(files.Spec(tree), Remembering(seen), context)
    with pytest.raises(Interrupted):
        take(tree, Context(cache=tmp_path / "cache", clock=later(), cancelled=lambda: True))
    assert len(os.listdir(tmp_path / "cache")) == 1
    assert files.capture(files.Spec(tree), Remembering(seen), context)["reused"] > 3_000_000


def test_a_restore_into_a_place_with_something_in_it_is_refused(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").touch()
    (tmp_path / "file").touch()
    (tmp_path / "bare").mkdir()
    for name in ("full", "file"):
        with pytest.raises(TargetNotEmpty):
            back(facts, streams, tmp_path / name)
    assert os.listdir(tmp_path / "full") == ["precious"]
    back(facts, streams, tmp_path / "bare")
    assert files.compare(facts, again(tmp_path / "bare")) == []


def test_one_file_comes_back_where_it_was(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    report = back(facts, streams, tmp_path / "new", "./a/run.sh")
    assert report.files == 1
    assert sorted(str(path.relative_to(tmp_path / "new")) for path in (tmp_path / "new").rglob("*")) == [
        "a",
        "a/run.sh",
    ]
    assert (tmp_path / "new" / "a").stat().st_mtime_ns == 1_234_567_890_000_000_001


def test_one_folder_comes_back_with_everything_in_it_and_reads_nothing_else(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    reads = []
    read = streams.read

    def watched(name: str, start: int = 0, length: int | None = None):
        if name == "content":
            reads.append(length)
        return read(name, start, length)

    streams.read = watched
    report = back(facts, streams, tmp_path / "new", "a/")
    assert report.files == 3
    assert reads == [3_000_010]


def test_a_hard_link_alone_comes_back_as_a_file(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    back(facts, streams, tmp_path / "new", "z-link")
    assert (tmp_path / "new" / "z-link").read_bytes() == (tree / "a.txt").read_bytes()


def test_names_that_are_not_utf8_can_be_asked_for(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    back(facts, streams, tmp_path / "new", os.fsdecode(ODD))
    assert os.listdir(os.fsencode(tmp_path / "new")) == [ODD]


def test_an_unknown_path_is_a_usage_error_with_near_names(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    with pytest.raises(UsageError, match="no 'a/run'") as caught:
        back(facts, streams, tmp_path / "new", "a/run")
    assert "a/run.sh" in caught.value.hint
    with pytest.raises(UsageError, match="leads out"):
        back(facts, streams, tmp_path / "new", "../etc")
    with pytest.raises(UsageError):
        files.restore(facts, streams, files.Target(tmp_path / "new"), RestoreRequest(tables=("t",)), Context())
    assert not (tmp_path / "new").exists()


def test_altered_content_is_an_error_that_names_the_file(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    (line,) = (line for line in lines(streams) if line.get("path") == "a/run.sh")
    streams.data["content"][line["offset"] + 3] ^= 1
    with pytest.raises(Damaged, match=r"a/run\.sh came out of the vault with other bytes"):
        back(facts, streams, tmp_path / "new")
    assert not (tmp_path / "new" / "a" / "run.sh").exists()
    with pytest.raises(Damaged, match=r"a/run\.sh"):
        files.export(facts, streams, tmp_path / "out", Context())
    assert os.listdir(tmp_path / "out") == []


def test_a_shortened_list_of_files_is_an_error(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    whole = bytes(streams.data["tree"])
    for cut in (0, 10, len(whole) - 1, whole.rindex(b"\n", 0, -1) + 1):
        streams.data["tree"] = bytearray(whole[:cut])
        with pytest.raises(Damaged):
            back(facts, streams, tmp_path / f"new{cut}")


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b", "./x", "x\0y", ""])
def test_paths_that_lead_elsewhere_are_refused(tree: Path, tmp_path: Path, path: str) -> None:
    facts, streams = take(tree)
    rewritten(streams, lambda found: found[-1].update(path=path))
    with pytest.raises(Damaged):
        back(facts, streams, tmp_path / "new" / "place")
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_through_a_link_that_the_backup_itself_brings(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "door").mkdir(parents=True)
    (root / "door" / "file").write_bytes(b"planted")
    outside.mkdir()
    facts, streams = take(root)

    def into_a_link(found: list[dict]) -> None:
        found[1] |= {"type": "symlink", "target": str(outside)}

    with pytest.raises(Damaged):
        back(facts, rewritten(streams, into_a_link), tmp_path / "new")
    assert os.listdir(outside) == []


def test_nothing_is_written_through_a_link_planted_in_the_target(tmp_path: Path) -> None:
    root, outside, place = tmp_path / "root", tmp_path / "outside", tmp_path / "new"
    (root / "door").mkdir(parents=True)
    (root / "door" / "file").write_bytes(b"secret")
    (root / "aaa").write_bytes(b"first")
    outside.mkdir()
    facts, streams = take(root)

    class Planting(MemoryStreams):
        """Plants the link between the check that the target is empty and the first folder."""

        def read(self, name: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
            if name == "content" and not (place / "door").is_symlink():
                (place / "door").symlink_to(outside)
            return streams.read(name, start, length)

        def size(self, name: str) -> int:
            return streams.size(name)

    with pytest.raises(TargetNotEmpty):
        files.restore(facts, Planting(), files.Target(place), EVERYTHING, Context())
    assert os.listdir(outside) == []


def test_holes_do_not_fill_the_disk(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        file.write(b"head")
        file.seek(8_000_000)
        file.write(b"tail")
        file.truncate(9_000_000)
    facts, streams = take(root)
    back(facts, streams, tmp_path / "new")
    assert (tmp_path / "new" / "sparse").read_bytes() == (root / "sparse").read_bytes()
    assert (tmp_path / "new" / "sparse").stat().st_blocks * 512 < 1_000_000


def test_lost_changed_and_new_files_are_each_named(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    place = tmp_path / "new"
    back(facts, streams, place)
    (place / "a.txt").write_bytes((tree / "a.txt").read_bytes().upper())
    os.utime(place / "a.txt", ns=(0, 1_000_000_000_123_456_789))
    (place / "a" / "deep" / "large.bin").unlink()
    (place / "stranger").touch()
    (place / "a" / "run.sh").chmod(0o644)
    (place / "sym").unlink()
    (place / "sym").symlink_to("a")
    now = again(place)
    assert files.compare(facts, now)
    found = {f.what: f.problem for f in files.compare(facts, now, streams=streams, target=files.Target(place))}
    assert found["a.txt"] == "the content is not what was backed up"
    assert found["a/deep/large.bin"] == "the file is missing"
    assert found["stranger"] == "the file was not in the backup"
    assert found["a/run.sh"] == "has rights 644; they were 4755"
    assert found["sym"] == "points to a; it was a/run.sh"


def test_a_lost_file_is_found_by_examining(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    back(facts, streams, tmp_path / "new")
    (tmp_path / "new" / "a" / "none").unlink()
    target = files.Target(tmp_path / "new")
    assert files.examine(target, facts, Context()) == [Finding(str(tree), "has 7 files; 8 were backed up")]
    assert files.examine(files.Target(tmp_path / "gone"), facts, Context())


def test_a_changed_time_of_a_folder_is_found(tree: Path, tmp_path: Path) -> None:
    facts, streams = take(tree)
    back(facts, streams, tmp_path / "new")
    os.utime(tmp_path / "new" / "empty", (1, 1))
    named = files.compare(facts, again(tmp_path / "new"), streams=streams, target=files.Target(tmp_path / "new"))
    assert named == [Finding("empty", "has another time than was backed up")]


def test_files_have_no_rows_and_no_sql(tree: Path) -> None:
    facts, _ = take(tree)
    assert files.count_rows(files.Target(tree), facts) == {}
    with pytest.raises(UsageError):
        files.query(files.Target(tree), "SELECT 1")


def test_the_export_is_a_tar_that_plain_tar_unpacks(tree: Path, tmp_path: Path) -> None:
    for long in ("long" * 30, "länge" * 20, os.fsdecode(b"\xff" * 120)):
        (tree / long).mkdir()
        (tree / long / long).write_bytes(b"long")
        (tree / long / "link").symlink_to(long)
    facts, streams = take(tree)
    exported = files.export(facts, streams, tmp_path / "out", Context())
    assert exported.path.name == "files.tar.gz"
    assert exported.sha256 == hashlib.sha256(exported.path.read_bytes()).hexdigest()
    (tmp_path / "new").mkdir()
    done = subprocess.run(["tar", "xpzf", exported.path, "-C", tmp_path / "new"], check=True, capture_output=True)
    assert done.stderr == b""
    now = again(tmp_path / "new")
    assert files.compare(facts, now, streams=streams, target=files.Target(tmp_path / "new")) == []
    second = files.export(facts, streams, tmp_path / "twice", Context())
    assert second.sha256 == exported.sha256
    with pytest.raises(TargetNotEmpty):
        files.export(facts, streams, tmp_path / "out", Context())
    with tarfile.open(exported.path) as archive:
        assert os.fsdecode(ODD) in archive.getnames()


def test_the_sandbox_goes_away_even_with_locked_folders(tree: Path) -> None:
    facts, streams = take(tree)
    with files.sandbox(facts, Context()) as target:
        back(facts, streams, target.path)
    assert not target.path.parent.exists()


NAMES = st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & {0, 47} and name not in (b".", b".."))
ENTRIES = st.builds(
    entries.Entry,
    path=st.lists(NAMES, min_size=1, max_size=4).map(b"/".join),
    type=st.sampled_from([entries.FILE, entries.FOLDER, entries.SYMLINK, entries.HARDLINK]),
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, 2**32),
    gid=st.integers(0, 2**32),
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    user=st.none() | st.text(),
    xattrs=st.lists(st.tuples(st.binary(), st.binary()), max_size=2).map(tuple),
)


@given(entry=ENTRIES, digest=st.binary(min_size=32, max_size=32), target=NAMES, size=st.integers(0, 2**62))
def test_every_entry_survives_its_line(entry: entries.Entry, digest: bytes, target: bytes, size: int) -> None:
    if entry.has_content:
        entry.size, entry.offset, entry.digest = size, size // 2, digest.hex()
    if entry.type in (entries.SYMLINK, entries.HARDLINK):
        entry.target = target
    line = entries.encode(entry)
    assert line.count(b"\n") == 1
    assert entries.decode(line) == entry


@given(line=st.binary() | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.dictionaries(st.sampled_from(
    ["path", "path64", "type", "mode", "uid", "gid", "mtime_ns", "size", "target", "xattrs"]), s)).map(
    lambda found: json.dumps(found).encode()))  # fmt: skip
def test_lines_that_are_not_entries_are_damage_and_nothing_else(line: bytes) -> None:
    with pytest.raises(Damaged):
        entries.decode(line)
