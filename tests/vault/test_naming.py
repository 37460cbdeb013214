"""Ids that a process finds out beside the writer: the same as without it, in the same order, and nothing lost where it is."""

import os
import subprocess
import threading
from random import Random

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vaultkit import HOUR, START, begin, commit, new_store, noise, open_vault

from keepwell.vault import naming
from keepwell.vault.naming import ROOM, Naming
from keepwell.vault.piece import PAGE, identify

KEY = b"p" * 32


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """Also the first pages go to the process."""
    monkeypatch.setattr(naming, "_WORTH_A_PROCESS", 0)


@pytest.fixture
def names():
    found = Naming(KEY, on=True)
    yield ready(found)
    found.close()


def ask(names, data):
    if (room := names.room()) is None:
        return None
    room[: len(data)] = np.frombuffer(data, np.uint8)
    return names.ask(room, len(data))


def ready(names):
    """Waits until the process has said so."""
    pages = noise("first", PAGE)
    while (named := ask(names, pages)) is None:
        threading.Event().wait(0.01)
    assert names.ids(named) == [plainly(pages, names._key)]
    return names


def plainly(page, key=KEY):
    return identify(key, memoryview(page), [PAGE])[0]


def test_ids_are_those_of_each_page_in_any_order_of_asking(names):
    blocks = [noise(n, (n + 1) * 5 * PAGE) for n in range(8)]
    asked = [ask(names, block) for block in blocks]
    for n in (3, 0, 7, 1, 2, 4, 5, 6):
        expected = [plainly(blocks[n][at : at + PAGE]) for at in range(0, len(blocks[n]), PAGE)]
        assert bytes(asked[n].pages) == blocks[n]
        assert names.ids(asked[n]) == expected


def test_room_is_used_again_when_nobody_has_a_view_of_it(names):
    block = noise(1, ROOM)
    asked = []
    while (named := ask(names, block)) is not None:
        asked.append(named)
    assert len(asked) == naming._ROOMS
    for named in asked:
        names.ids(named)
    part = asked[0].pages[PAGE : 2 * PAGE]
    del named
    asked.clear()
    taken = [ask(names, noise(n, ROOM)) for n in range(naming._ROOMS)]
    assert [n for n, named in enumerate(taken) if named is None] == [naming._ROOMS - 1]
    assert part == block[PAGE : 2 * PAGE]


def test_what_a_killed_process_does_not_answer_is_found_out_here(names):
    blocks = [noise(n, ROOM) for n in range(8)]
    asked = [ask(names, block) for block in blocks[:4]]
    names.ids(asked[0])
    names._process._process.kill()
    names._process._process.wait()
    asked += [ask(names, block) for block in blocks[4:]]
    for block, named in zip(blocks, asked, strict=True):
        if named is not None:
            assert names.ids(named) == [plainly(block[at : at + PAGE]) for at in range(0, ROOM, PAGE)]
    assert ask(names, blocks[0]) is None


@pytest.mark.parametrize("lacking", ["memory", "program"])
def test_where_no_process_can_be_started_there_is_none(monkeypatch, lacking):
    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(*((os, "memfd_create") if lacking == "memory" else (subprocess, "Popen")), refuse)
    names = Naming(KEY, on=True)
    assert [ask(names, bytes(PAGE)) for _ in range(3)] == [None] * 3
    names.close()


def test_small_backups_start_no_process(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(subprocess, "Popen", None)
    names = Naming(KEY, on=True)
    assert ask(names, bytes(ROOM)) is None
    names.close()


def written(sizes, seed, *, kill=None):
    """A backup of pages in writes of these sizes, and of other streams between them; what was written, and restored."""
    random, vault = Random(seed), open_vault(new_store())
    with begin(vault) as session:
        ready(session._naming)
        sink = session.sink("app")
        pages, content = sink.stream("pages", "pages"), sink.stream("content")
        # Pages that come again are found, whether they are under way or not.
        pool = [noise(n, PAGE) for n in range(40)]
        whole, tokens = b"", b""
        for number, size in enumerate(sizes):
            if number == kill:
                session._naming._process._process.kill()
            data = b"".join(random.choices(pool, k=size // PAGE + 1))[:size]
            pages.write(data)
            content.write(data[:100])
            whole += data
            assert pages.position == len(whole)
            if size % 3 == 0 and len(whole) % PAGE == 0:
                tokens += pages.take_ids()
        tokens += pages.take_ids()
        pages.close()
        content.close()
        session.done("app", {})
        backup = commit(session)
    streams = vault.read(backup).streams("app")
    return whole, b"".join(streams.read("pages")), tokens


@given(
    st.lists(st.one_of(st.integers(0, 300).map(lambda n: n * PAGE), st.integers(0, 3 << 20)), max_size=8),
    st.integers(0, 99),
    st.one_of(st.none(), st.integers(0, 7)),
)
@settings(max_examples=25, deadline=None)
def test_what_is_written_is_what_is_read_however_it_comes_and_whenever_the_process_ends(sizes, seed, kill):
    whole, read, tokens = written(sizes, seed, kill=kill)
    assert read == whole
    assert sum(int.from_bytes(tokens[at + 16 : at + 20], "little") for at in range(0, len(tokens), 20)) == len(whole)


@given(
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 700), st.integers(0, 900), st.booleans()), max_size=12),
    st.integers(0, 99),
    st.one_of(st.none(), st.integers(0, 11)),
)
@settings(max_examples=25, deadline=None)
def test_pages_laid_over_those_of_an_earlier_backup_stay_in_order_whenever_the_process_ends(turns, seed, kill):
    """Each turn: how many pages are written, how many held ones follow, how many of those are replaced, and whether ids are taken."""
    random, vault = Random(seed), open_vault(new_store())
    pool = [noise(n, PAGE) for n in range(60)]
    old = random.choices(pool, k=800)
    with begin(vault) as session:
        stream = session.sink("app").stream("pages", "pages")
        stream.write(b"".join(old))
        known = stream.take_ids()
        stream.close()
        session.done("app", {})
        commit(session)
    whole, tokens = [], b""
    with begin(vault, at=START + HOUR) as session:
        ready(session._naming)
        sink = session.sink("app")
        held = sink.find(known)
        stream = sink.stream("pages", "pages")
        for number, (written, kept, replaced, take) in enumerate(turns):
            if number == kill:
                session._naming._process._process.kill()
            whole += (new := random.choices(pool, k=written))
            stream.write(b"".join(new))
            start = random.randint(0, 800 - kept)
            places = sorted(random.sample(range(kept), min(kept, replaced)))
            fresh = random.choices(pool, k=len(places))
            over = old[start : start + kept]
            for place, page in zip(places, fresh, strict=True):
                over[place] = page
            whole += over
            if places:
                stream.overlay(held.part(start, start + kept), places, b"".join(fresh))
            else:
                assert stream.reuse(held.part(start, start + kept), kept * PAGE)
            assert stream.position == PAGE * len(whole)
            if take:
                tokens += stream.take_ids()
        tokens += stream.take_ids()
        stream.close()
        session.done("app", {})
        backup = commit(session)
    assert b"".join(vault.read(backup).streams("app").read("pages")) == b"".join(whole)
    assert tokens == b"".join(
        plainly(page, session.desk.keyring.piece_key) + PAGE.to_bytes(4, "little") for page in whole
    )


def test_no_process_stays_behind():
    before = set(psutil.Process().children())
    with begin(open_vault(new_store())) as session:
        ready(session._naming)
        assert set(psutil.Process().children()) > before
    assert set(psutil.Process().children()) <= before
