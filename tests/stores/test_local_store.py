"""What only a local store can get wrong: durability, leftovers, links, mounts, full disks."""

import errno
import fcntl
import mmap
import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keepwell.core.errors import ObjectExists, ObjectMissing, StoreDenied, StoreError, StoreFull, UnsafeStore
from keepwell.stores import linking, open_store
from keepwell.stores.local import LocalStore


@pytest.fixture
def root(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(root):
    made = LocalStore(root, create=True)
    yield made
    made.close()


@pytest.fixture
def synced(monkeypatch):
    """Paths in the order in which they were synced."""
    order = []
    real = os.fsync

    def fsync(fd):
        order.append(os.readlink(f"/proc/self/fd/{fd}"))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    return order


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_flush_syncs_every_new_file_and_then_every_folder_up_to_the_top(store, root, synced):
    store.put("packs/ab/one", b"1")
    store.put("packs/ab/two", b"2")
    store.put("index/three", b"3")
    assert synced == []
    store.flush()
    inodes = {"packs/ab/one", "packs/ab/two", "index/three"}
    # A new file was linked into place: its open descriptor still shows the temporary name.
    assert len(synced) == len(inodes) + 4
    assert all("/.tmp/" in path for path in synced[:3])
    folders = [os.path.relpath(path, root) for path in synced[3:]]
    assert set(folders) == {"packs/ab", "packs", "index", "."}
    assert folders.index("packs/ab") < folders.index("packs") < folders.index(".")
    assert folders[-1] == "."


def test_flush_syncs_once_and_not_again(store, synced):
    store.put("one", b"1")
    store.flush()
    del synced[:]
    store.flush()
    assert synced == []


def test_the_new_files_synced_are_the_ones_that_have_the_names(store, root, monkeypatch):
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(os.fstat(fd).st_ino))
    store.put("packs/one", b"1")
    store.put("packs/two", b"2")
    store.flush()
    assert seen[:2] == [(root / "packs" / name).stat().st_ino for name in ("one", "two")]


def test_finding_its_own_content_in_place_makes_that_durable_too(store, root, synced):
    """Whoever put it first may have died before its flush."""
    other = LocalStore(root)
    other.put("packs/one", b"same")
    other.close()
    store.put("packs/one", b"same")
    store.flush()
    assert synced == [str(root / "packs/one"), str(root / "packs"), str(root)]


def test_a_delete_is_durable_after_flush(store, root, synced):
    store.put("packs/one", b"1")
    store.put("packs/two", b"2")
    store.flush()
    del synced[:]
    store.delete("packs/one")
    store.flush()
    assert str(root / "packs") in synced


def test_with_very_many_puts_before_a_flush_all_are_synced_and_few_stay_open(store, monkeypatch):
    seen = set()
    monkeypatch.setattr(os, "fsync", lambda fd: seen.add(os.fstat(fd).st_ino))
    before = len(os.listdir("/proc/self/fd"))
    for number in range(200):
        store.put(f"packs/{number}", str(number).encode())
    assert len(os.listdir("/proc/self/fd")) - before <= 70
    store.flush()
    assert len(os.listdir("/proc/self/fd")) - before <= 5
    assert {os.stat(Path(store._path, "packs", str(number))).st_ino for number in range(200)} <= seen


def test_a_failed_sync_is_an_error_now_and_at_every_later_flush(store, monkeypatch):
    """The kernel forgets a page that it could not write: a second fsync would lie."""
    store.put("packs/one", b"1")

    def fail(fd):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match=r"packs/one.*made durable"):
        store.flush()
    monkeypatch.undo()
    store.put("packs/two", b"2")
    with pytest.raises(StoreError, match="lost data in an earlier write"):
        store.flush()


