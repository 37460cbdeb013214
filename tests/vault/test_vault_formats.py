"""Every format of docs/format.md: what is written is read back, and a flipped bit or a cut end is always Damaged."""

from __future__ import annotations

import base64
import datetime as dt
import json
import os
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaultkit import START, keyring

from keepwell.core import zstd
from keepwell.core.errors import Damaged, KeyCannotRead, KeyMissing, KeyWrong, UnsupportedFormat
from keepwell.core.secrets import Secret
from keepwell.keys import crypto, slots
from keepwell.keys.keyring import Keyring
from keepwell.stores.memory import MemoryStore
from keepwell.vault import config, documents
from keepwell.vault.catalog import Proof, decode_metadata, decode_proof, encode_proof
from keepwell.vault.frame import compress, open_frame
from keepwell.vault.index import PackEntry, Section, decode_entry, decode_index, encode_entry, encode_index
from keepwell.vault.inventory import references
from keepwell.vault.layout import BackupId, new_id, parse_id
from keepwell.vault.manifest import Extents, Manifest, StoredStream, decode, decode_references, encode
from keepwell.vault.pack import PackBuilder, read_trailer, sections
from keepwell.vault.piece import identify
from keepwell.vault.reader import PackKeys
from keepwell.vault.repack import Repacker

RING = keyring()
WRITER = replace(RING, private=None)


def damaged_forms(raw: bytes, spots: list[int], cuts: list[int]):
    for spot in spots:
        at = spot % (8 * len(raw))
        flipped = bytearray(raw)
        flipped[at // 8] ^= 1 << at % 8
        yield bytes(flipped)
    for cut in cuts:
        yield raw[: cut % len(raw)]
    yield raw + b"\0"


spots = st.lists(st.integers(0, 1 << 40), min_size=1, max_size=12)


# Envelopes and seals


@given(st.binary(max_size=300), spots, spots)
def test_an_envelope_opens_only_unaltered(plain, flips, cuts):
    sealed = RING.envelope("index/a", plain)
    assert RING.open("index/a", sealed) == plain
    for bad in damaged_forms(sealed, flips, cuts):
        with pytest.raises(Damaged):
            RING.open("index/a", bad)


def test_an_envelope_does_not_open_under_another_name_vault_or_key():
    sealed = RING.envelope("index/a", b"text")
    for other, name in (
        (RING, "index/b"),
        (replace(RING, vault=b"x" * 16), "index/a"),
        (replace(RING, writer=b"x" * 32), "index/a"),
    ):
        with pytest.raises(Damaged):
            other.open(name, sealed)


@given(st.binary(min_size=32, max_size=32), spots, spots)
def test_a_sealed_key_opens_only_unaltered_and_for_its_purpose(key, flips, cuts):
    sealed = WRITER.seal("pack", b"b" * 16, key)
    assert RING.unseal("pack", b"b" * 16, sealed, what="p") == key
    for bad in damaged_forms(sealed, flips, cuts):
        with pytest.raises(Damaged):
            RING.unseal("pack", b"b" * 16, bad, what="p")
    for purpose, bound in (("manifest", b"b" * 16), ("pack", b"c" * 16)):
        with pytest.raises(Damaged):
            RING.unseal(purpose, bound, sealed, what="p")
    with pytest.raises(KeyCannotRead):
        WRITER.unseal("pack", b"b" * 16, sealed, what="p")


# Slots

CHEAP = {"memory_kib": 64, "passes": 1, "lanes": 1}


def _slot(role: str = "reader", kind: str = "keyfile"):
    vault_json = "ab" * 32
    opener = slots.KeyFile(RING.vault.hex(), "s1", b"k" * 32) if kind == "keyfile" else slots.Passphrase(Secret("open"))
    raw = slots.wrap(RING, opener, slot=slots.Slot("s1", kind, role, "l", "c"), vault_json=vault_json)  # type: ignore[arg-type]
    return raw, opener, {"vault": RING.vault, "public": RING.public, "vault_json": vault_json}


@pytest.mark.parametrize("role", ["reader", "writer"])
@pytest.mark.parametrize("kind", ["keyfile", "passphrase"])
def test_a_slot_gives_back_the_secrets_of_its_role(role, kind, monkeypatch):
    monkeypatch.setattr(slots, "ARGON2", CHEAP)
    raw, opener, about = _slot(role, kind)
    ring = slots.unwrap("keys/s1.json", raw, opener, **about)
    assert (ring.writer, ring.private, ring.role) == (RING.writer, RING.private if role == "reader" else None, role)
    assert "open" not in raw.decode()
    assert slots.describe("keys/s1.json", raw) == slots.Slot("s1", kind, role, "l", "c")
    slots.verify("keys/s1.json", raw, RING)


def test_every_altered_byte_and_every_cut_of_a_slot_is_found():
    raw, opener, about = _slot()
    bad = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in range(len(raw))]
    for wrong in [*bad, *(raw[:at] for at in range(0, len(raw), 7)), raw + b"\n"]:
        with pytest.raises(Damaged):
            slots.verify("keys/s1.json", wrong, RING)
        with pytest.raises((Damaged, KeyWrong)):
            slots.unwrap("keys/s1.json", wrong, opener, **about)


