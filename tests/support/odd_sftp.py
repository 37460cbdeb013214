"""An SFTP server that lacks something, or breaks on cue: what OpenSSH cannot be asked to do. asyncssh's own, in a thread."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

USER, PASSWORD = "backup", "correct horse battery"


@dataclass
class OddServer:
    port: int = 0
    host_key: str = ""
    root: Path = Path()
    lacks: set[str] = field(default_factory=set)
    """"link", "fsync": the server does not know how."""
    loses: list[str] = field(default_factory=list)
    """"link", "open": once, the connection breaks after it was done and before the answer."""
    refuses: dict[str, type[asyncssh.SFTPError]] = field(default_factory=dict)
    logins: int = 0

    @property
    def url(self) -> str:
        return f"sftp://{USER}@127.0.0.1:{self.port}/vault"

    @property
    def options(self) -> dict[str, str]:
        return {"host_key": self.host_key, "password": PASSWORD}


@contextlib.contextmanager
def odd_server(root: Path) -> Iterator[OddServer]:
    odd = OddServer(root=root)
    (root / "vault").mkdir()

    class Files(asyncssh.SFTPServer):
        def __init__(self, channel):
            super().__init__(channel, chroot=str(root).encode())

        def _odd(self, what):
            if what in odd.lacks:
                raise asyncssh.SFTPOpUnsupported("what is that?")
            if what in odd.refuses:
                raise odd.refuses[what]("no")

        def _lose(self, what):
            if what in odd.loses:
                odd.loses.remove(what)
                self.channel.get_connection().abort()

        def link(self, oldpath, newpath):
            self._odd("link")
            super().link(oldpath, newpath)
            self._lose("link")

        def fsync(self, file_obj):
            self._odd("fsync")
            super().fsync(file_obj)

        def open(self, path, pflags, attrs):
            self._odd("open")
            opened = super().open(path, pflags, attrs)
            self._lose("open")
            return opened

        def write(self, file_obj, offset, data):
            self._odd("write")
            return super().write(file_obj, offset, data)

        def remove(self, path):
            self._odd("remove")
            super().remove(path)

        def scandir(self, path):
            self._odd("scandir")
            return super().scandir(path)

    class Door(asyncssh.SSHServer):
        def begin_auth(self, username):
            odd.logins += 1
            return True

        def password_auth_supported(self):
            return True

        def validate_password(self, username, password):
            return (username, password) == (USER, PASSWORD)

    key = asyncssh.generate_private_key("ssh-ed25519")
    odd.host_key = " ".join(key.export_public_key().decode().split()[:2])
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def start():
        return await asyncssh.listen(
            "127.0.0.1", 0, server_factory=Door, server_host_keys=[key], sftp_factory=Files, allow_scp=False
        )

    async def stop(listening):
        listening.close()
        await listening.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    listening = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    odd.port = listening.get_port()
    try:
        yield odd
    finally:
        asyncio.run_coroutine_threadsafe(stop(listening), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