def test_a_full_disk_is_told_and_leaves_nothing(store, root, monkeypatch):
    def full(fd, data):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreFull, match="packs/one") as caught:
        store.put("packs/one", b"1")
    assert "prune" in caught.value.hint
    monkeypatch.undo()
    assert [path for path in files_below(root) if not path.endswith(".lock")] == []
    store.put("packs/one", b"1")
    assert store.get("packs/one") == b"1"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_file_system_that_is_really_full_is_told_and_the_store_stays_whole(tmp_path):
    folder = tmp_path / "small"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        store = LocalStore(folder)
        store.put("one", b"1" * 500_000)
        with pytest.raises(StoreFull):
            store.put("two", b"2" * 800_000)
        store.put("three", b"3" * 100_000)
        assert [info.name for info in store.list()] == ["one", "three"]
        store.close()
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_missing_right_is_told(store, monkeypatch, number):
    def refuse(*args, **kwargs):
        raise OSError(number, "no")

    monkeypatch.setattr(os, "unlink", refuse)
    store.put("one", b"1")
    with pytest.raises(StoreDenied, match=r"one.*deleted"):
        store.delete("one")


def test_without_hard_links_the_file_is_renamed_to_a_free_name(store, monkeypatch):
    def no_links(*args, **kwargs):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    store.put("packs/one", b"1")
    assert store.get("packs/one") == b"1"
    with pytest.raises(ObjectExists):
        store.put("packs/one", b"2")
    assert store.get("packs/one") == b"1"
    store.flush()


def test_a_file_system_that_can_neither_link_nor_rename_safely_is_refused(store, monkeypatch):
    def no_links(*args, **kwargs):
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    monkeypatch.setattr(linking, "_rename_to_free_name", lambda *args: errno.EINVAL)
    with pytest.raises(UnsafeStore, match="without overwriting"):
        store.put("one", b"1")
    assert list(store.list()) == []


def test_a_missing_root_is_never_made_unasked(root):
    with pytest.raises(StoreError, match="is not there") as caught:
        LocalStore(root)
    assert not isinstance(caught.value, ObjectMissing)
    assert "mount" in caught.value.hint
    assert not root.exists()


def test_create_makes_the_root_private_and_its_name_durable(tmp_path, synced):
    store = LocalStore(tmp_path / "a" / "b", create=True)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert str(tmp_path) in synced
    store.close()
    LocalStore(tmp_path / "a" / "b", create=True).close()


def test_a_root_removed_while_in_use_is_not_a_missing_object(store, root):
    store.put("one", b"1")
    subprocess.run(["rm", "-rf", root], check=True)
    for call in (lambda: store.get("one"), lambda: store.put("two", b"2"), lambda: list(store.list("packs/"))):
        with pytest.raises(StoreError, match="is gone") as caught:
            call()
        assert not isinstance(caught.value, ObjectMissing)


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="not a folder"):
        LocalStore(tmp_path / "file")


def test_files_and_folders_are_private(store, root):
    store.put("packs/ab/one", b"1")
    assert stat.S_IMODE((root / "packs/ab/one").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "packs").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "packs/ab").stat().st_mode) == 0o700


def test_no_link_leads_out_of_the_store(store, root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "packs").symlink_to(outside)
    (root / "direct").symlink_to(outside / "secret")
    for call in (
        lambda: store.get("packs/secret"),
        lambda: store.get("direct"),
        lambda: store.head("direct"),
        lambda: store.put("packs/new", b"1"),
        lambda: store.delete("packs/secret"),
        lambda: list(store.list()),
        lambda: list(store.list("packs/")),
    ):
        with pytest.raises(StoreError, match="symbolic link"):
            call()
    assert files_below(outside) == ["secret"]


def test_a_link_in_the_place_of_an_object_is_not_overwritten(store, root, tmp_path):
    (root / "one").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StoreError):
        store.put("one", b"1")
    assert not (tmp_path / "nowhere").exists()


def test_what_is_neither_file_nor_folder_does_not_hang_the_reader(store, root):
    os.mkfifo(root / "pipe")
    with pytest.raises(StoreError, match="not a regular file"):
        store.get("pipe")


def test_an_object_is_not_a_folder_and_a_folder_not_an_object(store):
    store.put("a/b", b"1")
    with pytest.raises(ObjectMissing):
        store.get("a")
    with pytest.raises(ObjectMissing):
        store.get("a/b/c")
    with pytest.raises(StoreError, match=r"a/b .*is an object"):
        store.put("a/b/c", b"2")
    with pytest.raises(StoreError):
        store.put("a", b"2")
    store.delete("a")
    assert store.get("a/b") == b"1"


