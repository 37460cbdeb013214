"""A bucket for one `with` block: moto on loopback, behind nginx for TLS, since pgBackRest speaks to no S3 without it."""

from __future__ import annotations

import contextlib
import getpass
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3

from keepwell.sources.postgres.server import free_port

NAME = "bench"
KEY, SECRET = "benchmark", "benchmark-secret"
NGINX = """\
daemon off;
user {user};
pid {work}/nginx.pid;
error_log {work}/nginx.log;
events {{}}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  proxy_request_buffering off;
  proxy_buffering off;
  keepalive_requests 100000;
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {certificate};
    ssl_certificate_key {key};
    location / {{ proxy_pass http://127.0.0.1:{moto}; proxy_set_header Host $http_host; }}
  }}
}}
"""


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
    port, moto = free_port(), free_port()
    values = {
        "user": getpass.getuser(),
        "work": work,
        "port": port,
        "moto": moto,
        "certificate": certificate,
        "key": key,
    }
    (work / "nginx.conf").write_text(NGINX.format(**values))
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((work / "moto.log").open("wb"))
        for command in (
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(moto)],
            ["nginx", "-c", work / "nginx.conf"],
        ):
            process = subprocess.Popen(command, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
        found = Bucket(port, certificate)
        for asked in (moto, port):
            wait_for(asked)
        found.make()
        yield found


def wait_for(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise SystemExit(f"nothing listens on {port}")
