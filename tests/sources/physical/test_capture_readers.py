"""The readers of what a server sends, without a server: tar streams, incremental files, manifests, page checksums."""

import hashlib
import io
import json
import struct
import tarfile
from itertools import pairwise
from random import Random
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keepwell.core.errors import SourceError
from keepwell.core.streams import Held, MemoryStreams
from keepwell.sources.physical.checksums import Verifier, checksums
from keepwell.sources.physical.entries import CONTENT, PAGES
from keepwell.sources.physical.files import Files
from keepwell.sources.physical.incremental import MAGIC, Blocks, HeaderReader, runs
from keepwell.sources.physical.lanes import ContentLane, PagesLane
from keepwell.sources.physical.pgmanifest import without
from keepwell.sources.physical.previous import Previous, Recorder, cache_path
from keepwell.sources.physical.tarstream import Header, TarReader

PAGE = 8192

# Tar


def in_pieces(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [memoryview(data)[a:b] for a, b in pairwise(edges)]


def read_tar(blocks):
    reader, found = TarReader(), []
    for block in blocks:
        for step in reader.feed(block):
            if isinstance(step, Header):
                found.append([step, b""])
            else:
                found[-1][1] += bytes(step)
    reader.close()
    return found


def ustar(entries):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, data in entries:
            info = tarfile.TarInfo(name)
            info.type = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}[kind]
            info.mode = 0o700 if kind == "dir" else 0o600
            if kind == "file":
                info.size = len(data)
            elif kind == "link":
                info.linkname = data.decode()
            tar.addfile(info, io.BytesIO(data) if kind == "file" else None)
    return out.getvalue()


names = st.text("abcdefghij0123456789._/", min_size=1, max_size=60).map(lambda t: "x" + t.strip("/")).filter(bool)
entries = st.lists(
    st.one_of(
        st.tuples(names, st.just("file"), st.binary(max_size=3000)),
        st.tuples(names, st.just("dir"), st.just(b"")),
        st.tuples(names, st.just("link"), st.just(b"/mnt/fast")),
    ),
    max_size=6,
)


@given(entries, st.lists(st.integers(0, 1 << 20), max_size=8))
def test_a_tar_stream_is_read_alike_however_it_is_cut(entries, cuts):
    found = read_tar(in_pieces(ustar(entries), cuts))
    assert [(h.name.decode(), h.kind) for h, _ in found] == [(n.rstrip("/"), k) for n, k, _ in entries]
    assert [d if h.kind == "file" else h.target for h, d in found] == [d for _, k, d in entries]
    assert all(h.mode == (0o700 if h.kind == "dir" else 0o600) for h, _ in found if h.kind != "link")


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=4))
def test_bytes_that_are_no_tar_stream_are_refused_in_one_way(data, cuts):
    try:
        read_tar(in_pieces(data, cuts))
    except ValueError:
        return
    assert not any(data)


@given(entries.filter(bool), st.integers(0, 511), st.integers(1, 255))
def test_a_changed_byte_in_the_first_header_is_noticed(entries, at, change):
    raw = bytearray(ustar(entries))
    before = read_tar([bytes(raw)])
    raw[at] ^= change
    try:
        after = read_tar([bytes(raw)])
    except ValueError:
        return
    # Only how the checksum itself is written may differ.
    assert 148 <= at < 156
    assert after == before


@given(entries.filter(lambda e: any(k == "file" and d for _, k, d in e)), st.data())
def test_a_tar_stream_cut_short_in_an_entry_is_refused(entries, data):
    raw = ustar(entries)
    end = raw.rindex(b"ustar") - 257 + 512  # behind the last header
    kept = data.draw(st.integers(1, end - 1).filter(lambda n: n % 512))
    with pytest.raises(ValueError, match="in the middle"):
        read_tar([raw[:kept]])


def test_files_of_more_than_8_gib_say_their_size_in_base_256():
    head = bytearray(ustar([("base/5/1", "file", b"")])[:512])
    head[124:136] = b"\x80" + (9 << 30).to_bytes(11, "big")
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    ((header, _),) = [[step, b""] for step in TarReader().feed(bytes(head))]
    assert header.size == 9 << 30


# Incremental files


def incremental(numbers, shortest, *, body=True):
    head = struct.pack(f"<3I{len(numbers)}I", MAGIC, len(numbers), shortest, *numbers)
    head += bytes(-len(head) % PAGE if numbers else 0)
    return head + b"".join(bytes([n % 251 + 1]) * PAGE for n in numbers) if body else head


