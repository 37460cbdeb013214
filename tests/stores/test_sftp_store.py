"""What a store over SFTP does beside the contract: whom it trusts, how it gets in, and what it makes of bad days."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import asyncssh
import pytest

from keepwell.core.errors import ObjectMissing, StoreDenied, StoreError, StoreFull, UnsafeStore
from keepwell.stores import open_store
from keepwell.stores.probe import verify_conditional_put
from support.odd_sftp import PASSWORD, odd_server
from support.servers import free_port, unavailable
from support.sftp import make_key, ssh_server

pytestmark = pytest.mark.slow


@pytest.fixture
def opened(sshd):
    """Opens stores in an empty folder of the server, and closes them."""
    folder = sshd.store / secrets.token_hex(8)
    folder.mkdir()
    stores = []

    def open_it(options=None, *, path=folder, **changed):
        stores.append(open_store(sshd.url_of(path), {**(sshd.options if options is None else options), **changed}))
        return stores[-1]

    open_it.folder = folder
    yield open_it
    for store in stores:
        store.close()


@pytest.fixture
def odd(tmp_path):
    with odd_server(tmp_path) as server:
        yield server


@pytest.fixture
def odd_store(odd):
    store = open_store(odd.url, odd.options)
    yield store
    store.close()


def names(store):
    return [info.name for info in store.list()]


# Whom it trusts


def test_a_server_that_is_not_known_is_refused_before_anything_is_sent(sshd, opened, tmp_path):
    (tmp_path / "empty").write_text("")
    before = sshd.log().count("Accepted publickey")
    with pytest.raises(StoreError, match="is not known") as caught:
        opened(known_hosts=str(tmp_path / "empty")).put("one", b"1")
    fingerprint = subprocess.run(
        ["ssh-keygen", "-lf", sshd.home / "host_key.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert fingerprint in caught.value.message
    assert f"ssh-keyscan -p {sshd.port} 127.0.0.1" in caught.value.hint
    assert sshd.log().count("Accepted publickey") == before
    assert os.listdir(opened.folder) == []


def test_a_server_with_another_key_than_the_known_one_is_refused(sshd, opened, tmp_path):
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{sshd.port} {other}")
    with pytest.raises(StoreError, match="another host key"):
        opened(known_hosts=str(tmp_path / "known")).get("one")
    options = {"key_file": sshd.options["key_file"], "host_key": " ".join(other.split()[:2])}
    with pytest.raises(StoreError, match="another host key"):
        opened(options).get("one")


def test_a_host_key_in_the_options_is_enough(sshd, opened):
    key = " ".join((sshd.home / "host_key.pub").read_text().split()[:2])
    store = opened({"key_file": sshd.options["key_file"], "host_key": key})
    store.put("one", b"1")
    assert names(store) == ["one"]


def test_without_options_the_users_own_known_hosts_tell(sshd, opened, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match="is not known"):
        opened({"key_file": sshd.options["key_file"]}).list()
    (tmp_path / ".ssh").mkdir()
    shutil.copy(sshd.options["known_hosts"], tmp_path / ".ssh")
    assert names(opened({"key_file": sshd.options["key_file"]})) == []


def test_known_hosts_that_are_not_there_are_named(opened, tmp_path):
    with pytest.raises(StoreError, match="nowhere, which is not there"):
        opened(known_hosts=str(tmp_path / "nowhere")).list()
    (tmp_path / "nonsense").write_text("@what is this\n")
    with pytest.raises(StoreError, match="cannot be understood"):
        opened(known_hosts=str(tmp_path / "nonsense")).list()


# How it gets in


def test_a_key_that_the_server_does_not_know_is_refused_with_the_way_in(opened, tmp_path):
    with pytest.raises(StoreDenied, match=r"does not let .* in") as caught:
        opened(key_file=str(make_key(tmp_path / "stranger"))).list()
    assert "authorized_keys" in caught.value.hint


def test_a_key_with_a_passphrase_opens_with_it_and_not_without(sshd, opened, tmp_path):
    locked = make_key(tmp_path / "locked", passphrase="open sesame")
    known = sshd.home / "authorized_keys"
    known.write_text(known.read_text() + locked.with_suffix(".pub").read_text())
    assert names(opened(key_file=str(locked), key_passphrase="open sesame")) == []
    for wrong in ({}, {"key_passphrase": "open barley"}):
        with pytest.raises(StoreDenied, match="passphrase is missing or wrong") as caught:
            opened(key_file=str(locked), **wrong).list()
        assert "barley" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(("content", "what"), [(None, "cannot be read"), ("no key", "not a private SSH key")])
def test_a_key_that_is_none_is_named(opened, tmp_path, content, what):
    if content is not None:
        (tmp_path / "key").write_text(content)
    with pytest.raises(StoreDenied, match=f"key of .* {what}|{what}"):
        opened(key_file=str(tmp_path / "key")).list()


def test_the_keys_of_an_agent_are_used_where_none_is_named(sshd, opened, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if socket.exists():
                break
            time.sleep(0.02)
        environ = {**os.environ, "SSH_AUTH_SOCK": str(socket)}
        subprocess.run(["ssh-add", "-q", sshd.options["key_file"]], env=environ, check=True, capture_output=True)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        known = {"known_hosts": sshd.options["known_hosts"]}
        assert names(opened(known)) == []
        monkeypatch.delenv("SSH_AUTH_SOCK")
        with pytest.raises(StoreDenied, match="does not let"):
            opened(known).list()
    finally:
        agent.send_signal(signal.SIGTERM)
        agent.wait()


def test_a_password_opens_and_a_wrong_one_is_not_repeated(odd, odd_store):
    odd_store.put("one", b"1")
    assert odd_store.get("one") == b"1"
    assert PASSWORD not in repr(odd_store) + repr(vars(odd_store))
    store = open_store(odd.url, {**odd.options, "password": "hunter2"})
    with pytest.raises(StoreDenied) as caught:
        store.get("one")
    assert "hunter2" not in str(caught.value) + caught.value.hint
    store.close()


def test_a_path_may_begin_in_the_users_home(sshd, tmp_path_factory):
    wrapper = sshd.home / "at-home.sh"
    home = tmp_path_factory.mktemp("home")
    wrapper.write_text(f"#!/bin/sh\ncd {home} && exec /usr/lib/openssh/sftp-server\n")
    wrapper.chmod(0o755)
    with ssh_server(sshd.home / "homely", str(wrapper)) as server:
        user = server.url.partition("@")[0]
        store = open_store(f"{user}@127.0.0.1:{server.port}/~/backups/leads", server.options, create=True)
        store.put("packs/one", b"1")
        assert (home / "backups/leads/packs/one").read_bytes() == b"1"
        store.close()


# What is there and what not


def test_a_missing_folder_is_made_only_when_asked(sshd, opened):
    with pytest.raises(StoreError, match="is not there") as caught:
        opened(path=opened.folder / "new" / "vault").put("one", b"1")
    assert "keepwell init" in caught.value.hint
    assert os.listdir(opened.folder) == []
    (opened.folder / "file").write_text("")
    with pytest.raises(StoreError, match="not a folder"):
        opened(path=opened.folder / "file").list()


def test_a_folder_that_goes_away_is_no_empty_store(opened):
    store = opened()
    store.put("one", b"1")
    shutil.rmtree(opened.folder)
    for call in (store.list, lambda: store.get("one"), lambda: store.delete("one"), lambda: store.put("two", b"2")):
        with pytest.raises(StoreError, match="is not there") as caught:
            call()
        assert not isinstance(caught.value, ObjectMissing)


def test_files_and_folders_are_the_users_alone(opened):
    store = opened()
    store.put("packs/ab/one", b"1")
    modes = {path.name: path.stat().st_mode & 0o777 for path in opened.folder.rglob("*")}
    assert modes == {".tmp": 0o700, "packs": 0o700, "ab": 0o700, "one": 0o600}


def test_a_symbolic_link_in_the_store_is_refused(opened):
    store = opened()
    store.put("packs/one", b"1")
    (opened.folder / "packs" / "two").symlink_to("/etc/passwd")
    with pytest.raises(StoreError, match=r"packs/two .*symbolic link"):
        store.list()
    with pytest.raises(StoreError, match="symbolic link"):
        store.head("packs/two")


def test_an_object_in_the_way_of_a_folder_is_named(opened):
    store = opened()
    store.put("packs", b"1")
    with pytest.raises(StoreError, match=r"packs in .* is an object"):
        store.put("packs/one", b"1")


def test_deleting_leaves_no_empty_folders(opened):
    store = opened()
    store.put("packs/ab/one", b"1")
    store.put("packs/cd/two", b"2")
    store.delete("packs/ab/one")
    assert sorted(os.listdir(opened.folder / "packs")) == ["cd"]
    store.delete("packs/cd/two")
    assert os.listdir(opened.folder) == [".tmp"]


# Bad days


def test_a_broken_connection_is_made_anew(sshd, opened):
    store = opened()
    store.put("one", b"1")
    assert sshd.cut() >= 1
    assert store.get("one") == b"1"
    assert sshd.cut() >= 1
    store.put("two", b"2")
    store.flush()
    assert names(store) == ["one", "two"]


def test_connections_that_break_all_the_time_lose_nothing(sshd, opened):
    store = opened(retries="50", retry_timeout="120")
    contents = {f"packs/{number % 3}/{number}": secrets.token_bytes(1 << 20) for number in range(30)}
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(store.put, name, content) for name, content in contents.items()]
        cuts = 0
        for future in running[::3]:
            future.result()
            cuts += sshd.cut()
        for future in running:
            future.result()
    store.flush()
    assert cuts
    assert {name: store.get(name) for name in names(store)} == contents


def test_an_answer_that_was_lost_does_not_make_a_put_fail(odd, odd_store):
    odd.loses = ["link", "open"]
    odd_store.put("packs/one", b"1")
    assert not odd.loses
    assert odd.logins >= 2
    assert names(odd_store) == ["packs/one"]


def test_a_server_without_hard_links_is_refused(odd, odd_store):
    odd.lacks = {"link"}
    with pytest.raises(UnsafeStore, match="without overwriting"):
        odd_store.put("one", b"1")
    assert names(odd_store) == []
    assert os.listdir(odd.root / "vault" / ".tmp") == []
    odd.lacks, odd.refuses = set(), {"link": asyncssh.SFTPFailure}
    with pytest.raises(UnsafeStore, match="hard link failed"):
        verify_conditional_put(odd_store)


def test_a_server_that_cannot_make_data_durable_is_refused_unless_that_is_accepted(odd, odd_store):
    odd.lacks = {"fsync"}
    with pytest.raises(UnsafeStore, match="power fails") as caught:
        odd_store.put("one", b"1")
    assert "fsync = false" in caught.value.hint
    assert names(odd_store) == []
    careless = open_store(odd.url, {**odd.options, "fsync": "false"})
    careless.put("one", b"1")
    careless.flush()
    assert careless.get("one") == b"1"
    careless.close()


def test_a_disk_that_failed_to_take_data_is_not_trusted_again(odd, odd_store):
    odd.refuses = {"fsync": asyncssh.SFTPFailure}
    with pytest.raises(StoreError):
        odd_store.put("one", b"1")
    odd.refuses = {}
    with pytest.raises(StoreError, match="lost data in an earlier write"):
        odd_store.flush()


@pytest.mark.parametrize(
    ("call", "done"),
    [
        ("write", lambda store: store.put("one", b"1")),
        ("link", lambda store: store.put("one", b"1")),
        ("open", lambda store: store.get("there")),
        ("remove", lambda store: store.delete("there")),
        ("scandir", lambda store: store.list()),
    ],
)
def test_a_missing_right_is_named(odd, odd_store, call, done):
    odd_store.put("there", b"1")
    odd.refuses = {call: asyncssh.SFTPPermissionDenied}
    with pytest.raises(StoreDenied) as caught:
        done(odd_store)
    assert odd_store.url in caught.value.message
    assert "right" in caught.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_full_disk_is_told_and_the_store_stays_whole(opened):
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", opened.folder], check=False, capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        store = opened()
        store.put("one", b"1" * 500_000)
        with pytest.raises(StoreFull, match="no space left"):
            store.put("two", b"2" * 800_000)
        store.put("three", b"3" * 100_000)
        assert names(store) == ["one", "three"]
        store.close()
    finally:
        subprocess.run(["umount", "-l", opened.folder], check=True)


def test_what_a_dead_writer_left_is_cleared_a_day_later(opened):
    scratch = opened.folder / ".tmp"
    scratch.mkdir()
    for name, hours in (("old", 25), ("young", 23)):
        (scratch / name).write_bytes(b"half")
        then = time.time() - hours * 3600
        os.utime(scratch / name, (then, then))
    store = opened()
    store.put("one", b"1")
    assert os.listdir(scratch) == ["young"]
    assert names(store) == ["one"]


def test_a_writer_killed_at_any_moment_leaves_whole_objects_or_none(sshd, opened):
    """Each object tells its own content: 256 KiB of its number."""
    code = (
        "import sys\nfrom keepwell.stores import open_store\nstore = open_store(sys.argv[1], eval(sys.argv[2]))\n"
        "for number in range(10000):\n    store.put(f'packs/{sys.argv[3]}/{number}', bytes([number % 251]) * 262144)\n"
        "    print(number, flush=True)\n"
    )
    for round_ in range(4):
        command = [sys.executable, "-c", code, sshd.url_of(opened.folder), repr(sshd.options), str(round_)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            for line in writer.stdout:
                if int(line) == 3 * round_ + 2:
                    break
            writer.kill()
    store = opened()
    found = names(store)
    assert len(found) >= 3 + 6 + 9 + 12
    for name in found:
        assert store.get(name) == bytes([int(name.rpartition("/")[2]) % 251]) * 262144


def test_a_server_that_is_not_there_is_named_soon(sshd):
    store = open_store(f"sftp://me@127.0.0.1:{free_port()}/x", {**sshd.options, "retry_timeout": "0.5"})
    with pytest.raises(StoreError, match="cannot be reached"):
        store.list()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        store.list()
    store = open_store("sftp://me@no-such-host.invalid/x", {**sshd.options, "retry_timeout": "0.5"})
    with pytest.raises(StoreError, match=r"no host no-such-host\.invalid|cannot be reached"):
        store.list()
    store.close()


def test_a_server_that_says_nothing_is_given_up(sshd):
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        options = {**sshd.options, "connect_timeout": "0.5", "timeout": "0.5", "retries": "0"}
        store = open_store(f"sftp://me@127.0.0.1:{silent.getsockname()[1]}/x", options)
        with pytest.raises(StoreError, match=r"did not answer|cannot be reached"):
            store.list()
        store.close()


# Durability


def test_the_server_really_writes_content_before_name_and_folders_at_the_flush(tmp_path):
    """What a power cut would show, read off the system calls of Debian's sftp-server."""
    if shutil.which("strace") is None:
        unavailable("no strace: run tests/setup.sh")
    trace = tmp_path / "trace"
    calls = "openat,pwrite64,write,lseek,fsync,linkat,link,close,unlink,mkdir"
    sftp = f"{shutil.which('strace')} -f -y -e trace={calls} -o {trace} /usr/lib/openssh/sftp-server"
    with ssh_server(tmp_path / "server", sftp) as server:
        store = open_store(server.url, server.options)
        store.put("packs/ab/one", b"1" * 1000)
        store.flush()
        store.close()
        lines = trace.read_text().splitlines()
    root = str(server.store)

    def at(*words):
        found = [number for number, line in enumerate(lines) if all(word in line for word in words)]
        assert found, (words, lines)
        return found[-1]

    written = at("fsync(", f"<{root}/.tmp/")
    linked = at("link", "/packs/ab/one")
    assert written < linked
    # Deep before shallow, and after the name was given.
    assert linked < at("fsync(", f"<{root}/packs/ab>") < at("fsync(", f"<{root}/packs>") < at("fsync(", f"<{root}>")
