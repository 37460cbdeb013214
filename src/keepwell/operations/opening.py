"""The store and the vault that a policy names, and its copies."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from keepwell.core.errors import Damaged, KeepwellError, KeyMissing, StoreError
from keepwell.core.progress import Progress, Silent
from keepwell.keys.slots import Credential, Passphrase, read_key_file
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import CopyPolicy
from keepwell.policy.vault import StorePlace
from keepwell.stores import Lock, Store, open_store
from keepwell.stores.tls import require_tls
from keepwell.vault.cache import cache_folder
from keepwell.vault.vault import Vault


def open_store_of(loaded: LoadedPolicy, *, create: bool = False) -> Store:
    """The store of the policy's vault; `create` makes the missing folder of a local one. Raises StoreError."""
    return _opened(loaded, loaded.policy.vault, create=create)


_SHARED: ContextVar[tuple[LoadedPolicy, Vault | KeepwellError] | None] = ContextVar("vault", default=None)


@contextlib.contextmanager
def sharing(loaded: LoadedPolicy, opened: Vault | KeepwellError) -> Iterator[None]:
    """While the block lasts, `open_vault` of this policy gives this vault, or raises this error: opening one may take a second
    of Argon2id, and finding out that a store does not answer some minutes.
    """
    token = _SHARED.set((loaded, opened))
    try:
        yield
    finally:
        _SHARED.reset(token)


def open_vault(loaded: LoadedPolicy, *, key_file: Path | None = None) -> Vault:
    """The vault, opened with `key_file`, else with the key that the policy names.

    Raises the VaultKeyError family, StoreError (also where there is no vault), Damaged, UnsupportedFormat.
    """
    shared = _SHARED.get()
    if shared is not None and shared[0] is loaded and key_file is None:
        if isinstance(shared[1], KeepwellError):
            raise shared[1]
        return shared[1]
    return Vault.open(open_store_of(loaded), credential_of(loaded, key_file=key_file))


def credential_of(loaded: LoadedPolicy, *, key_file: Path | None = None) -> Credential:
    """Raises KeyMissing, KeyWrong."""
    key = loaded.policy.vault.key
    file = key_file or key.file
    if file is not None:
        return read_key_file(file)
    assert key.passphrase is not None  # the policy has exactly one of the two
    return Passphrase(key.passphrase.resolve(loaded.base, what="the passphrase of the vault", error=KeyMissing))


def open_copy_store(loaded: LoadedPolicy, policy: CopyPolicy, *, create: bool = False) -> Store:
    """Raises StoreError."""
    return _opened(loaded, policy, create=create)


def _opened(loaded: LoadedPolicy, place: StorePlace, *, create: bool) -> Store:
    options = place.store_options(loaded.base)
    if place.tls_min is not None:
        require_tls(place.store, options, place.tls_min)
    lock = Lock(place.lock, place.lock_mode) if place.lock is not None else None
    return open_store(place.store, options, create=create, lock=lock)


def open_copy(loaded: LoadedPolicy, store: Store) -> Vault:
    """The copy in this store, with a cache of its own: its indexes and marks are other ones. Raises as `open_vault` does."""
    cache = cache_folder(hashlib.sha256(store.url.encode()).digest()[:16])
    return Vault.open(store, credential_of(loaded), cache=cache)


def open_copies(loaded: LoadedPolicy, progress: Progress) -> Iterator[Vault]:
    """The copies that can be opened, in the order of the policy."""
    for policy in loaded.policy.copies:
        try:
            yield open_copy(loaded, open_copy_store(loaded, policy))
        except KeepwellError as error:
            progress.warn(f"the copy {policy.name} cannot be used: {error.message}")


def open_for_reading(loaded: LoadedPolicy, progress: Progress | None = None) -> Vault:
    """The vault, with its copies behind it; where its store cannot be reached, the first copy that opens. It is said.

    Raises what opening the vault raises, where there is no copy either.
    """
    progress = progress or Silent()
    try:
        vault = open_vault(loaded)
    except (StoreError, Damaged) as error:
        for mirror in open_copies(loaded, progress):
            progress.warn(f"{error.message.rstrip('.')}. Using the copy at {mirror.store.url} instead.")
            return mirror
        raise
    if loaded.policy.copies:
        from keepwell.vault.mirrors import Mirrors

        vault.stand_in(Mirrors(lambda: open_copies(loaded, progress), progress.warn))
    return vault
