"""Frames opened by processes beside the reader: the same bytes, the same errors, and nothing lost where the processes are."""

import os
import subprocess
import threading

import psutil
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from vaultkit import HOUR, START, back_up, begin, commit, new_store, noise, open_vault

from keepwell.core.errors import Damaged
from keepwell.vault import openers, reader
from keepwell.vault.frame import compress, seal_frame
from keepwell.vault.openers import Openers
from keepwell.vault.piece import PAGE, check_of, identify

VAULT, BIRTH, KEY, PIECES = b"v" * 16, b"b" * 16, b"k" * 32, b"p" * 32


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Also small streams are read by processes."""
    monkeypatch.setattr(reader, "_WORTH_PROCESSES", 0)


def sealed(pages, number=3):
    payload = compress([len(page) for page in pages], pages, 1)
    room = bytearray(payload.stored)
    seal_frame(AESGCM(KEY), VAULT, BIRTH, number, payload, memoryview(room))
    return memoryview(bytes(room))


def run_of(pages, first, count):
    part = pages[first : first + count]
    ids = identify(PIECES, memoryview(b"".join(part)), [len(page) for page in part])
    return first, count, sum(map(len, part)), check_of(PIECES, b"".join(ids))


def ready(pool):
    """Waits until every process has said so: the pipe is there to be waited for."""
    for process in pool._processes:
        while not process.is_ready():
            assert not process.is_over
            threading.Event().wait(0.01)
    return pool


def test_a_frame_is_opened_and_each_run_is_where_it_should_be():
    pages = [noise(n, 100 + n) for n in range(40)]
    runs = [run_of(pages, 0, 40), run_of(pages, 3, 5), run_of(pages, 39, 1)]
    with Openers(VAULT, PIECES, jobs=1, room=2) as pool:
        opened = ready(pool).open(KEY, BIRTH, 3, sealed(pages), runs)
        for first, count, size, check in runs:
            assert opened.bytes_of(first, count, size, check) == b"".join(pages[first : first + count])


def test_room_is_given_back_when_nobody_has_the_frame_any_more():
    pages = [noise(1, PAGE)]
    frame, runs = sealed(pages), [run_of(pages, 0, 1)]
    with Openers(VAULT, PIECES, jobs=1, room=2) as pool:
        kept = [ready(pool).open(KEY, BIRTH, 3, frame, runs) for _ in range(2)]
        assert pool.open(KEY, BIRTH, 3, frame, runs) is None
        kept.pop()
        for _ in range(5):
            assert pool.open(KEY, BIRTH, 3, frame, runs).bytes_of(*runs[0]) == pages[0]
        assert kept[0].bytes_of(*runs[0]) == pages[0]


@pytest.mark.parametrize("wrong", ["byte", "key", "number", "birth", "check", "size", "beyond", "short", "long"])
def test_what_is_not_as_it_should_be_is_not_opened(wrong):
    pages = [noise(n, PAGE) for n in range(4)]
    frame, (first, count, size, check) = sealed(pages), run_of(pages, 1, 2)
    key, birth, number = KEY, BIRTH, 3
    match wrong:
        case "byte":
            frame = memoryview(bytes(frame[:-20]) + bytes([frame[-20] ^ 1]) + bytes(frame[-19:]))
        case "key":
            key = b"x" * 32
        case "number":
            number = 4
        case "birth":
            birth = b"x" * 16
        case "check":
            check ^= 1
        case "size":
            size -= 1
        case "beyond":
            first = 3
        case "short":
            frame = frame[:10]
        case "long":
            frame = memoryview(bytes(openers._ROOM + 1))
    with Openers(VAULT, PIECES, jobs=1, room=2) as pool:
        assert ready(pool).open(key, birth, number, frame, [(first, count, size, check)]) is None
        good = [run_of(pages, 1, 2)]
        assert pool.open(KEY, BIRTH, 3, sealed(pages), good).bytes_of(*good[0]) == b"".join(pages[1:3])


def read(vault, backup, name="pages"):
    found, lock, times = {}, threading.Lock(), []

    def put(parts):
        with lock:
            for at, part in parts:
                found[at] = bytes(part)
                times.append(at)

    vault.read(backup).streams("app").scatter(name, put)
    assert len(times) == len(found)
    return b"".join(found[at] for at in sorted(found))


@pytest.fixture
def waited(monkeypatch):
    """Readers whose processes are all there before the first frame is wanted; gives the pools and how often each opened one."""
    pools, real, lock = [], Openers.open, threading.Lock()

    def open_(self, *wanted):
        with lock:
            if self not in pools:
                pools.append(ready(self))
        found = real(self, *wanted)
        opened.append(found is not None)
        return found

    opened = []
    monkeypatch.setattr(Openers, "open", open_)
    return pools, opened


def scattered():
    """A vault whose newest backup has pages of three backups, here and there."""
    store = new_store()
    vault = open_vault(store)
    pages = [noise(n, PAGE) for n in range(1500)]
    for number in range(3):
        with begin(vault, at=START + number * HOUR) as session:
            stream = session.sink("app").stream("pages", "pages")
            for place in range(number, 1500, 7 + number):
                pages[place] = noise((number, place), PAGE)
            stream.write(b"".join(pages))
            stream.close()
            session.done("app", {})
            last = commit(session)
    return store, vault, last, b"".join(pages)


def test_processes_give_what_threads_give(waited):
    _, vault, last, data = scattered()
    assert read(vault, last) == data
    _, opened = waited
    assert all(opened)
    assert len(opened) >= len(data) >> 19


def test_damage_is_told_as_ever(waited):
    store, vault, last, _ = scattered()
    name = max((info for info in store.list("packs/")), key=lambda info: info.size).name
    raw = bytearray(store.get(name))
    raw[len(raw) // 2] ^= 1
    store.objects[name] = (bytes(raw), store.objects[name][1])
    with pytest.raises(Damaged, match="authentication tag"):
        read(vault, last)


def test_processes_that_are_killed_cost_nothing_but_time(waited, monkeypatch):
    _, vault, last, data = scattered()
    _, opened = waited
    real, killed = Openers.open, []

    def open_(self, *wanted):
        if len(opened) >= 5 and not killed:
            killed.extend(process._process for process in self._processes)
            for process in killed:
                process.kill()
                process.wait()
        return real(self, *wanted)

    monkeypatch.setattr(Openers, "open", open_)
    assert read(vault, last) == data
    assert killed
    assert not opened[-1]


@pytest.mark.parametrize("lacking", ["memory", "program"])
def test_where_no_process_can_be_started_threads_do_it(monkeypatch, lacking):
    _, vault, last, data = scattered()

    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(*((os, "memfd_create") if lacking == "memory" else (subprocess, "Popen")), refuse)
    assert read(vault, last) == data


def test_no_process_stays_behind(waited):
    _, vault, last, _ = scattered()
    before = set(psutil.Process().children())
    read(vault, last)
    assert set(psutil.Process().children()) <= before


def test_small_streams_start_no_process(monkeypatch):
    monkeypatch.undo()
    vault = open_vault(new_store())
    kept = back_up(vault, {"app": {"pages": noise("small", 1 << 20)}})
    monkeypatch.setattr(subprocess, "Popen", None)
    assert read(vault, kept) == noise("small", 1 << 20)
