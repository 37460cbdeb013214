"""What went wrong with an SFTP server, in a sentence: the protocol itself mostly says 'Failure'."""

from __future__ import annotations

import socket

import asyncssh

from keepwell.core.errors import StoreDenied, StoreError, StoreFull
from keepwell.stores.sftp_address import Address

_LOST = (asyncssh.SFTPConnectionLost, asyncssh.SFTPNoConnection, asyncssh.ConnectionLost, ConnectionError, TimeoutError)
_FINAL = (
    asyncssh.PermissionDenied,
    asyncssh.HostKeyNotVerifiable,
    asyncssh.KeyExchangeFailed,
    asyncssh.ProtocolNotSupported,
    asyncssh.IllegalUserName,
)


def may_pass(error: Exception) -> bool:
    """Whether another try, on a new connection, may do better."""
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if isinstance(error, _FINAL) or (isinstance(error, asyncssh.SFTPError) and not isinstance(error, _LOST)):
        return False
    return isinstance(error, (*_LOST, OSError, asyncssh.DisconnectError, asyncssh.ChannelOpenError))


def explain(error: Exception, address: Address, done: str, name: str = "") -> StoreError:
    """The error of `core.errors` for asyncssh's; `done` is the participle of what was tried."""
    what = f"{name} in {address.url}" if name else f"The store {address.url}"
    server = f"{address.host}:{address.port}"
    match error:
        case StoreError():
            return error
        case asyncssh.SFTPNoSpaceOnFilesystem() | asyncssh.SFTPQuotaExceeded():
            return full(address, done, name)
        case asyncssh.SFTPPermissionDenied() | asyncssh.SFTPWriteProtect():
            return StoreDenied(
                f"{what} could not be {done}: the server says {_said(error)}.",
                hint=f"Give the user {address.user} on {address.host} the right to the folder {address.root}.",
            )
        case asyncssh.PermissionDenied():
            return StoreDenied(
                f"{what} could not be {done}: {server} does not let {address.user} in.",
                hint="Put the public key into that user's ~/.ssh/authorized_keys, and name the private one by the store's "
                "option key_file (or have it in the SSH agent). A password is the option password, by reference.",
            )
        case asyncssh.KeyExchangeFailed():
            return StoreError(
                f"{what} could not be {done}: {server} and keepwell have no cipher or kind of key in common "
                f"({_said(error)}).",
                hint="Where it is about the host key, the server may show another kind than the one in known_hosts: add "
                "that one, after comparing it. Else update the server.",
            )
        case asyncssh.ChannelOpenError():
            return StoreError(
                f"{what} could not be {done}: {server} offers no SFTP to {address.user} ({_said(error)}).",
                hint="In the server's sshd_config: Subsystem sftp internal-sftp.",
            )
        case socket.gaierror():
            return StoreError(
                f"{what} could not be {done}: there is no host {address.host}.",
                hint="Look at the store's address, and at the name service of this machine.",
            )
        case TimeoutError():
            return StoreError(
                f"{what} could not be {done}: {server} did not answer in time.",
                hint="Look at the network and the server. For a slow line raise the store's options timeout and "
                "transfer_timeout.",
            )
        case asyncssh.SFTPError() if not isinstance(error, _LOST):
            return StoreError(
                f"{what} could not be {done}: the server says {_said(error)}.",
                hint=f"Look at the folder {address.root} on {address.host}, at its disk and quota, and at the server's log.",
            )
    return StoreError(
        f"{what} could not be {done}: {server} cannot be reached, or the connection broke ({_said(error)}).",
        hint="Look at the network, at the store's address, and whether the server runs; then try again.",
    )


def full(address: Address, done: str, name: str = "") -> StoreFull:
    what = f"{name} in {address.url}" if name else f"The store {address.url}"
    return StoreFull(
        f"{what} could not be {done}: no space left on {address.host}.",
        hint="Free space on that server, raise the quota, or run `keepwell prune`.",
    )


def unknown_host(address: Address, key: asyncssh.SSHKey | None, *, changed: bool) -> StoreError:
    """The server's key is not one that is known to be its."""
    server = f"{address.host}:{address.port}"
    shown = f"{key.get_algorithm()} {key.get_fingerprint()}" if key else "a certificate"
    known = str(address.known_hosts or "~/.ssh/known_hosts")
    if changed:
        return StoreError(
            f"{server} shows another host key ({shown}) than the one that is known for it. Nothing was sent: it may be "
            "another server that pretends to be this one.",
            hint="Ask who runs it whether the key was changed, and what its fingerprint is. Only then take the old line "
            f"out of {'the option host_key' if address.host_key else known} and add the new one.",
        )
    port = f" -p {address.port}" if address.port != 22 else ""
    return StoreError(
        f"{server} is not known: its host key ({shown}) is in no known_hosts file. Nothing was sent.",
        hint="Compare that fingerprint with the one that its owner or provider names. Where it is the same: "
        f"ssh-keyscan{port} {address.host} >> {known}",
    )


def _said(error: Exception) -> str:
    text = str(getattr(error, "reason", "") or error).split("\n", 1)[0].strip().rstrip(".")
    return text[:200] or type(error).__name__