def test_what_others_leave_in_the_folder_is_not_listed(store, root):
    store.put("packs/one", b"1")
    for name in (".DS_Store", "packs/.nfs0001", "my notes.txt", "lost+found/inode"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"")
    assert [info.name for info in store.list()] == ["packs/one"]


def test_folders_left_empty_by_deletes_go_away_but_never_the_root(store, root):
    store.put("production/daily/2026-11-22/x/manifest", b"1")
    store.put("production/weekly/y", b"1")
    store.delete("production/daily/2026-11-22/x/manifest")
    assert not (root / "production/daily").exists()
    store.delete("production/weekly/y")
    assert not (root / "production").exists()
    assert root.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from keepwell.stores import local
def die(*args):
    os.kill(os.getpid(), signal.SIGKILL)
local.link_to_free_name = die
store = local.LocalStore(Path(sys.argv[1]))
store.put("packs/one", b"half a backup")
"""


def test_what_a_killed_process_left_is_never_listed_and_cleared_by_the_next_writer(store, root):
    done = subprocess.run([sys.executable, "-c", KILLED, root], check=False)
    assert done.returncode == -9
    assert [path for path in files_below(root / ".tmp") if not path.endswith(".lock")], "it left its temporary file"
    assert list(store.list()) == []
    store.put("packs/two", b"2")
    assert [path for path in files_below(root / ".tmp") if not path.endswith(".lock")] == []
    assert [info.name for info in store.list()] == ["packs/two"]


def test_the_temporary_files_of_a_living_process_are_left_alone(root):
    first, second = LocalStore(root, create=True), LocalStore(root)
    first.put("one", b"1")
    working, name = first._scratch.create()
    second.put("two", b"2")
    os.stat(name, dir_fd=first._scratch.fd)
    os.close(working)
    first.close()
    second.close()
    assert files_below(root / ".tmp") == []
    assert os.listdir(root / ".tmp") == []


def test_a_store_only_read_writes_nothing(root, store):
    other = LocalStore(root)
    list(other.list())
    other.close()
    assert os.listdir(root) == []


def test_a_closed_store_says_so(store):
    store.put("one", b"1")
    store.close()
    store.close()
    for call in (lambda: store.get("one"), lambda: store.put("two", b""), store.flush, lambda: list(store.list())):
        with pytest.raises(StoreError, match="was closed"):
            call()


def test_the_address_survives_odd_characters(tmp_path):
    made = open_store((tmp_path / "50% of #1 ä?").as_uri(), create=True)
    made.put("one", b"1")
    made.close()
    again = open_store(made.url)
    assert again.get("one") == b"1"
    again.close()


@pytest.mark.parametrize("size", [(1 << 20) - 1, 1 << 20, (1 << 20) + 1, (3 << 20) + 4097])
@pytest.mark.parametrize("shift", [0, 1], ids=["as memory pages lie", "between"])
@pytest.mark.parametrize("refusing", ["nothing", "the flag", "the first write", "a later write"])
def test_large_objects_are_whole_whether_or_not_the_file_system_writes_past_its_cache(
    store, root, monkeypatch, size, shift, refusing
):
    real_fcntl, real_write, calls = fcntl.fcntl, os.write, []

    def control(fd, what, *flags):
        if refusing == "the flag" and what == fcntl.F_SETFL and flags[0] & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_fcntl(fd, what, *flags)

    def write(fd, data):
        if real_fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            calls.append(len(data))
            if len(calls) == {"the first write": 1, "a later write": 2}.get(refusing):
                raise OSError(errno.EINVAL, "Invalid argument")
        return real_write(fd, data)

    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "write", write)
    content = memoryview(mmap.mmap(-1, size + shift))[shift:]
    content[:] = random.Random(size).randbytes(size)
    store.put("packs/large", content)
    store.flush()
    assert (root / "packs" / "large").read_bytes() == content
    assert store.get("packs/large") == content


def test_a_disk_that_is_full_is_an_error_past_the_cache_too(store, monkeypatch):
    def write(fd, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(StoreFull):
        store.put("packs/large", bytes(2 << 20))
    assert list(store.list()) == []
