"""Who is measured: each is a few lines of shell, the way its own documentation says to back up PostgreSQL.

Every script finds in its environment: DATABASE_URL, HOME (a folder of its own, with its caches), STORE (the folder
inside it whose size counts), LABEL (`first` or `second`), TARGET_URL (an empty database to restore into), and the
PostgreSQL programs of the server's version on its PATH.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
BORG = REPOSITORY / ".cache" / "bench" / "borg" / "bin"


@dataclass(frozen=True)
class Contender:
    name: str
    shown: str
    """The pipeline in short, for the table."""
    prepare: str
    """Makes the store; not measured."""
    backup: str
    restore: str = ""
    restore_shown: str = ""
    version: str = "true"
    """Prints the version, first line."""

    def environment(self, home: Path, programs: Path) -> dict[str, str]:
        return {
            "PATH": f"{programs}:{BORG}:{os.environ['PATH']}",
            "LANG": "C.UTF-8",
            "HOME": str(home),
            "STORE": str(home / "store"),
            "TMPDIR": str(home / "tmp"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_DATA_HOME": str(home / "data"),
        }

    def version_here(self, home: Path, programs: Path) -> str:
        """SystemExit where the program is missing: a contender is never left out silently."""
        answer = subprocess.run(
            ["bash", "-c", self.version],
            check=False,
            capture_output=True,
            text=True,
            env=self.environment(home, programs),
        )
        if answer.returncode:
            raise SystemExit(
                f"{self.name} does not run here ({answer.stderr.strip()}); run benchmarks/setup.sh, or choose with --only"
            )
        return answer.stdout.strip().split("\n")[0]


SCRIPT = Contender(
    "gzip",
    "`pg_dump | gzip` (the strategy's script)",
    'mkdir -p "$STORE"',
    'pg_dump "$DATABASE_URL" | gzip > "$STORE/$LABEL.sql.gz"',
    'gunzip -c "$STORE/first.sql.gz" | psql -q -X -v ON_ERROR_STOP=1 -d "$TARGET_URL"',
    "`gunzip | psql`",
    "gzip --version",
)
LIMIT = Contender(
    "zstd+openssl",
    "`pg_dump | zstd -3 -T2 | openssl enc`",
    'mkdir -p "$STORE"; openssl rand -hex 32 > "$HOME/key"',
    'pg_dump "$DATABASE_URL" | zstd -q -3 -T2 |'
    ' openssl enc -aes-256-ctr -pbkdf2 -pass "file:$HOME/key" > "$STORE/$LABEL.sql.zst.enc"',
    version='echo "zstd $(zstd -qV), $(openssl version)"',
)
RESTIC = Contender(
    "restic",
    "`pg_dump | restic backup --stdin`",
    'openssl rand -hex 32 > "$HOME/key"; restic -q -r "$STORE" --password-file "$HOME/key" init --repository-version 2',
    'pg_dump "$DATABASE_URL" | restic -q -r "$STORE" --password-file "$HOME/key" --compression auto'
    " backup --stdin --stdin-filename database.sql",
    version="restic version",
)
BORG_CREATE = Contender(
    "borg",
    "`pg_dump | borg create -C zstd,3 -`",
    'openssl rand -hex 32 > "$HOME/key"; export BORG_BASE_DIR="$HOME" BORG_PASSCOMMAND="cat $HOME/key"; '
    'borg init -e repokey-blake2 "$STORE"',
    'export BORG_BASE_DIR="$HOME" BORG_PASSCOMMAND="cat $HOME/key"; '
    'pg_dump "$DATABASE_URL" | borg create -C zstd,3 --stdin-name database.sql "$STORE::$LABEL" -',
    version="borg --version",
)
PEERS = (SCRIPT, LIMIT, RESTIC, BORG_CREATE)


def fresh_home(contender: Contender, work: Path) -> Path:
    """An empty folder for the contender, in the place of the one it had."""
    home = work / contender.name
    shutil.rmtree(home, ignore_errors=True)
    (home / "tmp").mkdir(parents=True)
    return home
