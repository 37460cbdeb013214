"""Makes `fixtures/format-1/`: a vault as this version writes it, which every later version must read. Not a test.

Run by hand, once per format. The expected contents come from `expected()`, so that the fixture needs no copy of them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from vaultkit import HOUR, NOW, PACK, START, commit, noise, open_vault, prune, write

from keepwell.core.secrets import Secret
from keepwell.keys import slots
from keepwell.stores.local import LocalStore
from keepwell.vault.catalog import Proof
from keepwell.vault.vault import Vault

PASSPHRASE = "a long enough passphrase"  # of a vault that holds nothing secret
FOLDER = Path(__file__).parent / "fixtures" / "format-1"


def expected() -> dict[str, dict[str, dict[str, bytes]]]:
    """Tier -> source -> stream -> bytes, of the backups that the fixture has."""
    text = b"".join(b"INSERT INTO leads VALUES (%d, 'lead %d');\n" % (n, n * 7919 % 1000) for n in range(3000))
    pages = noise("pages", 3 * 8192 + 100)
    return {
        "daily": {
            "app": {"data": text, "post-data": b"CREATE INDEX;\n", "empty": b""},
            "files": {"content": noise("f", 20_000)},
        },
        "weekly": {"app": {"data": text[:50_000] + b"changed\n" + text[50_000:]}, "dev": {"pages": pages}},
        "manual": {"app": {"data": text}},
    }


def make(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    store = LocalStore(folder / "vault", create=True)
    Vault.create(store, now=START, key_file=folder / "reader.key", cache=folder / "cache")
    vault = open_vault(store, key=slots.read_key_file(folder / "reader.key"))
    vault.add_slot(slots.Passphrase(Secret(PASSPHRASE)), role="reader", label="paper", now=START)
    vault.add_slot(folder / "writer.key", role="writer", label="server", now=START)
    removed = None
    contents = {
        "removed": {"app": {"data": expected()["daily"]["app"]["data"], "gone": noise("gone", 60_000)}}
    } | expected()
    for n, (tier, data) in enumerate(contents.items()):
        environment, as_tier = ("production", tier if tier != "removed" else "monthly")
        with vault.begin(environment=environment, tier=as_tier, now=START + n * HOUR, pack_size=PACK) as session:
            if tier == "weekly":
                sink = session.sink("dev")
                stream = sink.stream("pages", "pages")
                stream.write(data["dev"]["pages"])
                stream.close()
                session.done("dev", {"bytes": len(data["dev"]["pages"])})
            write(session, {source: streams for source, streams in data.items() if source != "dev"})
            if tier == "manual":
                session.sink("broken").stream("x").close()
                session.failed("broken", "was not there")
            backup = commit(session)
        if tier == "removed":
            removed = backup
        if tier == "daily":
            proof = Proof(str(backup.id), backup.checksum, START, "restore", True, "fine", {"tables": {"leads": 3000}})
            vault.record(backup, proof)
    assert removed is not None
    prune(vault, [removed], grace=NOW)
    store.close()
    shutil.rmtree(folder / "cache", ignore_errors=True)
    shutil.rmtree(folder / "vault" / ".tmp", ignore_errors=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
