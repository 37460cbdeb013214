"""Every object of a vault flipped, cut short and removed in turn: the check says so, and no restore gives wrong bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from vaultkit import (
    HOUR,
    START,
    back_up,
    begin,
    check,
    commit,
    new_store,
    noise,
    open_vault,
    prune,
    restore,
    tick,
    troubles,
)

from keepwell.core.errors import Damaged, KeepwellError, KeyCannotRead, KeyMissing, KeyWrong
from keepwell.core.secrets import Secret
from keepwell.keys import slots
from keepwell.stores.local import LocalStore
from keepwell.vault import check as checking
from keepwell.vault.catalog import Proof
from keepwell.vault.index import encode_index
from keepwell.vault.vault import Vault

ONE = {"app": {"a": noise("a", 60_000), "b": noise("b", 30_000)}}
GONE = {"app": {"dump": noise("gone", 9_000)}}
TWO = {"app": {"a": ONE["app"]["a"], "c": noise("c", 20_000)}}


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> tuple[Path, slots.KeyFile]:
    """A vault on disk: two backups that share a pack, a frame that a prune moved, a proof, a mark, a passphrase slot."""
    folder = tmp_path_factory.mktemp("sound")
    store = LocalStore(folder / "vault", create=True)
    Vault.create(store, now=START, key_file=folder / "key", cache=folder / "cache")
    key = slots.read_key_file(folder / "key")
    vault = open_vault(store, key=key)
    old = back_up(vault, {"app": {"a": ONE["app"]["a"], "x": noise("x", 600_000)}}, at=START - HOUR)
    one, two = back_up(vault, ONE), back_up(vault, TWO, at=START + HOUR)
    prune(vault, [old])
    gone = back_up(vault, GONE["app"]["dump"], at=START + 2 * HOUR)
    prune(vault, [gone], grace=HOUR)
    vault.record(one, Proof(str(one.id), one.checksum, START, "restore", True, "fine", {"tables": {}}))
    assert [b.id for b in vault.backups()] == [one.id, two.id]
    assert check(open_vault(store, key=key)).findings == []
    store.close()
    return folder, key


def damaged(path: Path):
    """What may become of an object: bits flipped at its beginning, middle and end, cut short, emptied, removed."""
    raw = path.read_bytes()
    for at in {0, 9, len(raw) // 3, len(raw) // 2, len(raw) - 40, len(raw) - 1}:
        yield f"flipped at {at}", raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :]
    yield "cut short", raw[:-1]
    yield "halved", raw[: len(raw) // 2]
    yield "emptied", b""
    yield "removed", None


@pytest.mark.slow
def test_whatever_happens_to_an_object_is_found_and_never_restored_as_if_it_were_right(sound, tmp_path):
    folder, key = sound
    shutil.copytree(folder / "vault", tmp_path / "vault")
    store = LocalStore(tmp_path / "vault")
    names = sorted(info.name for info in store.list())
    kinds = {name.split("/")[0] for name in names}
    assert {"keys", "packs", "index", "trash", "production", "vault.json", "recover.py", "RECOVERY.md"} <= kinds
    missed = []
    vault = open_vault(store, key=key)
    (condemned,) = vault.scan().condemned
    # On its way out: nobody looks at it any more.
    going = (condemned.folder, *(f"packs/{pack[:2]}/{pack}" for _, pack in vault.read(condemned).manifest.packs))
    for name in names:
        if name.startswith(going):
            continue
        path = tmp_path / "vault" / name
        raw = path.read_bytes()
        for how, content in damaged(path):
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            before = ONE, TWO, GONE  # the last where its mark is gone
            opened = found = False
            try:
                vault = open_vault(store, key=key)
                opened = True
                found = bool(check(vault).findings)
                for backup in vault.backups():
                    assert restore(vault, backup) in before, (name, how)
            except KeepwellError:
                assert opened or name.startswith(("keys/", "vault.json"))
                found = found or not opened
            # An index or a mark that is gone harms nothing: the packs describe themselves, the garbage is condemned again.
            # So does a proof: it is evidence that is no longer there.
            harmless = content is None and (name.startswith(("index/", "trash/")) or "/proof-" in name)
            if not found and not harmless:
                missed.append((name, how))
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
    assert missed == []


def test_a_damaged_object_that_a_restore_needs_stops_that_restore_and_no_other(sound, tmp_path):
    """By the reader alone, without a check before."""
    folder, key = sound
    shutil.copytree(folder / "vault", tmp_path / "vault")
    store = LocalStore(tmp_path / "vault")
    one, two = open_vault(store, key=key).backups()
    assert restore(open_vault(store, key=key), one) == ONE
    for backup, other, content in ((one, two, TWO), (two, one, ONE)):
        for name in (backup.manifest, backup.metadata):
            path = tmp_path / "vault" / name
            raw = path.read_bytes()
            for _how, bad in damaged(path):
                path.unlink()
                if bad is not None:
                    path.write_bytes(bad)
                vault = open_vault(store, key=key)
                with pytest.raises(Damaged):
                    vault.read(backup)
                assert restore(vault, other) == content
            path.unlink(missing_ok=True)
            path.write_bytes(raw)


def test_one_altered_slot_does_not_shut_out_who_has_another(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "ARGON2", {"memory_kib": 64, "passes": 1, "lanes": 1})
    store = new_store()
    vault = open_vault(store)
    for text in ("first", "second", "third"):
        vault.add_slot(slots.Passphrase(Secret(text)), role="reader", label=text, now=START)
    names = [n for n in sorted(store.objects) if n.startswith("keys/")]
    labels = {n: slots.describe(n, store.objects[n][0]).label for n in names}
    for bad in names:
        raw, when = store.objects[bad]
        for content in (b"", raw[:50], raw.replace(b'"label": "', b'"label": "x'), b"\xff" * 40):
            store.objects[bad] = (content, when)
            for name, label in labels.items():
                if label != "first" and name != bad:
                    opened = open_vault(store, key=slots.Passphrase(Secret(label)))
                    assert opened.keyring.private == vault.keyring.private
                    assert any(f.what == bad for f in check(opened).findings)
        store.objects[bad] = (raw, when)
    with pytest.raises(KeyWrong):
        open_vault(store, key=slots.Passphrase(Secret("fourth")))


def test_a_writer_key_backs_up_shares_lists_and_prunes_but_cannot_read(tmp_path):
    store = new_store()
    owner = open_vault(store)
    first = back_up(owner, ONE)
    owner.add_slot(tmp_path / "writer", role="writer", label="server", now=START)
    vault = open_vault(store, key=slots.read_key_file(tmp_path / "writer"))
    assert vault.keyring.role == "writer"
    assert vault.keyring.private is None
    with begin(vault, at=START + HOUR) as session:
        sink = session.sink("app")
        for name, data in ONE["app"].items():
            stream = sink.stream(name)
            stream.write(data)
            stream.close()
        session.done("app", {})
        second = commit(session)
        assert session.desk.new == 0
    assert [b.id for b in vault.backups()] == [first.id, second.id]
    for backup in (first, second):
        with pytest.raises(KeyCannotRead):
            vault.read(backup)
    report = check(vault)
    assert (report.findings, report.depth) == ([], "checksums")
    with pytest.raises(KeyMissing):
        vault.add_slot(tmp_path / "reader", role="reader", label="no", now=START)
    tick(store)
    prune(vault, [first])
    assert restore(open_vault(store), second) == ONE


# check


def test_a_lost_pack_names_every_backup_that_needs_it_and_no_other():
    store = new_store()
    vault = open_vault(store)
    shared, alone = back_up(vault, ONE), back_up(vault, noise("alone", 30_000), at=START + HOUR)
    sharing = back_up(vault, {"app": {"a": ONE["app"]["a"]}}, at=START + 2 * HOUR)
    manifest = vault.read(sharing).manifest
    (pack,) = {pack for _, pack in manifest.packs}
    spot = int(manifest.streams[0].extents.offset[0]) + 100
    name = f"packs/{pack[:2]}/{pack}"
    raw, when = store.objects[name]
    for content in (None, raw[:spot], raw[:spot] + bytes([raw[spot] ^ 1]) + raw[spot + 1 :]):
        del store.objects[name]
        if content is not None:
            store.objects[name] = (content, when)
        report = check(open_vault(store))
        assert any(f.what == name for f in report.findings)
        assert report.affected == sorted(b.folder.rstrip("/") for b in (shared, sharing))
        assert restore(open_vault(store), alone)["app"]["dump"] == noise("alone", 30_000)
        with pytest.raises(Damaged, match=pack):
            restore(open_vault(store), sharing)
        store.objects[name] = (raw, when)
    assert check(open_vault(store)).findings == []


def test_a_lost_index_is_found_restores_work_and_a_prune_writes_it_anew():
    store = new_store()
    backup = back_up(open_vault(store), ONE)
    for name in [n for n in store.objects if n.startswith("index/")]:
        del store.objects[name]
    assert "is in no index" in troubles(open_vault(store))[0]
    assert restore(open_vault(store), backup) == ONE
    tick(store)
    prune(open_vault(store))
    assert troubles(open_vault(store)) == []
    assert restore(open_vault(store), backup) == ONE


def test_two_damages_at_once_do_not_stop_the_check():
    """A pack that is missing, and another index that does not open."""
    store = new_store()
    back_up(open_vault(store), ONE)
    back_up(open_vault(store), TWO, at=START + HOUR)
    indexes = sorted(n for n in store.objects if n.startswith("index/"))
    first = {n for n in store.objects if n.startswith("packs/")}
    for index in indexes:
        raw, when = store.objects[index]
        store.objects[index] = (raw[:-1], when)
        lost = {n: store.objects.pop(n) for n in first}
        assert any(f.what == index for f in check(open_vault(store)).findings)
        store.objects |= lost
        store.objects[index] = (raw, when)
    store.objects["packs/zz/README"] = (b"hello", START)
    assert any(f.what == "packs/zz/README" for f in check(open_vault(store), share=2).findings)


@pytest.mark.parametrize("of", [1, 2, 5])
def test_shares_cover_every_pack_in_as_many_runs_and_then_begin_again(of):
    store = new_store()
    for n in range(6):
        back_up(open_vault(store), noise(("p", n), 100_000), at=START + n * HOUR)
    every = {n for n in store.objects if n.startswith("packs/")}
    assert len(every) == 6

    class Watching:
        def __init__(self) -> None:
            self.read: set[str] = set()

        def __getattr__(self, name):
            return getattr(store, name)

        def get(self, name):
            self.read.add(name)
            return store.get(name)

    rounds = []
    for run in range(2 * of):
        watching = Watching()
        report = check(open_vault(watching), data=False, share=of, now=START + run * HOUR)  # type: ignore[arg-type]
        assert report.findings == []
        rounds.append((report.share, watching.read & every))
    assert set.union(*(read for _, read in rounds[:of])) == every
    assert sum(len(read) for _, read in rounds[:of]) == len(every)
    assert [share for share, _ in rounds[:of]] == [share for share, _ in rounds[of:]]
    # A damaged pack is found within as many runs.
    name = sorted(every)[3]
    raw, when = store.objects[name]
    store.objects[name] = (raw[:-30] + bytes([raw[-30] ^ 1]) + raw[-29:], when)
    found = [check(open_vault(store), data=False, share=of, now=START + (99 + n) * HOUR).findings for n in range(of)]
    assert sum(any(f.what == name for f in findings) for findings in found) == 1


def test_the_part_of_a_share_is_every_pack_once():
    names = [f"{n:064x}"[::-1] for n in range(500)]
    for of in (1, 2, 7, 30):
        holders = [sum(checking.Share(number, of).holds(name) for number in range(of)) for name in names]
        assert set(holders) == {1}


# A writer that lies


def test_an_index_that_sends_pieces_elsewhere_is_found_and_never_gives_wrong_bytes():
    """A malicious holder of a writer key says that known pieces lie where its own data is."""
    store = new_store()
    vault = open_vault(store)
    back_up(vault, {"app": {"a": noise("a", 60_000)}})
    honest = next(iter(vault.entries()))
    evil = back_up(vault, {"app": {"a": noise("e", 60_000)}}, at=START + HOUR)
    theirs = next(e for e in vault.entries() if e.pack != honest.pack)
    from dataclasses import replace

    count = min(len(honest.ids), len(theirs.ids))
    pieces = theirs.pieces.copy()
    lies = replace(theirs, ids=honest.ids[:count] + theirs.ids[count:], pieces=pieces)
    for name in [n for n in store.objects if n.startswith("index/")]:
        del store.objects[name]
    store.put("index/" + "0" * 32, encode_index(vault.keyring, "index/" + "0" * 32, [lies]))
    poisoned = back_up(open_vault(store), {"app": {"a": noise("a", 60_000)}}, at=START + 2 * HOUR)
    with pytest.raises(Damaged, match="does not hold the pieces"):
        restore(open_vault(store), poisoned)
    assert any("does not hold the pieces" in text for text in troubles(open_vault(store)))
    assert restore(open_vault(store), evil)["app"]["a"] == noise("e", 60_000)
    # A true index beside the lying one does not hide it.
    store.put("index/" + "f" * 32, encode_index(vault.keyring, "index/" + "f" * 32, [honest, theirs]))
    assert troubles(open_vault(store))
    store.put("index/" + "00", encode_index(vault.keyring, "index/00", [honest, theirs]))
    assert troubles(open_vault(store))


def test_objects_put_in_each_others_place_are_found():
    """Two packs, two manifests, two indexes or two metadata exchanged by whoever holds the store."""
    store = new_store()
    one, two = back_up(open_vault(store), ONE), back_up(open_vault(store), noise("2", 90_000), at=START + HOUR)
    packs = sorted(n for n in store.objects if n.startswith("packs/"))
    indexes = sorted(n for n in store.objects if n.startswith("index/"))
    for a, b in (
        (packs[0], packs[-1]),
        (indexes[0], indexes[1]),
        (one.manifest, two.manifest),
        (one.metadata, two.metadata),
    ):
        store.objects[a], store.objects[b] = store.objects[b], store.objects[a]
        assert troubles(open_vault(store))
        if not a.startswith("index/"):
            assert sum(refuses(store, backup) for backup in (one, two)) > 0
        store.objects[a], store.objects[b] = store.objects[b], store.objects[a]
    assert troubles(open_vault(store)) == []


def refuses(store, backup) -> bool:
    try:
        restore(open_vault(store), backup)
    except Damaged:
        return True
    return False


def test_a_manifest_whose_references_are_not_what_it_needs_is_found():
    """A prune goes by the references, a restore by the streams: where they differ a prune would delete too much."""
    from keepwell.vault import manifest as manifests

    store = new_store()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifests, "_ranges", lambda numbers: [])
        back_up(open_vault(store), ONE)
    assert "references" in troubles(open_vault(store))[0]


def test_a_spoilt_cache_is_never_believed_and_mends_itself(tmp_path):
    store = new_store()
    cache = tmp_path / "cache"
    vault = open_vault(store, cache)
    one = back_up(vault, ONE)
    vault.record(one, Proof(str(one.id), one.checksum, START, "round-trip", True, "fine"))
    assert [b.proven for b in vault.backups()] == [True]
    back_up(open_vault(store, cache), TWO, at=START + HOUR)
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert {path.relative_to(cache).parts[0] for path in files} == {"index", "production"}
    for spoil in (lambda raw: b"", lambda raw: raw[:-1], lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]):
        for path in files:
            path.write_bytes(spoil(path.read_bytes() or b"x" * 50))
        again = open_vault(store, cache)
        assert [(b.proven, restore(again, b)) for b in again.backups()] == [(True, ONE), (False, TWO)]
        with begin(again, at=START + 2 * HOUR) as session:
            stream = session.sink("app").stream("a")
            stream.write(ONE["app"]["a"])
            stream.close()
            assert session.desk.new == 0
