"""A bucket for one `with` block: moto on loopback over TLS, since pgBackRest speaks to no S3 without it."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3

NAME = "bench"
KEY, SECRET = "benchmark", "benchmark-secret"


@dataclass(frozen=True)
class Bucket:
    port: int
    certificate: Path
    """Signed by itself."""

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def env(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "SSL_CERT_FILE": str(self.certificate),
        }

    def size(self) -> int:
        """Bytes of all objects."""
        pages = self._client().get_paginator("list_objects_v2").paginate(Bucket=NAME)
        return sum(int(found["Size"]) for page in pages for found in page.get("Contents", []))

    def make(self) -> None:
        self._client().create_bucket(Bucket=NAME)

    def _client(self):  # type: ignore[no-untyped-def]  # boto3 makes its classes as it runs
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            verify=str(self.certificate),
        )


@contextlib.contextmanager
def bucket(work: Path) -> Iterator[Bucket]:
    certificate, key = work / "moto.crt", work / "moto.key"
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    made = f"req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext {names} -addext basicConstraints=CA:FALSE"
    subprocess.run(["openssl", *made.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "moto.server",
        "-H",
        "127.0.0.1",
        "-p",
        str(port),
        "-s",
        "-c",
        certificate,
        "-k",
        key,
    ]
    with (work / "moto.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        found = Bucket(port, certificate)
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        found.make()
        yield found
    finally:
        process.terminate()
        process.wait()
