"""One SSH connection with SFTP on it, kept alive in a thread of its own and made anew when it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import asyncssh

from keepwell.core.errors import StoreDenied, StoreError
from keepwell.stores.sftp_address import Address
from keepwell.stores.sftp_errors import may_pass, unknown_host

T = TypeVar("T")
Sftp: TypeAlias = asyncssh.SFTPClient
_KNOWN_HOSTS = (Path("~/.ssh/known_hosts"), Path("/etc/ssh/ssh_known_hosts"))
_ALIVE_EVERY, _ALIVE_MISSED = 5, 3
"""Seconds between questions to a silent server, and how many it may leave unanswered."""


class Session:
    """Runs coroutines against the server, from any thread. Nothing is sent before the first."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        # These belong to the loop's thread.
        self._connecting: asyncio.Lock | None = None
        self._connection: asyncssh.SSHClientConnection | None = None
        self._sftp: Sftp | None = None

    def run(self, work: Callable[[Sftp], Awaitable[T]], seconds: float) -> T:
        """What `work` returns. It is done again on a new connection where the old one breaks, so it must bear that.

        `seconds` is for one try, without connecting. Raises StoreError, and asyncssh's and the system's own errors.
        """
        loop = self._running()
        future = asyncio.run_coroutine_threadsafe(self._persist(work, seconds), loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        with self._lock:
            self._closed = True
            loop, self._loop = self._loop, None
            thread, self._thread = self._thread, None
        if loop is None or thread is None:
            return
        with contextlib.suppress(Exception):  # whatever the server still has to say
            asyncio.run_coroutine_threadsafe(self._leave(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        if not thread.is_alive():
            loop.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise StoreError(f"The store {self._address.url} was closed.")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="keepwell-sftp", daemon=True)
                self._thread.start()
            return self._loop

    async def _persist(self, work: Callable[[Sftp], Awaitable[T]], seconds: float) -> T:
        clock = asyncio.get_running_loop()
        began = clock.time()
        tries = 0
        while True:
            sftp = None
            try:
                sftp = await self._connected()
                return await asyncio.wait_for(work(sftp), seconds)
            except Exception as error:
                if not may_pass(error):
                    raise
                if sftp is not None:
                    self._drop(sftp)
                pause = min(0.25 * 2**tries, 5.0)
                tries += 1
                # A long upload may fail at its end and is still worth another try.
                patience = max(self._address.retry_timeout, seconds / 3 if sftp else 0)
                if tries > self._address.retries or clock.time() - began + pause > patience:
                    raise
                await asyncio.sleep(pause)

    async def _connected(self) -> Sftp:
        if self._connecting is None:
            self._connecting = asyncio.Lock()
        async with self._connecting:
            if self._sftp is None:
                self._connection, self._sftp = await _connect(self._address)
            return self._sftp

    def _drop(self, sftp: Sftp) -> None:
        """Give up a connection that failed, unless another one has taken its place already."""
        if sftp is self._sftp and self._connection is not None:
            self._connection.abort()
            self._connection = self._sftp = None

    async def _leave(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            if not task.get_name().startswith("asyncssh"):
                task.cancel()
        if self._sftp is not None and self._connection is not None:
            self._sftp.exit()
            self._connection.close()
            await asyncio.wait_for(self._connection.wait_closed(), 3)
        self._connection = self._sftp = None


class _Gatekeeper(asyncssh.SSHClient):
    """Lets no unknown server in, and remembers what it showed."""

    shown: asyncssh.SSHKey | None = None

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        self.shown = key
        return False


async def _connect(address: Address) -> tuple[asyncssh.SSHClientConnection, Sftp]:
    gatekeeper = _Gatekeeper()
    known = _known_hosts(address)
    options: dict[str, Any] = _credentials(address)
    try:
        connection = await asyncssh.connect(
            address.host,
            address.port,
            username=address.user,
            known_hosts=known,
            config=[str(address.ssh_config)] if address.ssh_config else None,
            client_factory=lambda: gatekeeper,
            connect_timeout=address.connect_timeout,
            login_timeout=max(address.connect_timeout, address.timeout),
            keepalive_interval=_ALIVE_EVERY,
            keepalive_count_max=_ALIVE_MISSED,
            compression_algs=None,  # what keepwell sends is encrypted
            **options,
        )
    except asyncssh.HostKeyNotVerifiable:
        raise unknown_host(address, gatekeeper.shown, changed=_is_known(known, address)) from None
    try:
        sftp = await asyncio.wait_for(connection.start_sftp_client(), address.timeout)
    except BaseException:
        connection.abort()
        raise
    return connection, sftp


def _known_hosts(address: Address) -> Any:
    """Never None, which to asyncssh means that every server is trusted."""
    if address.host_key:
        try:
            return [asyncssh.import_public_key(address.host_key)], [], []
        except (asyncssh.KeyImportError, ValueError):
            raise StoreError(
                f"The option host_key of {address.url} is not a public key.",
                hint="Write it as ssh-keyscan does, without the name of the host: ssh-ed25519 AAAA…",
            ) from None
    texts = []
    for path in (address.known_hosts,) if address.known_hosts else _KNOWN_HOSTS:
        try:
            texts.append(path.expanduser().read_text())
        except FileNotFoundError:
            if path is address.known_hosts:
                raise StoreError(
                    f"The option known_hosts of {address.url} names {path}, which is not there.",
                    hint="Correct the path, or make the file with ssh-keyscan and compare the keys in it.",
                ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StoreError(f"The known hosts in {path} cannot be read: {error}") from None
    try:
        return asyncssh.import_known_hosts("\n".join(texts) + "\n")
    except ValueError as error:
        raise StoreError(
            f"The known hosts of {address.url} cannot be understood: {error}",
            hint="Correct known_hosts, or name the server's key by the store's option host_key.",
        ) from None


def _is_known(known: Any, address: Address) -> bool:
    if isinstance(known, asyncssh.SSHKnownHosts):
        port = address.port if address.port != 22 else None
        return any(known.match(address.host, "", port)[:2])
    return True


def _credentials(address: Address) -> dict[str, Any]:
    if address.password is not None:
        return {
            "password": address.password.reveal(),
            "client_keys": None,
            "agent_path": None,
            "preferred_auth": "password,keyboard-interactive",
        }
    if address.key_file is None:  # the agent's keys and ~/.ssh/id_*, as ssh has it
        return {"preferred_auth": "publickey"}
    passphrase = address.key_passphrase.reveal() if address.key_passphrase else None
    try:
        key = asyncssh.read_private_key(address.key_file, passphrase)
    except OSError as error:
        raise StoreDenied(
            f"The key {address.key_file} of {address.url} cannot be read: {error.strerror}.",
            hint="Correct the store's option key_file, or the rights of the file.",
        ) from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        locked = "passphrase" in str(error).lower() or isinstance(error, asyncssh.KeyEncryptionError)
        raise StoreDenied(
            f"The key {address.key_file} of {address.url} cannot be used: "
            + ("its passphrase is missing or wrong." if locked else "it is not a private SSH key."),
            hint='The option key_passphrase is a reference: { env = "NAME" }.'
            if locked
            else "Make one: ssh-keygen -t ed25519 -f backup_key",
        ) from None
    return {"client_keys": [key], "agent_path": None, "preferred_auth": "publickey"}
