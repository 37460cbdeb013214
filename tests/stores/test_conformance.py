"""One suite that every store passes: what the vault builds on."""

import datetime as dt
import os
import secrets
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from keepwell.core.clock import UTC
from keepwell.core.errors import ObjectExists, ObjectMissing, StoreError
from keepwell.stores import Lock, open_store
from keepwell.stores.faulty import FaultyStore
from keepwell.stores.memory import MemoryStore
from keepwell.stores.probe import store_now, verify_conditional_put

BACKENDS = [
    "local",
    "memory",
    "faulty",
    pytest.param("s3", marks=pytest.mark.slow),
    pytest.param("rados", marks=pytest.mark.slow),
    pytest.param("locked", marks=pytest.mark.slow),
    pytest.param("az", marks=pytest.mark.slow),
    pytest.param("gs", marks=pytest.mark.slow),
    pytest.param("sftp", marks=pytest.mark.slow),
]


SERVERS = {"s3": "moto", "locked": "moto", "rados": "rados", "az": "azurite", "gs": "gcs", "sftp": "sshd"}
"""The fixture of the server that a backend speaks to."""


@pytest.fixture(params=BACKENDS)
def store(request, tmp_path):
    """An empty store of each kind."""
    match request.param:
        case "local":
            made = open_store((tmp_path / "a store").as_uri(), create=True)
        case "memory":
            made = MemoryStore()
        case "faulty":
            made = FaultyStore(MemoryStore())
        case "gs":
            if bucket := os.environ.get("KEEPWELL_TEST_GCS"):
                made = open_store(f"gs://{bucket}/keepwell-test-{secrets.token_hex(8)}")
            else:
                server = request.getfixturevalue(SERVERS["gs"])
                made = open_store(f"{server.url}/deep/{secrets.token_hex(8)}", server.options)
        case "locked":
            server = request.getfixturevalue(SERVERS["locked"])
            bucket = f"locked-{secrets.token_hex(8)}"
            boto3.client("s3", **server.boto).create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
            # Over as soon as it began, so that what is put can be deleted, as the suite wants it.
            made = open_store(f"s3://{bucket}/deep", server.options, lock=Lock(dt.timedelta(microseconds=1)))
        case "sftp":
            server = request.getfixturevalue(SERVERS["sftp"])
            folder = server.store / "deep" / secrets.token_hex(8)
            made = open_store(server.url_of(folder), server.options, create=True)
        case kind:
            server = request.getfixturevalue(SERVERS[kind])
            made = open_store(f"{server.url}/deep/{secrets.token_hex(8)}", server.options)
    yield made
    if request.param == "gs":
        for info in made.list():
            made.delete(info.name)
    made.close()


def names(store, prefix=""):
    return [info.name for info in store.list(prefix)]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_what_was_put_is_what_is_got(store, kind):
    content = bytes(range(256)) * 5
    store.put("packs/ab/one", kind(content))
    store.flush()
    assert store.get("packs/ab/one") == content
    assert type(store.get("packs/ab/one")) is bytes


def test_a_part_of_a_buffer_is_put_as_it_is(store):
    store.put("part", memoryview(b"0123456789")[2:5])
    assert store.get("part") == b"234"


def test_an_empty_object_is_an_object(store):
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.head("empty").size == 0
    assert names(store) == ["empty"]


def test_an_object_as_large_as_a_pack_comes_back(store):
    content = secrets.token_bytes(1 << 20) * 34
    store.put("packs/large", content)
    assert store.get("packs/large") == content
    assert store.get_range("packs/large", (33 << 20) + 7, 100) == content[(33 << 20) + 7 :][:100]


def test_a_second_put_with_other_content_is_refused_and_changes_nothing(store):
    store.put("vault.json", b"first")
    with pytest.raises(ObjectExists, match=r"vault\.json"):
        store.put("vault.json", b"second")
    with pytest.raises(ObjectExists):
        store.put("vault.json", b"fir")
    with pytest.raises(ObjectExists):
        store.put("vault.json", b"")
    assert store.get("vault.json") == b"first"


def test_a_second_put_of_the_same_content_is_success(store):
    store.put("vault.json", b"same")
    store.put("vault.json", b"same")
    store.flush()
    assert store.get("vault.json") == b"same"


def test_of_many_writers_of_one_name_exactly_one_wins(store):
    contents = [bytes([number]) * 5000 for number in range(16)]

    def put(content):
        try:
            store.put("contended/name", content)
        except ObjectExists:
            return None
        return content

    with ThreadPoolExecutor(16) as pool:
        winners = [content for content in pool.map(put, contents) if content is not None]
    assert winners == [store.get("contended/name")]


def test_many_writers_of_many_names_all_succeed(store):
    expected = sorted(f"packs/{number % 5:02x}/{number}" for number in range(40))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, name.encode()), expected))
    store.flush()
    assert names(store) == expected
    assert [store.get(name) for name in expected] == [name.encode() for name in expected]