def test_a_slot_refuses_another_credential_another_vault_json_and_greedy_parameters(monkeypatch):
    raw, _, about = _slot()
    with pytest.raises(KeyWrong):
        slots.unwrap("keys/s1.json", raw, slots.KeyFile(RING.vault.hex(), "s1", b"x" * 32), **about)
    raw, opener, about = _slot()
    with pytest.raises(Damaged, match=r"vault\.json"):
        slots.unwrap("keys/s1.json", raw, opener, **about | {"vault_json": "cd" * 32})
    monkeypatch.setattr(slots, "ARGON2", CHEAP)
    raw, opener, about = _slot(kind="passphrase")
    with pytest.raises(KeyWrong):
        slots.unwrap("keys/s1.json", raw, slots.Passphrase(Secret("shut")), **about)
    document = json.loads(raw)
    document["kdf"]["memory_kib"] = 1 << 40
    with pytest.raises(Damaged, match="out of range"):
        slots.unwrap("keys/s1.json", documents.render(document), opener, **about)


def test_a_key_file_survives_its_round_trip_and_nothing_else_is_taken_for_one(tmp_path):
    key = slots.KeyFile(RING.vault.hex(), "s1", os.urandom(32))
    slots.write_key_file(tmp_path / "k", key)
    assert replace(slots.read_key_file(tmp_path / "k"), path=None) == key
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600
    with pytest.raises(KeyMissing):
        slots.write_key_file(tmp_path / "k", key)
    assert base64.b64encode(key.secret).decode() not in repr(key)
    for text in ("", "keepwell-key-1:a:b", "keepwell-key-1:a:b:####", "keepwell-key-2:a:b:" + "A" * 43 + "=", "a\nb\n"):
        (tmp_path / "bad").write_text(text)
        with pytest.raises(KeyWrong):
            slots.read_key_file(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(b"\xff\xfe")
    with pytest.raises(KeyMissing):
        slots.read_key_file(tmp_path / "bad")
    with pytest.raises(KeyMissing):
        slots.read_key_file(tmp_path / "none")


# JSON documents

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=8).filter(lambda k: k != "mac"), json_values, max_size=5), spots, spots)
def test_a_document_is_read_only_as_it_was_signed(document, flips, cuts):
    raw = documents.sign(RING, "trash/a.json", document)
    assert documents.verify(WRITER, "trash/a.json", raw) == document
    for bad in damaged_forms(raw, flips, cuts):
        with pytest.raises(Damaged):
            documents.verify(RING, "trash/a.json", bad)
    with pytest.raises(Damaged):
        documents.verify(RING, "trash/b.json", raw)


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{}", b"\xff\xff", b'{"mac": 1}', b'{"mac": "\xc3\xa9"}'])
def test_what_is_no_document_is_damaged(raw):
    with pytest.raises(Damaged):
        documents.verify(RING, "trash/a.json", raw)


PLACE = "production/daily/2026-11-22/020000Z-7f3a/"


def test_metadata_counts_only_for_the_backup_under_whose_name_it_lies():
    about = {"backup": "production/20261122T020000Z-7f3a", "tier": "daily", "timestamp": "2026-11-22T02:00:00Z"}
    about |= {"status": "complete", "size": 1, "checksum": "c"}
    name = PLACE + "metadata.json"
    backup = decode_metadata(WRITER, name, documents.sign(RING, name, about))
    assert (str(backup.id), backup.tier, backup.folder) == (about["backup"], "daily", PLACE)
    for wrong in (
        {"tier": "weekly"},
        {"backup": "production/20261122T020000Z-7f3b"},
        {"size": "many"},
        {"timestamp": "x"},
    ):
        with pytest.raises(Damaged):
            decode_metadata(RING, name, documents.sign(RING, name, about | wrong))
    for missing in ("timestamp", "status", "size"):
        with pytest.raises(Damaged):
            decode_metadata(RING, name, documents.sign(RING, name, {k: v for k, v in about.items() if k != missing}))
    proof = Proof(str(backup.id), "c", START, "restore", True, "fine", {"tables": {"users": 3}})
    where, raw = encode_proof(RING, backup, proof)
    assert decode_proof(WRITER, where, raw) == replace(proof, name=where)
    assert b"users" not in raw
    for at in range(0, len(raw), 5):
        with pytest.raises(Damaged):
            decode_proof(RING, where, raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])


