"""A physical restore: which backup and which log it takes, and how the restored server gets at the log."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core.errors import UsageError
from keepwell.core.streams import Context
from keepwell.operations.logsource import log_source
from keepwell.operations.moments import Plan
from keepwell.operations.recovering import plan_for
from keepwell.policy.load import LoadedPolicy
from keepwell.sources.base import Recovery, RestoreRequest
from keepwell.vault.vault import BackupReader, Vault


@dataclass(frozen=True)
class Wish:
    """What a person asked for that only a physical source knows."""

    recovery: Recovery = field(default_factory=Recovery)
    tablespaces: tuple[tuple[str, str], ...] = ()
    delta: bool = False
    start: bool = False

    def options(self) -> list[str]:
        """Those that were given, as they are called on the command line."""
        known = {
            "--at": self.recovery.time is not None,
            "--lsn": self.recovery.lsn is not None,
            "--name": self.recovery.name is not None,
            "--immediate": self.recovery.immediate,
            "--timeline": self.recovery.timeline != "latest",
            "--tablespace": bool(self.tablespaces),
            "--delta": self.delta,
            "--start": self.start,
        }
        return [option for option, given in known.items() if given]


@dataclass(frozen=True)
class Prepared:
    """All that a physical restore needs, known before anything is written."""

    reader: BackupReader
    """Of the backup that the plan uses, which may be an older one than was named."""
    plan: Plan
    request: RestoreRequest


def refuse_for(kind: str, name: str, wish: Wish) -> None:
    """Raises UsageError where a source that is not physical is asked for what only a physical one can do."""
    if kind != "physical" and (given := wish.options()):
        raise UsageError(
            f"{' and '.join(given)}: {name} has no physical backups, so it comes back as it was at backup time and nowhere else",
            hint='Recovery to any moment needs method = "physical" in the policy and its log in the vault.',
        )


def prepare(
    loaded: LoadedPolicy, vault: Vault, reader: BackupReader, text: str, source: str, wish: Wish, context: Context
) -> Prepared:
    """Makes the plan and tells it. `text`: the backup as it was named; `reader`: what that name leads to.

    Raises UsageError for a moment that cannot be reached, naming the nearest that can; Damaged, StoreError, KeyCannotRead.
    """
    environment = reader.backup.id.environment
    backups = vault.backups(environment)
    plan = plan_for(backups, text, source, wish.recovery, lambda system: vault.wal(environment, source, system))
    if plan.backup != str(reader.backup.id):
        reader = vault.read(next(backup for backup in backups if str(backup.id) == plan.backup))
    for remark in plan.remarks:
        context.progress.warn(remark)
    context.progress.note(f"{source}: {plan.text}")
    request = RestoreRequest(recovery=plan.recovery, tablespaces=wish.tablespaces, delta=wish.delta, start=wish.start)
    if needs_log(plan):
        request = dataclasses.replace(
            request,
            restore_command=restore_command(loaded, environment, source, plan.base.system),
            log=log_source(vault.wal(environment, source, plan.base.system)) if wish.start else None,
        )
    return Prepared(reader, plan, request)


def needs_log(plan: Plan) -> bool:
    """Whether anything is replayed that is not in the backup itself."""
    return any(end > plan.base.stop for _, _, end in plan.log)


def restore_command(loaded: LoadedPolicy, environment: str, source: str, system: str) -> str:
    """What PostgreSQL calls for each file of the log, with whole paths: it runs in its own directory and environment."""
    words = ["--source", source, "--environment", environment, "--system", system, "--policy", str(loaded.path)]
    program, options = (" ".join(map(shlex.quote, part)).replace("%", "%%") for part in (_program(), words))
    return f"{program} wal fetch %f %p {options}"


def _program() -> list[str]:
    own = Path(sys.executable).parent / "keepwell"
    return [str(own)] if own.exists() else [sys.executable, "-m", "keepwell.cli"]
