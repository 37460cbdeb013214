"""What a user is told when a cloud store does not do as asked."""

import socket

import pytest

from keepwell.core.errors import ObjectMissing, StoreDenied, StoreError
from keepwell.stores import open_store
from support.servers import free_port, moto_server

pytestmark = pytest.mark.slow

QUICK = {"retries": "1", "connect_timeout": "2", "timeout": "1", "transfer_timeout": "1", "retry_timeout": "1"}

CALLS = {
    "put": lambda store: store.put("a/b", b"1"),
    "put large": lambda store: store.put("a/b", bytes(300_000)),
    "get": lambda store: store.get("a/b"),
    "get_range": lambda store: store.get_range("a/b", 0, 1),
    "head": lambda store: store.head("a/b"),
    "list": lambda store: list(store.list()),
    "delete": lambda store: store.delete("a/b"),
}


def refused(store, call):
    """The error of the call, which must be a plain one: short, one line, with a hint, without a library's dump."""
    with pytest.raises(StoreError) as caught:
        CALLS[call](store)
    error = caught.value
    assert len(error.message) < 350, error.message
    assert "\n" not in error.message
    assert error.hint
    for dump in ("Debug source", "RetryError", "xml"):
        assert dump not in error.message
    return error


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("kind", ["moto", "azurite"])
def test_a_bucket_that_is_not_there_is_no_missing_object(kind, call, request):
    server = request.getfixturevalue(kind)
    scheme = server.url.split(":")[0]
    error = refused(open_store(f"{scheme}://no-such-bucket/x", server.options), call)
    assert not isinstance(error, ObjectMissing)
    assert "has no bucket 'no-such-bucket'" in error.message or "has no container 'no-such-bucket'" in error.message
    assert "Create the" in error.hint


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_told_with_the_variables_to_set_s3(rclone, call):
    error = refused(open_store(rclone.url, {**rclone.options, "secret_access_key": "hunter2"}), call)
    assert isinstance(error, StoreDenied)
    assert rclone.endpoint in error.message
    assert "AWS_SECRET_ACCESS_KEY" in error.hint
    assert "hunter2" not in error.message + error.hint


@pytest.mark.parametrize("call", CALLS)
def test_wrong_credentials_are_told_with_the_variables_to_set_azure(azurite, call):
    error = refused(open_store(azurite.url, {**azurite.options, "account_key": "aHVudGVyMg=="}), call)
    assert isinstance(error, StoreDenied)
    assert "AZURE_STORAGE_ACCOUNT_KEY" in error.hint
    assert "aHVudGVyMg" not in error.message + error.hint


def test_an_access_key_that_nobody_knows_is_named_by_the_servers_code():
    with moto_server(check_credentials=True) as server:
        error = refused(open_store(server.url, server.options), "put")
        assert isinstance(error, StoreDenied)
        assert "InvalidAccessKeyId" in error.message


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_is_down_cannot_be_reached(call):
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = open_store("s3://b", {"endpoint": endpoint, "access_key_id": "a", "secret_access_key": "hunter2", **QUICK})
    error = refused(store, call)
    assert f"{endpoint} cannot be reached" in error.message
    assert "hunter2" not in error.message + error.hint


@pytest.mark.parametrize("call", CALLS)
def test_a_server_that_accepts_and_then_says_nothing_is_given_up(call):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = open_store("s3://b", {"endpoint": endpoint, "access_key_id": "a", "secret_access_key": "b", **QUICK})
        assert "did not answer in time" in refused(store, call).message


def test_a_server_that_dies_between_two_calls_is_told():
    with moto_server() as server:
        store = open_store(server.url, {**server.options, **QUICK})
        store.put("a/b", b"1")
        server.stop()
        assert "cannot be reached" in refused(store, "get").message


def test_an_unknown_host_cannot_be_reached():
    store = open_store(
        "s3://b", {"endpoint": "https://keepwell.invalid", "access_key_id": "a", "secret_access_key": "b", **QUICK}
    )
    assert "https://keepwell.invalid cannot be reached" in refused(store, "head").message


def test_credentials_come_from_the_environment(moto, monkeypatch):
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"{moto.url}/by-environment")
    store.put("one", b"1")
    assert store.get("one") == b"1"


@pytest.mark.parametrize("kind", ["azurite", "gcs"])
def test_credentials_of_others_come_from_the_environment(kind, request, monkeypatch):
    server = request.getfixturevalue(kind)
    for name, value in server.env.items():
        monkeypatch.setenv(name, value)
    store = open_store(f"{server.url}/by-environment")
    store.put("one", b"1")
    assert store.get("one") == b"1"


def test_the_environment_cannot_switch_conditional_puts_off(moto, monkeypatch):
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    store = open_store(f"{moto.url}/still-conditional", moto.options)
    store.put("one", b"1")
    with pytest.raises(StoreError, match="other content"):
        store.put("one", b"2")


def test_two_stores_in_one_bucket_do_not_see_each_other(moto):
    one, two = (open_store(f"{moto.url}/{prefix}", moto.options) for prefix in ("same", "same-but-longer"))
    one.put("a", b"1")
    two.put("a", b"2")
    assert [info.name for info in one.list()] == ["a"]
    assert one.get("a") == b"1"