def test_vault_json_says_what_is_wrong_with_it():
    raw = config.new(b"v" * 16, RING.public, "2026-11-22T02:00:00Z", {}).raw
    assert config.parse(raw).vault == b"v" * 16
    for at in range(len(raw)):
        bad = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        try:
            found = config.parse(bad)
        except (Damaged, UnsupportedFormat):
            continue
        assert found.sha256 != config.parse(raw).sha256  # every slot tells
    for cut in range(0, len(raw), 9):
        with pytest.raises(Damaged):
            config.parse(raw[:cut])
    document = json.loads(raw)
    for other in (document | {"format": 2}, document | {"kem": "X"}):
        with pytest.raises(UnsupportedFormat):
            config.parse(documents.render(other))
    future = config.parse(documents.render(document | {"features": {"read": [], "write": ["w"], "delete": []}}))
    future.require("read")
    with pytest.raises(UnsupportedFormat, match="w"):
        future.require("write")


# Frames and packs

pieces_of_a_frame = st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=20)


def make_pack(frames: list[list[bytes]], ring: Keyring = WRITER) -> tuple[bytes, PackEntry]:
    builder = PackBuilder(ring, target=1 << 12)
    for pieces in frames:
        lengths = [len(p) for p in pieces]
        payload = compress(lengths, pieces, 3)
        number, offset = builder.reserve(
            payload.stored, identify(RING.piece_key, memoryview(b"".join(pieces)), lengths)
        )
        builder.fill(number, offset, payload)
    assert builder.seal()
    view, entry = builder.finish()
    return bytes(view), entry


def frames_of(raw: bytes, entry: PackEntry) -> dict[tuple[bytes, int], list[bytes]]:
    """Opened by their own section keys."""
    found = {}
    keys = dict(sections(raw, what="p"))
    for birth, rows in entry.births():
        box = crypto.AESGCM(RING.unseal("pack", birth, keys[birth], what="p"))
        for row in range(rows.start, rows.stop):
            at, length, number = int(entry.offset[row]), int(entry.length[row]), int(entry.number[row])
            lengths, data = open_frame(box, RING.vault, birth, number, memoryview(raw)[at : at + length], what="p")
            ends = np.cumsum([0, *lengths]).tolist()
            found[birth, number] = [bytes(data[a:b]) for a, b in pairwise(ends)]
    return found


def same_entry(a: PackEntry, b: PackEntry) -> bool:
    return encode_entry(a) == encode_entry(b)


@given(st.lists(pieces_of_a_frame, min_size=1, max_size=6))
def test_a_pack_gives_back_its_pieces_and_describes_itself(frames):
    raw, entry = make_pack(frames)
    assert list(frames_of(raw, entry).values()) == frames
    own = read_trailer(WRITER, f"packs/{entry.pack[:2]}/{entry.pack}", len(raw), raw, raw)
    assert isinstance(own, PackEntry)
    assert same_entry(own, entry)
    needed = read_trailer(WRITER, f"packs/{entry.pack}", len(raw), raw[-60:], raw)
    assert isinstance(needed, int)
    assert same_entry(read_trailer(WRITER, entry.pack, len(raw), raw[-needed:], raw), entry)  # type: ignore[arg-type]


@given(pieces_of_a_frame, spots, spots)
def test_a_frame_opens_only_unaltered_and_in_its_place(pieces, flips, cuts):
    raw, entry = make_pack([pieces, pieces])
    (birth, sealed), *_ = sections(raw, what="p")
    box = crypto.AESGCM(RING.unseal("pack", birth, sealed, what="p"))
    at, length = int(entry.offset[0]), int(entry.length[0])
    frame = raw[at : at + length]
    for bad in damaged_forms(frame, flips, cuts):
        with pytest.raises(Damaged):
            open_frame(box, RING.vault, birth, 0, memoryview(bad), what="p")
    for vault, which, number in ((b"x" * 16, birth, 0), (RING.vault, b"x" * 16, 0), (RING.vault, birth, 1)):
        with pytest.raises(Damaged):
            open_frame(box, vault, which, number, memoryview(frame), what="p")


