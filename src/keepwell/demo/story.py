"""The story that `make demo` tells: backed up, changed, backed up again, proven, destroyed, brought back bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from keepwell.core.errors import ProofFailed, TargetNotEmpty
from keepwell.core.streams import Context, Json
from keepwell.demo.server import DemoServer, demo_server

if TYPE_CHECKING:
    from keepwell.policy.load import LoadedPolicy

POLICY = """\
# The policy of the demo: what to protect, where to keep it, what must hold. `keepwell init` writes one for you.
version = 1
project = "Lead Management System (demo)"

[vault]
store = "file://{folder}/vault"          # or s3://bucket/prefix, gs://…, az://…
key = {{ file = "vault.key" }}           # without this file nobody can read the backups
grace = "24h"

[environments.production]
schedule = "0 2 * * *"                   # daily at 02:00 UTC
keep = {{ daily = "30d", weekly = "12w", monthly = 12 }}

[environments.production.sources.app]
type = "postgres"
url = {{ file = "database.url" }}        # a secret is always a reference
critical_tables = ["users", "leads", "closed_deals"]
checks = [
  {{ name = "won deals have amounts", sql = "select count(*) from closed_deals where amount <= 0", expect = "= 0" }},
]

[environments.production.sources.uploads]
type = "files"
path = "uploads"