numbers = st.lists(st.integers(0, 60), unique=True, max_size=30).map(sorted)


@given(numbers, st.integers(0, 70))
def test_blocks_that_follow_each_other_are_a_run(numbers, shortest):
    found = list(runs(np.array(numbers, np.uint32)))
    assert [(n, numbers[n]) for n, first, end in found for n in range(n, n + end - first)] == list(enumerate(numbers))
    assert [block for _, first, end in found for block in range(first, end)] == numbers
    assert all(end < first for (_, _, end), (_, first, _) in pairwise(found))
    assert Blocks(np.array(numbers, np.uint32), shortest).length == max(shortest, numbers[-1] + 1 if numbers else 0)


@given(numbers, st.integers(0, 70), st.lists(st.integers(0, 1 << 19), max_size=6))
def test_an_incremental_header_is_read_alike_however_it_is_cut(numbers, shortest, cuts):
    raw = incremental(numbers, shortest)
    reader, found, used = HeaderReader(len(raw)), None, 0
    for piece in in_pieces(raw, cuts):
        if found is None:
            found = reader.feed(piece)
            used += len(piece) if found is None else found[1]
    assert found is not None
    assert list(found[0].numbers) == numbers
    assert found[0].shortest == shortest
    assert raw[used:] == raw[len(incremental(numbers, shortest, body=False)) :]


@given(st.binary(min_size=12, max_size=100), st.integers(0, 1 << 31))
def test_bytes_that_are_no_incremental_header_are_refused(data, size):
    with pytest.raises(ValueError, match="incremental"):
        HeaderReader(size).feed(memoryview(data))


@pytest.mark.parametrize(("numbers", "shortest"), [([3, 3], 9), ([4, 2], 9), ([1 << 20], 9), ([1], 1 << 30)], ids=str)
def test_impossible_block_numbers_are_refused(numbers, shortest):
    raw = incremental(numbers, shortest)
    with pytest.raises(ValueError, match="incremental"):
        HeaderReader(len(raw)).feed(memoryview(raw))


@given(
    numbers,
    st.integers(0, 40),
    st.integers(0, 40),
    st.lists(st.integers(0, 1 << 19), max_size=5),
    st.sampled_from([1, 3 * PAGE, 1 << 20]),
)
@settings(deadline=None)
def test_changed_blocks_are_laid_over_the_pages_of_the_last_backup(numbers, shortest, old, cuts, at_once):
    before = b"".join(bytes([200 + n % 50]) * PAGE for n in range(old))
    sink, tokens = MemoryStreams(), {}
    first = taken(sink, [("base/5/77", "file", before)], keep=tokens)
    second = MemoryStreams()
    second.pieces = sink.pieces
    previous = Previous(1, b"", {}, "", "on", {}, {"base/5/77": (0, old)}, memoryview(tokens["base/5/77"]))
    assert previous.is_held(second)
    raw = incremental(numbers, shortest)
    with mock.patch("keepwell.sources.physical.files._AT_ONCE", at_once):
        files = taken(second, [("base/5/INCREMENTAL.77", "file", raw)], previous=previous, cuts=cuts)
    length = max(shortest, numbers[-1] + 1 if numbers else 0)
    expected = [
        bytes([n % 251 + 1]) * PAGE
        if n in set(numbers)
        else before[n * PAGE : (n + 1) * PAGE]
        if n < old
        else bytes(PAGE)
        for n in range(length)
    ]
    assert bytes(second.data[PAGES]) == b"".join(expected)
    assert [(e.path, e.size) for e in files.entries] == [("base/5/77", length * PAGE)]
    assert first.entries[0].path == "base/5/77"


def taken(sink, entries, *, keep=None, previous=None, verifier=None, cuts=()):
    tokens = {} if keep is None else keep
    pages = PagesLane(sink.stream(PAGES, "pages"), lambda path, ids: tokens.__setitem__(path, bytes(ids)))
    files = Files(pages, ContentLane(sink.stream(CONTENT)), previous, verifier)
    files.begin("")
    for piece in in_pieces(ustar(entries), cuts):
        files.feed(piece)
    files.close()
    return files


def test_changes_of_a_file_that_the_last_backup_did_not_have_are_an_error():
    with pytest.raises(SourceError, match="the changes of base/5/77"):
        taken(MemoryStreams(), [("base/5/INCREMENTAL.77", "file", incremental([], 1))])


@pytest.mark.parametrize("name", ["/etc/passwd", "base/../../x"])
def test_a_name_that_leads_out_of_the_cluster_is_refused(name):
    with pytest.raises(SourceError, match="leads out"):
        taken(MemoryStreams(), [(name, "file", b"x")])


def test_what_is_no_page_goes_by_content_and_is_asked_for_whole_the_next_time():
    sink = MemoryStreams()
    files = taken(
        sink,
        [
            ("base/5/1", "file", b"p" * PAGE),
            ("base/5/2.1", "file", b"odd" * 100),
            ("base/5/PG_VERSION", "file", b"18\n"),
            ("global/pg_control", "file", b"c" * PAGE),
            ("base/5/3_vm", "file", b"v" * PAGE),
            ("pg_xact/0000", "file", b"x" * PAGE),
        ],
    )
    assert {e.path: e.stream for e in files.entries} == {
        "base/5/1": PAGES,
        "base/5/2.1": CONTENT,
        "base/5/PG_VERSION": CONTENT,
        "global/pg_control": CONTENT,
        "base/5/3_vm": PAGES,
        "pg_xact/0000": CONTENT,
    }
    assert files.odd == ["base/5/2.1"]


def test_the_label_of_an_incremental_backup_becomes_that_of_a_full_one():
    label = (
        b"START WAL LOCATION: 0/2000028\nINCREMENTAL FROM LSN: 0/1000028\nINCREMENTAL FROM TLI: 1\nLABEL: keepwell\n"
    )
    sink = MemoryStreams()
    taken(sink, [("backup_label", "file", label), ("tablespace_map", "file", b"16384 /mnt/fast\n")])
    assert bytes(sink.data[CONTENT]) == b"START WAL LOCATION: 0/2000028\nLABEL: keepwell\n"


# Manifests


def manifest(files):
    rows = ",\n".join(json.dumps(file) for file in files)
    body = f'{{ "PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": 7,\n"Files": [\n{rows}\n],\n"WAL-Ranges": [\n'
    body += '{ "Timeline": 1, "Start-LSN": "0/2000028", "End-LSN": "0/2000120" }\n],\n'
    return body.encode() + b'"Manifest-Checksum": "' + hashlib.sha256(body.encode()).hexdigest().encode() + b'"}\n'


paths = st.one_of(
    st.text(min_size=1, max_size=12).filter(lambda t: t.isprintable()).map(lambda t: {"Path": t, "Size": 3}),
    st.binary(min_size=1, max_size=9).map(lambda b: {"Encoded-Path": b.hex(), "Size": 3}),
)


def name_of(file):
    return (bytes.fromhex(file["Encoded-Path"]) if "Encoded-Path" in file else file["Path"].encode()).decode(
        errors="surrogateescape"
    )


@given(st.lists(paths, max_size=8, unique_by=name_of), st.sets(st.integers(0, 7)))
def test_a_manifest_less_some_files_is_a_manifest_with_its_own_checksum(files, drop):
    gone = [name_of(file) for n, file in enumerate(files) if n in drop]
    made = without(manifest(files), gone)
    found = json.loads(made)
    assert found["Files"] == [file for n, file in enumerate(files) if n not in drop]
    assert found["WAL-Ranges"][0]["Start-LSN"] == "0/2000028"
    assert found["Manifest-Checksum"] == hashlib.sha256(made[: made.rindex(b'"Manifest-Checksum"')]).hexdigest()


@given(st.binary(max_size=400))
def test_bytes_that_are_no_manifest_are_refused(data):
    with pytest.raises(ValueError, match="manifest"):
        without(data, ["x"])


@given(st.integers(0, 10_000))
def test_a_manifest_cut_short_is_refused(cut):
    raw = manifest([{"Path": f"base/5/{n}", "Size": n} for n in range(20)])
    with pytest.raises(ValueError, match=r"manifest|Expecting|Unterminated|delimiter|Extra"):
        without(raw[: min(cut, raw.index(b'"Manifest-Checksum"'))], ["x"])


# Checksums of pages


def plainly(page, block):
    """PostgreSQL's own way, step by step."""
    words = [*struct.unpack("<2048I", page)]
    words[2] &= 0xFFFF0000
    sums = [
        *(0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A, 0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C),
        *(0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA, 0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB),
        *(0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE, 0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4),
        *(0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E, 0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756),
    ]
    for n, word in enumerate([*words, *[0] * 64]):
        mixed = sums[n % 32] ^ word
        sums[n % 32] = (mixed * 16777619 & 0xFFFFFFFF) ^ (mixed >> 17)
    folded = block
    for value in sums:
        folded ^= value
    return folded % 65535 + 1


