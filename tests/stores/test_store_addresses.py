"""`open_store`: which addresses are stores, and what is said of the others."""

import subprocess
import sys

import pytest

from keepwell.core.errors import StoreError
from keepwell.stores import open_store
from keepwell.stores.cloud import CloudStore


@pytest.mark.parametrize(
    "url", ["", "backups", "/var/backups", "ftp://host/x", "http://bucket.example", "s3:bucket", "memory://x"]
)
def test_an_unknown_address_is_answered_with_what_is_supported(url):
    with pytest.raises(StoreError, match="not the address") as caught:
        open_store(url)
    assert (
        all(scheme in caught.value.hint for scheme in ("file:///", "s3://", "gs://", "az://"))
        or "s3://" in caught.value.hint
    )


@pytest.mark.parametrize("url", ["file://backups/x", "file:backups", "file://", "file:///x?y", "file:///x#y"])
def test_a_file_address_is_an_absolute_path_on_this_machine(url):
    with pytest.raises(StoreError, match="not the address of a folder"):
        open_store(url)


@pytest.mark.parametrize(
    "url", ["s3://", "s3:///prefix", "gs://bucket/a//b", "az://c/../x", "s3://b/p?x=1", "s3://b/.p"]
)
def test_a_bucket_address_is_a_bucket_and_a_plain_prefix(url):
    with pytest.raises(StoreError, match="not the address of a bucket"):
        open_store(url)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    for url in ("s3://key:hunter2@bucket/x", "ftp://me:hunter2@host/x", "https://host/x?sig=hunter2"):
        with pytest.raises(StoreError) as caught:
            open_store(url)
        assert "hunter2" not in caught.value.message + caught.value.hint


def test_the_address_of_a_cloud_store_has_no_secrets():
    store = open_store("s3://bucket/prefix/", {"access_key_id": "AK", "secret_access_key": "hunter2"})
    assert store.url == "s3://bucket/prefix"
    assert "hunter2" not in repr(store)


def test_an_unknown_option_is_an_error_that_lists_the_known():
    with pytest.raises(StoreError, match="has no option regoin") as caught:
        open_store("s3://bucket", {"regoin": "x"})
    assert "region" in caught.value.hint
    with pytest.raises(StoreError, match="no options"):
        open_store("file:///tmp", {"region": "x"})


@pytest.mark.parametrize(
    ("key", "value"), [("timeout", "soon"), ("timeout", "0"), ("retries", "-1"), ("allow_http", "yes")]
)
def test_an_option_of_the_wrong_kind_is_an_error(key, value):
    with pytest.raises(StoreError, match=key):
        open_store("s3://bucket", {key: value})


@pytest.mark.parametrize("endpoint", ["http://s3.example.org", "http://10.0.0.5:9000", "http://127.0.0.1.example.org"])
def test_an_endpoint_without_encryption_is_refused_unless_allowed(endpoint, monkeypatch):
    with pytest.raises(StoreError, match="not encrypted") as caught:
        open_store("s3://bucket", {"endpoint": endpoint})
    assert "allow_http" in caught.value.hint
    assert isinstance(open_store("s3://bucket", {"endpoint": endpoint, "allow_http": "true"}), CloudStore)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(StoreError, match="not encrypted"):
        open_store("s3://bucket")


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://localhost:9000", "http://[::1]:9000"])
def test_an_endpoint_on_this_machine_needs_no_encryption(endpoint):
    assert isinstance(open_store("s3://bucket", {"endpoint": endpoint}), CloudStore)


def test_azure_without_an_account_names_the_variable():
    with pytest.raises(StoreError) as caught:
        open_store("az://container")
    assert "AZURE_STORAGE_ACCOUNT_NAME" in caught.value.hint


def test_a_key_file_that_is_not_there_names_the_variable():
    with pytest.raises(StoreError) as caught:
        open_store("gs://bucket", {"service_account": "/no/such/file.json"})
    assert "GOOGLE_APPLICATION_CREDENTIALS" in caught.value.hint


def test_a_local_store_does_not_load_the_cloud_library(tmp_path):
    code = f"import sys; from keepwell.stores import open_store; open_store({tmp_path.as_uri()!r}); print('obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"False\n"


@pytest.mark.parametrize(
    "url",
    [
        "sftp://host/x",
        "sftp://me@/x",
        "sftp://me@host:0x/y",
        "sftp://me@host/../x",
        "sftp://me@host/a//b",
        "sftp://me@host/x?y",
    ],
)
def test_an_sftp_address_is_a_user_a_host_and_a_plain_path(url):
    with pytest.raises(StoreError, match="not the address of a folder on an SFTP server") as caught:
        open_store(url)
    assert "sftp://user@host/path" in caught.value.hint


def test_an_sftp_address_with_a_password_is_refused_and_not_repeated():
    with pytest.raises(StoreError, match="password in the address") as caught:
        open_store("sftp://me:hunter2@host/x")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_an_sftp_address_is_shown_in_one_way_whatever_was_written():
    for written, shown in [
        ("sftp://me@HOST:22/backups/", "sftp://me@host/backups"),
        ("sftp://me@host:2222/~/backups", "sftp://me@host:2222/~/backups"),
        ("sftp://me@[::1]/backups", "sftp://me@[::1]/backups"),
    ]:
        store = open_store(written, {"password": "hunter2"})
        assert store.url == shown
        assert "hunter2" not in repr(store) + repr(vars(store))
        store.close()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"pasword": "x"}, "has no option pasword"),
        ({"password": "x", "key_file": "y"}, "both password and key_file"),
        ({"host_key": "x", "known_hosts": "y"}, "both host_key and known_hosts"),
        ({"key_passphrase": "x"}, "no key_file"),
        ({"fsync": "no"}, "neither true nor false"),
        ({"retries": "many"}, "not a number of tries"),
    ],
)
def test_options_of_an_sftp_store_that_cannot_be_right_are_named(options, what):
    with pytest.raises(StoreError, match=what):
        open_store("sftp://me@host/x", options)


def test_a_local_store_does_not_load_the_ssh_library_nor_does_a_policy(tmp_path):
    code = "import sys; import keepwell.policy.models, keepwell.stores; print('asyncssh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"False\n"
