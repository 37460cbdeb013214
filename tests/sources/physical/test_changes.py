"""What must be read of a file, by what the server's summaries of its log say: whatever may have changed, and no other file's pages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepwell.sources.physical import pgmanifest
from keepwell.sources.physical.summaries import Changes

SEGMENT = 100
RELATIONS = {
    "base/5/1000": (1663, 5, 1000),
    "global/1000": (1664, 0, 1000),
    "pg_tblspc/77/PG_18_202506291/5/1000": (77, 5, 1000),
    "base/6/1000": (1663, 6, 1000),
    "base/5/1001": (1663, 5, 1001),
}


def changed(*told):
    found = Changes(SEGMENT)
    for relation, segment, limit, blocks in told:
        found.add(relation, segment, limit, np.array(blocks, np.uint32))
    return found


def read(found, path, pages, known):
    blocks = found.of(path, pages, known)
    return None if blocks is None else blocks.tolist()


@given(
    st.sets(st.integers(0, 2 * SEGMENT - 1), max_size=30),
    st.one_of(st.none(), st.integers(0, 2 * SEGMENT)),
    st.integers(0, SEGMENT),
    st.integers(0, SEGMENT),
    st.integers(0, 1),
)
def test_every_page_that_may_be_another_is_read_and_none_that_cannot(blocks, limit, pages, known, segment):
    relation, path = (1663, 5, 1000), "base/5/1000" + (f".{segment}" if segment else "")
    found = changed(*((relation, n, None, [b - n * SEGMENT for b in blocks if b // SEGMENT == n]) for n in (0, 1)))
    if limit is not None:
        found.add(relation, limit // SEGMENT, limit, np.zeros(0, np.uint32))
    must = {
        page
        for page in range(pages)
        if page + segment * SEGMENT in blocks
        or page >= known
        or (limit is not None and page + segment * SEGMENT >= limit)
    }
    told = read(found, path, pages, known)
    if told is None:  # all of it
        assert not pages or len(must) > 0.9 * pages
    else:
        assert told == sorted(must)


@pytest.mark.parametrize("path", RELATIONS)
def test_changes_of_one_file_are_no_other_files(path):
    found = changed((RELATIONS[path], 0, None, [3]), (RELATIONS[path], 1, None, [5]))
    assert read(found, path, SEGMENT, SEGMENT) == [3]
    assert read(found, f"{path}.1", SEGMENT, SEGMENT) == [5]
    for other in RELATIONS.keys() - {path}:
        assert read(found, other, SEGMENT, SEGMENT) == []


@pytest.mark.parametrize("path", ["base/5/1000", "pg_tblspc/77/PG_18_202506291/5/1000"])
def test_of_a_database_that_was_copied_or_moved_everything_is_read(path):
    place, database, _ = RELATIONS[path]
    found = changed(((place, database, 0), 0, 0, []))
    assert read(found, path, SEGMENT, SEGMENT) is None
    assert read(found, "base/6/1000", SEGMENT, SEGMENT) == []


@pytest.mark.parametrize("fork", ["_fsm", "_vm", "_init", "_fsm.1"])
def test_other_forks_are_read_whole(fork):
    assert read(changed(), f"base/5/1000{fork}", SEGMENT, SEGMENT) is None


def test_where_nearly_everything_changed_all_is_read():
    assert read(changed(((1663, 5, 1000), 0, None, range(91))), "base/5/1000", SEGMENT, SEGMENT) is None
    assert read(changed(((1663, 5, 1000), 0, None, range(90))), "base/5/1000", SEGMENT, SEGMENT) == list(range(90))


def test_the_least_length_of_several_counts():
    found = changed(((1663, 5, 1000), 0, 60, []), ((1663, 5, 1000), 0, 40, []), ((1663, 5, 1000), 0, 80, []))
    assert read(found, "base/5/1000", SEGMENT, SEGMENT) == list(range(40, 100))
    assert read(found, "base/5/1000.1", SEGMENT, SEGMENT) is None


def test_a_manifest_names_the_log_that_its_backup_needs():
    own = pgmanifest.write("77", 3, 0x1_0000_0028, 0x1_0000_0120, [("base/5/1", 8192)])
    assert pgmanifest.ranges(own) == [(3, 0x1_0000_0028, 0x1_0000_0120)]
    theirs = (
        b'{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 7,\n"Files": [\n],\n"WAL-Ranges": [\n'
        b'{ "Timeline": 2, "Start-LSN": "0/300", "End-LSN": "0/400" },\n'
        b'{ "Timeline": 1, "Start-LSN": "0/200", "End-LSN": "0/300" }\n],\n"Manifest-Checksum": "00"}\n'
    )
    assert pgmanifest.ranges(theirs) == [(2, 0x300, 0x400), (1, 0x200, 0x300)]
    for damaged in (b"", own[:-100], own.replace(b"WAL-Ranges", b"WAL"), own.replace(b"End-LSN", b"End")):
        with pytest.raises(ValueError, match=r"manifest|Expecting"):
            pgmanifest.ranges(damaged)