def test_a_range_ends_where_the_object_ends(store):
    store.put("ten", b"0123456789")
    assert store.get_range("ten", 0, 4) == b"0123"
    assert store.get_range("ten", 6, 4) == b"6789"
    assert store.get_range("ten", 6, 100) == b"6789"
    assert store.get_range("ten", 10, 5) == b""
    assert store.get_range("ten", 11, 5) == b""
    assert store.get_range("ten", 3, 0) == b""


@pytest.mark.parametrize(("start", "length"), [(-1, 5), (0, -5)])
def test_a_range_that_cannot_be_is_an_error(store, start, length):
    store.put("ten", b"0123456789")
    with pytest.raises(StoreError):
        store.get_range("ten", start, length)


@pytest.mark.parametrize("name", ["missing", "no/such/folder"])
def test_a_missing_object_is_named(store, name):
    store.put("there", b"1")
    for read in (store.get, store.head, lambda n: store.get_range(n, 0, 1), lambda n: store.get_range(n, 0, 0)):
        with pytest.raises(ObjectMissing, match=name):
            read(name)


def test_in_an_empty_store_an_object_is_missing_and_nothing_is_listed(store):
    assert names(store) == []
    assert names(store, "packs/") == []
    with pytest.raises(ObjectMissing):
        store.head("vault.json")


def test_head_tells_size_and_time_in_utc(store):
    before = store_now(store)
    store.put("five", b"12345")
    info = store.head("five")
    assert (info.name, info.size) == ("five", 5)
    assert info.modified.utcoffset() == dt.timedelta(0)
    assert info.modified.tzinfo == UTC
    assert before - dt.timedelta(seconds=2) <= info.modified <= store_now(store) + dt.timedelta(seconds=2)


def test_a_list_is_sorted_by_the_whole_name_and_tells_sizes(store):
    given = ["a/b", "a-b", "a.b", "a0", "a/b-c/d", "a/c/d", "B", "vault.json", "a/c0"]
    for number, name in enumerate(given):
        store.put(name, bytes(number))
    assert names(store) == sorted(given)
    assert {info.name: info.size for info in store.list()} == {name: number for number, name in enumerate(given)}


def test_a_prefix_is_whole_parts_of_a_name(store):
    for name in ("wal/1", "wal/2/3", "wal-old/1", "walnut", "index/1"):
        store.put(name, b"")
    assert names(store, "wal/") == ["wal/1", "wal/2/3"]
    assert names(store, "wal/2/") == ["wal/2/3"]
    assert names(store, "nothing/") == []
    with pytest.raises(StoreError, match="cannot be listed"):
        list(store.list("wal"))


def test_a_list_longer_than_a_page_is_whole(store):
    expected = [f"index/{number:04}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b"x"), expected))
    assert names(store, "index/") == expected


def test_a_deleted_object_is_gone_and_its_name_free(store):
    store.put("packs/ab/one", b"1")
    store.put("packs/ab/two", b"2")
    store.delete("packs/ab/one")
    assert names(store) == ["packs/ab/two"]
    with pytest.raises(ObjectMissing):
        store.get("packs/ab/one")
    store.put("packs/ab/one", b"another")
    assert store.get("packs/ab/one") == b"another"


def test_deleting_what_is_not_there_is_no_error(store):
    store.put("there/1", b"1")
    store.delete("there/2")
    store.delete("never/made")
    store.delete("there/1")
    store.delete("there/1")
    assert names(store) == []


def test_objects_deleted_while_listing_do_no_harm(store):
    for number in range(20):
        store.put(f"packs/{number % 4}/{number}", b"")
    for info in store.list():
        for other in range(20):
            store.delete(f"packs/{other % 4}/{other}")
        assert info.name.startswith("packs/")
    assert names(store) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        ".tmp/a",
        ".hidden",
        "a/.nfs01",
        "ä",
        "a b",
        "a\\b",
        "a\n",
        "a\0",
        "a%2Fb",
        "a?b",
        "x" * 201,
        "a/" * 500 + "b",
    ],
)
def test_a_bad_name_is_refused_by_every_call(store, name):
    for call in (
        lambda: store.put(name, b""),
        lambda: store.get(name),
        lambda: store.head(name),
        lambda: store.get_range(name, 0, 1),
        lambda: store.delete(name),
    ):
        with pytest.raises(StoreError, match="cannot be the name"):
            call()


def test_every_character_of_a_good_name_comes_back(store):
    name = "a=1+b@c,d-e_f.g/2026-11-22/020003Z-7f3a/metadata.json"
    store.put(name, b"1")
    assert names(store) == [name]
    assert store.get(name) == b"1"


def test_the_store_proves_that_it_does_not_overwrite_and_leaves_nothing(store):
    verify_conditional_put(store)
    assert names(store) == []


def test_the_store_tells_its_time_and_leaves_nothing(store):
    assert store_now(store).tzinfo == UTC
    assert names(store) == []


def test_the_address_opens_the_same_store_again(store, request):
    if "memory" in store.url:
        pytest.skip("memory is not shared")
    store.put("here", b"1")
    fixture = SERVERS.get(request.node.callspec.params["store"])
    options = request.getfixturevalue(fixture).options if fixture else None
    again = open_store(store.url, options)
    assert again.get("here") == b"1"
    again.close()
