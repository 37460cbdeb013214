"""Servers shared by the tests of stores: one of each for the whole run."""

import pytest

from support.gcs import gcs_server
from support.rados import rados_gateway
from support.servers import azurite_server, moto_server, rclone_s3
from support.sftp import ssh_server


@pytest.fixture(scope="session")
def moto():
    with moto_server() as server:
        yield server


@pytest.fixture(scope="session")
def azurite():
    with azurite_server() as server:
        yield server


@pytest.fixture(scope="session")
def gcs():
    with gcs_server() as server:
        yield server


@pytest.fixture(scope="session")
def rados(tmp_path_factory):
    with rados_gateway(tmp_path_factory.mktemp("rados")) as server:
        yield server


@pytest.fixture(scope="session")
def rclone(tmp_path_factory):
    with rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def sshd(tmp_path_factory):
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_credentials_of_the_developer(monkeypatch):
    """No test reaches a real account through the variables of the shell it was started from."""
    import os

    if not os.environ.get("KEEPWELL_TEST_GCS"):
        for name in list(os.environ):
            if name.startswith(("AWS_", "AZURE_", "GOOGLE_")):
                monkeypatch.delenv(name)