@given(st.integers(0, 1 << 40), st.integers(0, 2**32 - 1))
@settings(max_examples=10, deadline=None)
def test_checksums_of_many_pages_are_those_of_each(seed, block):
    random = Random(seed)
    pages = [random.randbytes(PAGE) for _ in range(3)]
    blocks = np.array([block, 0, 7], np.uint32)
    expected = [plainly(page, int(n)) for page, n in zip(pages, blocks, strict=True)]
    assert checksums(b"".join(pages), blocks).tolist() == expected


def good_page(block, lsn=1, fill=7):
    page = bytearray([fill]) * PAGE
    page[:8] = struct.pack("<II", 0, lsn)
    page[14:16] = b"\0\1"
    page[8:10] = struct.pack("<H", int(checksums(page, np.array([block], np.uint32))[0]))
    return bytes(page)


def test_damaged_pages_are_named_by_file_and_block_and_those_that_the_log_mends_are_not():
    segment = 4
    spoilt = bytearray(good_page(1))
    spoilt[5000] ^= 1
    later = bytearray(good_page(2, lsn=500))
    later[5000] ^= 1
    verifier = Verifier(start=100, segment=segment)
    sink = MemoryStreams()
    in_second = bytearray(good_page(segment + 1))
    in_second[5000] ^= 1
    taken(
        sink,
        [
            ("base/5/1", "file", good_page(0) + bytes(spoilt) + bytes(later) + bytes(PAGE)),
            ("base/5/1.1", "file", good_page(segment) + bytes(in_second)),
            ("base/5/2", "file", good_page(0) * 200),  # all but the first are wrong
        ],
        verifier=verifier,
        cuts=range(0, 1 << 21, 30_011),
    )
    assert verifier.found == [("base/5/1", 1), ("base/5/1.1", 1), *(("base/5/2", n) for n in range(1, 200))]


@given(st.lists(st.tuples(st.integers(0, 12), st.sets(st.integers(0, 11)), st.integers(1, 12 * PAGE)), max_size=6))
@settings(max_examples=40, deadline=None)
def test_damaged_pages_are_the_same_however_their_files_come(files):
    """Each file: pages, which of them are damaged, and how many bytes come at once."""
    verifier, expected = Verifier(start=100, segment=4), []
    with mock.patch("keepwell.sources.physical.checksums._BATCH", 4 * PAGE):
        for number, (pages, wrong, at_once) in enumerate(files):
            data = b"".join(good_page(block + (block in wrong)) for block in range(pages))
            expected += [(f"base/5/{number}", block) for block in sorted(wrong) if block < pages]
            verifier.at(f"base/5/{number}", 0)
            for at in range(0, len(data), at_once):
                verifier.feed(data[at : at + at_once])
        verifier.close()
    assert verifier.found == expected


# What is remembered of the last backup


def remembered(folder):
    path = cache_path(folder, "77", "here")
    recorder = Recorder(path)
    recorder.add("base/5/1", b"a" * 40)
    recorder.add("base/5/2", b"b" * 20)
    recorder.keep("77", 3, b"the manifest", [("base/5/2", 0)], "", {}, "on")
    return path


class All(MemoryStreams):
    """Has every piece."""

    def find(self, ids):
        return Held(memoryview(ids), memoryview(bytes(len(ids) // 20 * 8)))


def test_the_last_backup_is_remembered(tmp_path):
    found = Previous.load(remembered(tmp_path), "77")
    assert found is not None
    assert (found.timeline, found.manifest, found.damaged) == (3, b"the manifest", {"base/5/2": [0]})
    assert found.is_held(All())
    assert found.pages("base/5/1").ids == b"a" * 40
    assert found.pages("base/5/2").ids == b"b" * 20
    assert found.pages("base/5/3") is None
    assert [p.name for p in tmp_path.iterdir()] == [cache_path(tmp_path, "77", "here").name]


def test_of_another_cluster_nothing_is_remembered(tmp_path):
    assert Previous.load(remembered(tmp_path), "78") is None


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_damaged_memory_is_none(tmp_path_factory, at, change):
    path = remembered(tmp_path_factory.mktemp("cache"))
    raw = bytearray(path.read_bytes())
    raw[at % len(raw)] ^= change
    path.write_bytes(raw)
    assert Previous.load(path, "77") is None


@pytest.mark.parametrize("size", [0, 1, 50, 200])
def test_a_memory_cut_short_is_none(tmp_path, size):
    path = remembered(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    assert Previous.load(path, "77") is None


def test_a_memory_that_cannot_be_written_does_not_cost_the_backup(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    assert not remembered(tmp_path / "file" / "folder").exists()