[environments.development.sources.app]
type = "sqlite"
path = "dev.db"
critical_tables = ["users", "leads"]
"""

Fingerprint = dict[str, tuple[int, str]]


@dataclass(frozen=True)
class DemoRequest:
    folder: Path
    """A new or empty folder; it stays."""
    rows: int = 20_000
    seed: int = 1


@dataclass
class DemoResult:
    """What happened, for the summary. Sizes in bytes, times in seconds."""

    folder: Path
    rows: dict[str, int] = field(default_factory=dict)
    backups: list[dict[str, Json]] = field(default_factory=list)
    proof: dict[str, Json] = field(default_factory=dict)
    restored: dict[str, Json] = field(default_factory=dict)
    """Per source: what was compared, and whether it was equal."""
    recovery_seconds: float = 0.0
    seconds: float = 0.0

    def json(self) -> dict[str, Json]:
        return {
            "folder": str(self.folder),
            "rows": self.rows,
            "backups": self.backups,
            "proof": self.proof,
            "restored": self.restored,
            "recovery_seconds": round(self.recovery_seconds, 3),
            "seconds": round(self.seconds, 3),
        }


def run(request: DemoRequest, context: Context) -> DemoResult:
    """Tells the story in `request.folder`, with real servers and files.

    Raises TargetNotEmpty where the folder has something in it, ProofFailed where what came back is not what was there.
    """
    folder = request.folder.absolute()
    if folder.exists() and any(folder.iterdir()):
        raise TargetNotEmpty(
            f"{folder} exists and is not empty",
            hint="It may be an earlier demo: explore it, remove it, or name another folder with --to.",
        )
    folder.mkdir(parents=True, exist_ok=True)
    begun = context.clock.monotonic()
    result = DemoResult(folder)
    with demo_server(context) as server:
        _Story(request, folder, server, context, result).tell()
    result.seconds = context.clock.monotonic() - begun
    return result


class _Story:
    def __init__(
        self, request: DemoRequest, folder: Path, server: DemoServer, context: Context, result: DemoResult
    ) -> None:
        self.request, self.folder, self.server, self.context, self.result = request, folder, server, context, result
        self.chapter = 0

    def tell(self) -> None:
        with self.told("A lead management database in PostgreSQL and in SQLite, and a folder of uploads"):
            self.make()
        with self.told("keepwell init: the policy, a new vault, its key"):
            loaded = self.init()
        from keepwell.operations.backup import BackupRequest, backup
        from keepwell.operations.verify import VerifyRequest, verify

        with self.told("First backup"):
            for environment in ("production", "development"):
                self.result.backups.append(backup(loaded, BackupRequest(environment), self.context).json())
        with self.told("A day goes by: 1 % of the rows change at random, files come and go"):
            self.change()
        with self.told("Second backup: only what changed is stored"):
            for environment in ("production", "development"):
                self.result.backups.append(backup(loaded, BackupRequest(environment), self.context).json())
        before = self.fingerprints()
        with self.told("Proof: restored into a sandbox, captured again, compared table by table"):
            for environment in ("production", "development"):
                proof = verify(loaded, VerifyRequest(f"{environment}@latest"), self.context).json()
                self.result.proof[environment] = proof
                if not proof["passed"]:
                    raise ProofFailed(
                        f"the proof of {proof['backup']} failed", hint="This is a bug in keepwell: report it."
                    )
        with self.told("Disaster: the database is dropped, the uploads and dev.db are deleted"):
            self.destroy()
        begun = self.context.clock.monotonic()
        with self.told("Recovery from the vault and its key alone"):
            self.restore(loaded)
        self.result.recovery_seconds = self.context.clock.monotonic() - begun
        with self.told("What came back is compared with what was there before the disaster"):
            self.compare(before, self.fingerprints())

    @contextmanager
    def told(self, title: str) -> Iterator[None]:
        self.chapter += 1
        self.context.progress.note(f"{self.chapter}. {title}")
        yield

    def make(self) -> None:
        from keepwell.demo import sample

        rows, seed = self.request.rows, self.request.seed
        self.server.create_database()
        self.result.rows = sample.fill_postgres(self.server.url, rows, seed, self.context.progress)
        sample.fill_sqlite(self.folder / "dev.db", max(rows // 4, 1), seed, self.context.progress)
        sample.fill_uploads(self.folder / "uploads", max(min(rows // 50, 500), 10), seed, self.context.progress)
        (self.folder / "database.url").write_text(self.server.url + "\n")
        (self.folder / "database.url").chmod(0o600)

    def init(self) -> LoadedPolicy:
        from keepwell.operations.init import init
        from keepwell.policy.load import load

        path = self.folder / "keepwell.toml"
        path.write_text(POLICY.format(folder=self.folder))
        loaded = load(path)
        init(loaded, self.context)
        return loaded

    def change(self) -> None:
        from keepwell.demo import sample

        sample.change_postgres(self.server.url, 0.01, "random", self.request.seed, self.context.progress)
        sample.change_sqlite(self.folder / "dev.db", 0.01, "recent", self.request.seed, self.context.progress)
        sample.change_uploads(self.folder / "uploads", 0.05, self.request.seed)

    def fingerprints(self) -> dict[str, Fingerprint]:
        from keepwell.demo import sample

        return {
            "PostgreSQL": sample.fingerprint_postgres(self.server.url),
            "uploads": sample.fingerprint_folder(self.folder / "uploads"),
            "SQLite": sample.fingerprint_sqlite(self.folder / "dev.db"),
        }

    def destroy(self) -> None:
        self.server.drop_database()
        shutil.rmtree(self.folder / "uploads")
        (self.folder / "dev.db").unlink()

    def restore(self, loaded: LoadedPolicy) -> None:
        from keepwell.operations.restore import RestoreRequest, restore

        (self.folder / "restore.url").write_text(self.server.url + "\n")
        steps: list[tuple[str, str, str]] = [
            ("production@latest", "app", f"file:{self.folder / 'restore.url'}"),
            ("production@latest", "uploads", str(self.folder / "uploads")),
            ("development@latest", "app", str(self.folder / "dev.db")),
        ]
        self.server.create_database()
        for backup, source, to in steps:
            restore(loaded, RestoreRequest(backup, source=source, to=to), self.context)
        (self.folder / "restore.url").unlink()

    def compare(self, before: dict[str, Fingerprint], after: dict[str, Fingerprint]) -> None:
        different: list[str] = []
        for source, then in before.items():
            now = after[source]
            names = sorted(then.keys() | now.keys())
            wrong = [name for name in names if then.get(name) != now.get(name)]
            different += [f"{source}: {name}" for name in wrong]
            self.result.restored[source] = {
                "compared": len(names),
                # A folder's fingerprint has a size where a table's has a number of rows.
                "rows": len(names) if source == "uploads" else sum(rows for rows, _ in then.values()),
                "equal": not wrong,
            }
        if different:
            raise ProofFailed(
                f"what came back differs: {', '.join(different[:10])}", hint="This is a bug in keepwell: report it."
            )
