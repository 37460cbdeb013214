"""A real S3 that is not Amazon's: Ceph's RADOS gateway of Debian, with one monitor and one store in memory, on loopback.

tests/setup.sh installs it where it can: `apt-get install --no-install-recommends ceph-mon ceph-osd radosgw`.
Everything is below one folder; no manager, no keys among the parts, one copy of each object.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from support.servers import BUCKET, Server, free_port

_START_SECONDS = 90
_KEY, _SECRET = "AKIAKEEPWELLTEST0000", "keepwell-test-secret"
_PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")

_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
public network = 127.0.0.0/8
ms bind ipv6 = false
ms bind msgr1 = false
run dir = {home}
pid file =
admin socket =
log file = {home}/$name.log
keyring = {home}/keyring
mon data = {home}/mon
osd data = {home}/osd
rgw data = {home}/rgw

# Nobody signs in, and then nobody can encrypt either: what would be "secure" finds no way to speak.
auth cluster required = none
auth service required = none
auth client required = none
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc

osd objectstore = memstore
memstore device bytes = 1073741824
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 0
# Every pool that the gateway makes at its start waits this long for the monitor.
paxos propose interval = 0.05
paxos min wait = 0.02

[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw thread pool size = 64
"""


@contextlib.contextmanager
def rados_gateway(home: Path) -> Iterator[Server]:
    """S3 by a RADOS gateway, in whose buckets objects can be locked; skips, with the reason, where Ceph is missing."""
    if missing := [name for name in _PROGRAMS if shutil.which(name) is None]:
        pytest.skip(
            f"no {', '.join(missing)}: apt-get install --no-install-recommends ceph-mon ceph-osd radosgw (Debian's)"
        )
    for name in ("osd", "rgw"):
        (home / name).mkdir(parents=True)
    (home / "keyring").touch()
    fsid, mon, gateway = str(uuid.uuid4()), free_port(), free_port()
    config = home / "ceph.conf"
    config.write_text(_CONFIG.format(home=home, fsid=fsid, mon=mon, gateway=gateway))

    def do(program: str, *words: str) -> None:
        # In a process group of its own, as the servers are: an interrupt of the tests ends them in order.
        done = subprocess.run(
            [program, "-c", str(config), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{program} {' '.join(words)}: {done.stderr[-2000:]}"

    with contextlib.ExitStack() as servers:
        monmap, osd = str(home / "monmap"), str(uuid.uuid4())
        do("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon}]", monmap)
        do("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        servers.enter_context(_server(config, "ceph-mon", "-i", "a"))
        do("ceph", "osd", "new", osd)
        do("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        servers.enter_context(_server(config, "ceph-osd", "-i", "0"))
        process = servers.enter_context(_server(config, "radosgw", "-n", "client.rgw"))
        _wait(gateway, process, home)
        do("radosgw-admin", "user", "create", "--uid=keepwell", "--display-name=keepwell", f"--access-key={_KEY}", f"--secret={_SECRET}")  # fmt: skip
        endpoint = f"http://127.0.0.1:{gateway}"
        options = {"endpoint": endpoint, "region": "us-east-1", "access_key_id": _KEY, "secret_access_key": _SECRET}
        server = Server(endpoint=endpoint, url=f"s3://{BUCKET}", options=options, pid=process.pid)
        boto3.client("s3", **server.boto).create_bucket(Bucket=BUCKET)
        yield server


@contextlib.contextmanager
def _server(config: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with (config.parent / f"{command[0]}.out").open("wb") as out:
        process = subprocess.Popen(
            [command[0], "-f", "-c", str(config), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(port: int, process: subprocess.Popen[bytes], home: Path) -> None:
    limit = time.monotonic() + _START_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in home.glob("*.out"))
    raise AssertionError(f"radosgw did not start:\n{logs}")