@given(pieces_of_a_frame, spots, spots)
def test_a_pack_cut_short_or_with_an_altered_end_does_not_describe_itself(pieces, flips, cuts):
    raw, entry = make_pack([pieces])
    trailer_at = int(entry.offset[0]) + int(entry.length[0])
    tail = raw[trailer_at:]
    for bad in damaged_forms(tail, flips, cuts):
        whole = raw[:trailer_at] + bad
        with pytest.raises(Damaged):
            read_trailer(RING, entry.pack, len(whole), whole, whole)


def test_every_altered_byte_of_a_packs_head_is_found():
    raw, entry = make_pack([[b"piece"]])
    for at in range(int(entry.offset[0])):
        bad = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        store = MemoryStore()
        store.objects[f"packs/{entry.pack[:2]}/{entry.pack}"] = (bad, START)
        with pytest.raises(Damaged):
            PackKeys(store, RING).box(entry.sections[0].birth, entry.pack)


@given(st.lists(st.lists(pieces_of_a_frame, min_size=1, max_size=4), min_size=1, max_size=4), st.data())
def test_moved_frames_open_with_the_key_they_were_born_with(packs, data):
    """Twice moved, in any order and any choice, by a writer's key."""
    want: dict[tuple[bytes, int], list[bytes]] = {}
    sources = [make_pack(frames) for frames in packs]
    for _ in range(2):
        repacker = Repacker(WRITER)
        want = {}
        for raw, entry in sources:
            rows = data.draw(st.sets(st.integers(0, len(entry.number) - 1), min_size=1))
            repacker.add(entry, sorted(rows), raw)
            opened = frames_of(raw, entry)
            births = {row: birth for birth, part in entry.births() for row in range(part.start, part.stop)}
            want |= {(births[row], int(entry.number[row])): opened[births[row], int(entry.number[row])] for row in rows}
        view, entry = repacker.finish()
        moved = bytes(view)
        assert frames_of(moved, entry) == want
        own = read_trailer(WRITER, f"packs/{entry.pack}", len(moved), moved, moved)
        assert same_entry(own, entry)  # type: ignore[arg-type]
        ids = b"".join(RING_id(p) for part in frames_of(moved, entry).values() for p in part)
        assert entry.ids == ids
        sources = [(moved, entry)]


def RING_id(piece: bytes) -> bytes:
    return identify(RING.piece_key, memoryview(piece), [len(piece)])[0]


def test_moving_frames_keeps_no_more_than_them_in_memory():
    """A prune that empties many mostly dead packs must not hold all of these."""
    repacker = Repacker(WRITER)
    raw, entry = make_pack([[os.urandom(1000)], [os.urandom(1000)]])
    repacker.add(entry, [0], raw)
    (held,) = repacker._births.values()
    assert [type(frame) for frame in held.frames] == [bytes]
    assert len(held.frames[0]) == int(entry.length[0])


def test_moving_with_an_index_entry_that_lies_is_damaged():
    raw, entry = make_pack([[b"piece"]])
    lying = replace(entry, sections=(Section(b"x" * 16, 1),))
    with pytest.raises(Damaged):
        Repacker(WRITER).add(lying, [0], raw)


# Index


def make_entry(frames: list[tuple[int, int]], sha: bytes, births: int) -> PackEntry:
    cuts = [len(frames) * i // births for i in range(births + 1)]
    parts = [Section(bytes([i]) * 16, b - a) for i, (a, b) in enumerate(pairwise(cuts))]
    ids = os.urandom(16 * sum(count for _, count in frames))
    numbers, counts = [n for n, _ in frames], [c for _, c in frames]
    return PackEntry.of(sha.hex(), len(ids), parts, numbers, numbers, numbers, counts, ids)


entries = st.lists(
    st.builds(
        make_entry,
        st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(1, 30)), max_size=10),
        st.binary(min_size=32, max_size=32),
        st.integers(1, 3),
    ),
    max_size=5,
)


@given(entries, spots, spots)
def test_an_index_gives_back_its_entries_and_opens_only_unaltered(packs, flips, cuts):
    raw = encode_index(WRITER, "index/a", packs)
    assert [encode_entry(e) for e in decode_index(WRITER, "index/a", raw)] == [encode_entry(e) for e in packs]
    for bad in damaged_forms(raw, flips, cuts):
        with pytest.raises(Damaged):
            decode_index(WRITER, "index/a", bad)


@given(entries.filter(bool), st.integers(0, 1 << 30))
def test_an_entry_cut_short_is_no_entry(packs, cut):
    raw = encode_entry(packs[0])
    with pytest.raises(ValueError):
        decode_entry(raw[: cut % len(raw)])


