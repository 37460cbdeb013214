"""What would go wrong, before it does: programs, rights, store, key, clock, space; and what mends it."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from keepwell import __version__
from keepwell.core.errors import KeepwellError
from keepwell.core.streams import Context, Json
from keepwell.core.units import show_size
from keepwell.operations.ailments import examine_source
from keepwell.operations.opening import open_store_of, open_vault
from keepwell.operations.protection import examine_bucket
from keepwell.policy.load import LoadedPolicy
from keepwell.stores import Store
from keepwell.stores.probe import store_now, verify_conditional_put
from keepwell.vault.vault import Vault

State: TypeAlias = Literal["ok", "warn", "fail"]
_WRONG, _ODD = dt.timedelta(minutes=5), dt.timedelta(seconds=30)
_LITTLE = 1_000_000_000


@dataclass(frozen=True)
class Diagnosis:
    area: str
    """policy, store, vault, key, clock, space, or `source <environment>/<name>`."""
    state: State
    what: str
    mend: str = ""

    def json(self) -> dict[str, Json]:
        return dict(vars(self))


def doctor(loaded: LoadedPolicy | None, context: Context) -> list[Diagnosis]:
    """Never raises for what it finds; without a policy only the machine is looked at."""
    found = [Diagnosis("keepwell", "ok", f"keepwell {__version__}, Python {platform.python_version()}")]
    if loaded is None:
        return [*found, *_space(0)]
    found.append(Diagnosis("policy", "ok", f"{loaded.path} is valid"))
    found += [Diagnosis("policy", "warn", warning) for warning in loaded.warnings]
    store = _tried(found, "store", lambda: open_store_of(loaded))
    biggest = 0
    if store is not None:
        with contextlib.closing(store):
            found += _store(store, context)
            found += _free(loaded.policy.vault.folder())
            context.progress.note("Looking at the settings of the store")
            found += (Diagnosis("store", *finding) for finding in examine_bucket(loaded.policy.vault, loaded.base))
        vault = _vault(found, loaded)
        biggest = _biggest(found, vault) if vault else 0
    for environment, settings in loaded.policy.environments.items():
        for name, source in settings.sources.items():
            context.progress.note(f"Looking at {environment}/{name}")
            for state, what, mend in examine_source(source, loaded.base):
                found.append(Diagnosis(f"source {environment}/{name}", state, what, mend))
    return [*found, *_space(biggest)]


def _tried(found: list[Diagnosis], area: str, attempt: Callable[[], Store]) -> Store | None:
    try:
        return attempt()
    except KeepwellError as error:
        found.append(Diagnosis(area, "fail", error.message, error.hint))
        return None


def _store(store: Store, context: Context) -> Iterator[Diagnosis]:
    try:
        verify_conditional_put(store)
        yield Diagnosis("store", "ok", f"{store.url} can be written, and overwrites nothing")
        there, here = store_now(store), context.clock.now()
    except KeepwellError as error:
        yield Diagnosis("store", "fail", error.message, error.hint)
        return
    apart = abs(there - here)
    text = f"this machine's clock is {apart.total_seconds():.0f} s apart from the store's"
    if apart > _ODD:
        state: State = "fail" if apart > _WRONG else "warn"
        yield Diagnosis("clock", state, text, "Set the clock of this machine by NTP: backups are named by it.")
    else:
        yield Diagnosis("clock", "ok", text)


def _free(folder: Path | None) -> Iterator[Diagnosis]:
    if folder is None:
        return
    usage = shutil.disk_usage(folder)
    full = 1 - usage.free / usage.total
    text = f"{show_size(usage.free)} free where the vault is ({full:.0%} full)"
    if full > 0.8:
        yield Diagnosis(
            "store", "warn", text, "Add space, or keep fewer backups ([environments.…keep], keepwell prune)."
        )
    else:
        yield Diagnosis("store", "ok", text)


def _vault(found: list[Diagnosis], loaded: LoadedPolicy) -> Vault | None:
    key = loaded.policy.vault.key
    try:
        vault = open_vault(loaded)
        readers = [slot for slot in vault.key_slots() if slot.role == "reader"]
    except KeepwellError as error:
        found.append(Diagnosis("key" if error.exit_code == 7 else "vault", "fail", error.message, error.hint))
        return None
    can = "backs up and reads" if vault.keyring.role == "reader" else "backs up, but cannot read: no restore, no proof"
    found.append(Diagnosis("key", "ok", f"{key.file or key.passphrase} opens the vault ({vault.keyring.role}: {can})"))
    if key.file and key.file.stat().st_mode & 0o077:
        found.append(Diagnosis("key", "warn", f"other users can read {key.file}", f"chmod 600 {key.file}"))
    if len(readers) == 1:
        found.append(
            Diagnosis(
                "key",
                "warn",
                "the vault has only one key that reads",
                "If it is lost, all backups are. Add a passphrase and write it down elsewhere: keepwell key add",
            )
        )
    return vault


def _biggest(found: list[Diagnosis], vault: Vault) -> int:
    try:
        vault.config.require("read")
        catalogue = vault.scan()
    except KeepwellError as error:
        found.append(Diagnosis("vault", "fail", error.message, error.hint))
        return 0
    backups = catalogue.backups
    found += [
        Diagnosis(
            "vault",
            "fail",
            f"{bad.id} is damaged: {bad.message}",
            "Look for more damage (`keepwell check --data`), put the object back from a copy of the vault, and take a new "
            "backup.",
        )
        for bad in catalogue.damaged
    ]
    found.append(Diagnosis("vault", "ok", f"{vault.store.url} can be read; backups in it: {len(backups):,}"))
    return max((int(backup.document["bytes"]["read"]) for backup in backups[-20:]), default=0)


def _space(biggest: int) -> Iterator[Diagnosis]:
    """A proof restores into the folder for temporary files."""
    folder = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    free, wanted = shutil.disk_usage(folder).free, max(_LITTLE, 3 * biggest)
    text = f"{show_size(free)} free for proofs in {folder}"
    if free < wanted:
        mend = f"About {show_size(wanted)} are needed to restore the largest backup: make room, or set TMPDIR."
        yield Diagnosis("space", "warn", text, mend)
    else:
        yield Diagnosis("space", "ok", text)
