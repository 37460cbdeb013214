"""Debian's OpenSSH server on a loopback port, with a host key and a user's key of its own, for one `with` block."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.servers import free_port, unavailable

_START_SECONDS = 30


@dataclass(frozen=True)
class SshServer:
    """A running sshd that lets the user of the tests in, by the key in `options`, to what that user may see."""

    host: str
    port: int
    home: Path
    """Where it keeps its files; `store` is below."""
    store: Path
    """An empty folder."""
    options: dict[str, str]
    """For `open_store`."""
    pid: int

    @property
    def url(self) -> str:
        return self.url_of(self.store)

    def url_of(self, folder: Path) -> str:
        return f"sftp://{getpass.getuser()}@{self.host}:{self.port}{folder}"

    def log(self) -> str:
        return (self.home / "sshd.log").read_text()

    def cut(self) -> int:
        """Break every connection now, as a network does; how many there were."""
        sessions = [int(pid) for pid in _output("pgrep", "-P", str(self.pid)).split()]
        below = [int(pid) for session in sessions for pid in _output("pgrep", "-P", str(session)).split()]
        for pid in [*below, *sessions]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(sessions)


def make_key(path: Path, *, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-C", "", "-f", str(path)], check=True)
    return path


@contextlib.contextmanager
def ssh_server(home: Path, sftp: str = "internal-sftp") -> Iterator[SshServer]:
    """`sftp` is the command that sshd runs for SFTP."""
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None or shutil.which("ssh-keygen") is None:
        unavailable("no OpenSSH server: run tests/setup.sh (it needs apt-get as root)")
        raise AssertionError
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd of Debian drops its rights to
    home.mkdir(parents=True, exist_ok=True)
    host_key, user_key = make_key(home / "host_key"), make_key(home / "user_key")
    (home / "authorized_keys").write_text(user_key.with_suffix(".pub").read_text())
    (home / "store").mkdir()
    for _ in range(3):  # another process may take the free port first
        port = free_port()
        config = home / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {host_key}\nPidFile none\nUsePAM no\nStrictModes no\n"
            f"AuthorizedKeysFile {home / 'authorized_keys'}\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"Subsystem sftp {sftp}\nMaxStartups 100\nPrintMotd no\n"
        )
        with (home / "sshd.log").open("wb") as log:
            process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            if _answers(port, process):
                public = " ".join((home / "host_key.pub").read_text().split()[:2])
                (home / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}\n")
                options = {"key_file": str(user_key), "known_hosts": str(home / "known_hosts")}
                yield SshServer("127.0.0.1", port, home, home / "store", options, process.pid)
                return
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    raise AssertionError(f"sshd did not start:\n{(home / 'sshd.log').read_text()[-4000:]}")


def _answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    limit = time.monotonic() + _START_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            time.sleep(0.05)
    return False


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout
