"""How keepwell is driven: only through its command line, as a user would. The one place to mend when that changes."""

from __future__ import annotations

import compileall
import sys
from pathlib import Path

from contenders import REPOSITORY, Contender

KEEPWELL = Path(sys.executable).parent / "keepwell"

POLICY = """\
version = 1
project = "Benchmark"

[vault]
store = "file://$STORE"
key = { file = "$HOME/vault.key" }

[environments.production]
[environments.production.sources.app]
type = "postgres"
url = { env = "DATABASE_URL" }
method = "logical"
"""

# For `list`: a thousand backups must be made first, so they are of one file of a few bytes.
SMALL_POLICY = """\
version = 1
project = "Benchmark"

[vault]
store = "file://$STORE"
key = { file = "$HOME/vault.key" }

[environments.production]
[environments.production.sources.notes]
type = "files"
path = "$HOME/notes"
"""

_COMMAND = f'"{KEEPWELL}" --policy "$HOME/keepwell.toml"'

CONTENDER = Contender(
    "keepwell",
    "keepwell",
    f'cat > "$HOME/keepwell.toml" <<END\n{POLICY}END\n{_COMMAND} init --yes',
    f"{_COMMAND} backup production --json",
    f'{_COMMAND} restore production@latest --source app --to "$TARGET_URL"',
    "keepwell",
    f'"{KEEPWELL}" version',
)

HELP = f'"{KEEPWELL}" --help'
LIST = f"{_COMMAND} list --json"
PREPARE_SMALL = f'mkdir -p "$HOME/notes"; cat > "$HOME/keepwell.toml" <<END\n{SMALL_POLICY}END\n{_COMMAND} init --yes'


MANY = """\
import datetime as dt, sys
from pathlib import Path
from keepwell.keys.slots import read_key_file
from keepwell.stores.local import LocalStore
from keepwell.vault.vault import Vault

store, key, count = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
vault = Vault.open(LocalStore(store), read_key_file(key))
for hour in range(count):
    now = dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=hour)
    with vault.begin(environment="production", tier="daily", now=now) as session:
        stream = session.sink("notes").stream("content")
        stream.write(str(hour).encode())
        stream.close()
        session.done("notes", {"type": "files", "bytes": 4})
        session.commit(database="", host="benchmark", seconds=0.1)
"""


def prepare() -> None:
    """As pip does where it installs: here the program runs from its sources, which may never have been compiled."""
    compileall.compile_dir(str(REPOSITORY / "src"), quiet=1)


def many_backups(count: int) -> str:
    """A script that makes this many tiny backups, each of another content, in one process: only `list` is measured."""
    return f'"{sys.executable}" - "$STORE" "$HOME/vault.key" {count} <<\'END\'\n{MANY}END'
