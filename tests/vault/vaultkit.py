"""What the vault's tests share: small vaults that need no disk, backups of given bytes, and comparisons."""

from __future__ import annotations

import datetime as dt
import functools
import os
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path

from hypothesis import HealthCheck, settings

from keepwell.core.clock import FakeClock
from keepwell.core.progress import Silent
from keepwell.keys import crypto, slots
from keepwell.keys.keyring import Keyring
from keepwell.stores.base import Store
from keepwell.stores.memory import MemoryStore
from keepwell.vault import check as checking
from keepwell.vault import prune as pruning
from keepwell.vault.catalog import Backup
from keepwell.vault.session import Session
from keepwell.vault.vault import Vault

UTC = dt.UTC
START = dt.datetime(2026, 11, 22, 2, 0, 0, tzinfo=UTC)
HOUR = dt.timedelta(hours=1)
NOW = dt.timedelta(0)
PACK = 64 << 10
"""Small packs, so that small backups have several."""

NO_CACHE = Path(os.devnull, "cache")
"""A folder that cannot be made."""

settings.register_profile(
    "vault",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
settings.load_profile("vault")

Data = Mapping[str, Mapping[str, bytes]]
"""source -> stream -> bytes"""


def noise(seed: object, size: int) -> bytes:
    """Bytes that do not compress, the same for the same seed."""
    return random.Random(f"{seed}").randbytes(size)


@functools.cache
def _made() -> tuple[dict[str, tuple[bytes, dt.datetime]], slots.KeyFile]:
    store = MemoryStore(FakeClock(START))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key")
        Vault.create(store, now=START, key_file=path, cache=Path(folder, "cache"))
        return dict(store.objects), slots.read_key_file(path)


def new_store() -> MemoryStore:
    """A store with an empty vault; its clock is a FakeClock."""
    store = MemoryStore(FakeClock(START))
    store.objects = dict(_made()[0])
    store.flush()
    return store


def reader_key() -> slots.KeyFile:
    return _made()[1]


def open_vault(store: Store, cache: Path | None = None, key: slots.Credential | None = None) -> Vault:
    """A process of its own, as far as the vault can tell; without a cache unless one is given."""
    vault = Vault.open(store, key or reader_key(), cache=cache or NO_CACHE)
    vault._proved_store = True  # the probe is tested with the stores; here it would only add calls
    return vault


def keyring() -> Keyring:
    """A reader's keyring of some vault."""
    return _ring()


@functools.cache
def _ring() -> Keyring:
    private = bytes(range(96))
    return Keyring(b"v" * 16, crypto.public_of(private), b"w" * 32, private, "slot")


def tick(store: MemoryStore, by: dt.timedelta = HOUR) -> None:
    assert isinstance(store.clock, FakeClock)
    store.clock.advance(by)


def begin(vault: Vault, *, at: dt.datetime = START, environment: str = "production", pack_size: int = PACK) -> Session:
    return vault.begin(environment=environment, tier="daily", now=at, jobs=2, pack_size=pack_size)


def write(session: Session, data: Data, *, failing: str | None = None) -> None:
    for source, streams in data.items():
        sink = session.sink(source)
        for name, content in streams.items():
            stream = sink.stream(name)
            stream.write(content)
            if source != failing:
                stream.close()
        if source == failing:
            session.failed(source, "it broke")
        else:
            session.done(source, {"bytes": sum(map(len, streams.values()))})


def commit(session: Session) -> Backup:
    return session.commit(database="app", host="test", seconds=1.0)


def back_up(vault: Vault, data: Data | bytes, *, at: dt.datetime = START, failing: str | None = None) -> Backup:
    with begin(vault, at=at) as session:
        write(session, {"app": {"dump": data}} if isinstance(data, bytes) else data, failing=failing)
        return commit(session)


def restore(vault: Vault, backup: Backup | str) -> dict[str, dict[str, bytes]]:
    found = vault.find(backup) if isinstance(backup, str) else backup
    reader = vault.read(found)
    data: dict[str, dict[str, bytes]] = {}
    for source, outcome in reader.sources.items():
        if outcome["status"] == "complete":
            streams = reader.streams(source)
            data[source] = {name: b"".join(streams.read(name)) for name in streams.names()}
    return data


def restored(vault: Vault, backup: Backup | str) -> bytes:
    """Of a backup made from plain bytes."""
    return restore(vault, backup)["app"]["dump"]


def prune(vault: Vault, remove: list[Backup] | None = None, *, grace: dt.timedelta = NOW) -> pruning.PruneReport:
    return pruning.prune(vault, remove or [], grace=grace, progress=Silent())


def check(
    vault: Vault, *, data: bool = True, share: int | None = None, now: dt.datetime = START
) -> checking.CheckReport:
    return checking.check(vault, progress=Silent(), now=now, data=data, share=share)


def packs(store: MemoryStore) -> set[str]:
    return {name for name in store.objects if name.startswith("packs/")}


def troubles(vault: Vault) -> list[str]:
    """What a full check finds, apart from manifests whose writer died or was refused."""
    findings = check(vault).findings
    return [f"{f.what}: {f.problem}" for f in findings if "either a backup died in its last step" not in f.problem]