@given(st.binary(max_size=200))
def test_authentic_nonsense_in_an_index_is_damaged(plain):
    for body in (plain, zstd.compress(plain, 3)):
        if plain == bytes(4) and body != plain:
            continue  # an index of no entries
        with pytest.raises(Damaged):
            decode_index(WRITER, "index/a", WRITER.envelope("index/a", body))


# Manifests


def _manifest(extents: list[tuple[int, ...]], packs: int = 3, split: int = 2) -> Manifest:
    columns = [np.array([e[i] for e in extents], "<u4") for i in range(7)]
    whole = Extents.of(columns, np.array([e[7] for e in extents], "<u8"))
    half = len(extents) // split
    parts = [whole.slice(0, half), whole.slice(half, len(extents))]
    streams = [
        StoredStream("app", f"s{i}", int(p.bytes.sum(dtype=np.int64)), "d", "content", p) for i, p in enumerate(parts)
    ]
    about = {"backup": "production/20261122T020000Z-7f3a", "sources": {"app": {"facts": {"ä": 1}}}}
    return Manifest(about, [(bytes([i % 256]) * 16, f"{i:064x}") for i in range(packs)], streams)


u32 = st.integers(0, 2**32 - 1)
extents = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 99), u32, u32, u32, u32, u32, st.integers(0, 2**64 - 1)), max_size=20
)
NAME = PLACE + "manifest"
ID = "production/20261122T020000Z-7f3a"


@given(extents)
def test_a_manifest_gives_back_streams_and_references(rows):
    manifest = _manifest(rows)
    raw = encode(WRITER, NAME, manifest)
    found = decode(RING, NAME, ID, raw)
    assert found.about == manifest.about
    assert found.packs == manifest.packs
    for a, b in zip(found.streams, manifest.streams, strict=True):
        assert (a.source, a.name, a.size, a.digest, a.cut) == (b.source, b.name, b.size, b.digest, b.cut)
        for column in ("pack", "frame", "offset", "length", "first", "pieces", "bytes", "check"):
            assert getattr(a.extents, column).tolist() == getattr(b.extents, column).tolist()
    outer = {(r.birth, r.pack): set(r.numbers.tolist()) for r in decode_references(WRITER, NAME, raw)}
    want = {key: {e[1] for e in rows if e[0] == i} for i, key in enumerate(manifest.packs)}
    assert outer == want
    with pytest.raises(KeyCannotRead):
        decode(WRITER, NAME, ID, raw)


@given(extents, spots, spots)
def test_an_altered_manifest_is_damaged(rows, flips, cuts):
    raw = encode(WRITER, NAME, _manifest(rows))
    for bad in damaged_forms(raw, flips, cuts):
        with pytest.raises(Damaged):
            decode(RING, NAME, ID, bad)
        try:
            found = decode_references(WRITER, NAME, bad)
        except Damaged:
            continue
        assert [r.numbers.tolist() for r in found] == [r.numbers.tolist() for r in decode_references(RING, NAME, raw)]
    with pytest.raises(Damaged):
        decode(RING, NAME, ID[:-1] + "b", raw)
    with pytest.raises(Damaged):
        decode_references(RING, NAME.replace("7f3a", "7f3b"), raw)


@pytest.mark.parametrize("packs", [1, 700, *range(1200, 1300, 10), 5000])
def test_the_references_of_a_large_backup_are_read_whole(packs):
    """More than fits into the first read of a manifest, and around that size: a prune must be able to read them."""
    import random

    ids = [random.Random(i).randbytes(48) for i in range(packs)]
    rows = [(i, 7, 0, 0, 0, 1, 1, 0) for i in range(packs)]
    manifest = replace(_manifest(rows, packs), packs=[(i[:16], i[16:].hex()) for i in ids])
    store = MemoryStore()
    store.put(NAME, encode(WRITER, NAME, manifest))

    class Shell:
        def __init__(self) -> None:
            self.store, self.keyring = store, WRITER

    found = references(Shell(), store.head(NAME))  # type: ignore[arg-type]
    assert [(r.birth, r.pack) for r in found] == manifest.packs


@given(st.integers(0, 0xEFFF), st.integers(0, 5))
def test_an_id_sorts_behind_the_newest_backup_of_the_same_second(suffix, seconds):
    begun = dt.datetime(2026, 11, 22, 2, 0, 3, tzinfo=dt.UTC)
    before = BackupId("production", "20261122T020003Z", f"{suffix:04x}")
    after = new_id("production", begun + dt.timedelta(seconds=seconds), before)
    assert before < after == parse_id(str(after))
