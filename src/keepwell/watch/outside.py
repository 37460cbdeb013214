"""What lies beside the backups: copies of the vault in other stores, and the archived log of databases."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from keepwell.core.clock import from_iso, iso
from keepwell.core.errors import KeepwellError, SourceError
from keepwell.core.wal import show_lsn
from keepwell.operations.opening import open_copy, open_copy_store
from keepwell.operations.prune import kept_of
from keepwell.operations.recovering import bases_of
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import CopyPolicy, PostgresSource
from keepwell.policy.retention import decide
from keepwell.sources.postgres import connection
from keepwell.vault.catalog import Backup
from keepwell.vault.vault import Vault
from keepwell.vault.wal import WalArchive, systems
from keepwell.vault.walcoverage import Coverage
from keepwell.watch.seen import CopySeen, WalSeen


def copies_of(
    loaded: LoadedPolicy, vault: Vault, now: dt.datetime, before: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """What each copy lacks, as JSON. `before` is what this gave last: of a copy that cannot be reached it tells how far it was."""
    if not loaded.policy.copies:
        return {}
    backups = vault.backups()
    return {copy.name: _copy(loaded, copy, backups, now, before.get(copy.name, {})) for copy in loaded.policy.copies}


def _copy(
    loaded: LoadedPolicy, copy: CopyPolicy, backups: Sequence[Backup], now: dt.datetime, before: Mapping[str, Any]
) -> dict[str, Any]:
    plan = decide([kept_of(b) for b in backups], loaded.policy.keep_rules(copy), now)
    kept = {d.backup.id for d in plan.decisions if d.keep}
    wanted = [b for b in backups if str(b.id) in kept]
    error, newest = ("", ""), before.get("newest")
    try:
        there = open_copy(loaded, open_copy_store(loaded, copy)).backups()
    except KeepwellError as problem:
        error = problem.message, problem.hint
        reached = from_iso(newest) if newest else None
        missing = [b for b in wanted if reached is None or b.time > reached]
    else:
        ids = {str(b.id) for b in there}
        missing = [b for b in wanted if str(b.id) not in ids]
        newest = iso(max(b.time for b in there)) if there else None
    return {
        "missing": iso(missing[0].time) if missing else None,
        "count": len(missing),
        "error": error[0],
        "hint": error[1],
        "newest": newest,
    }


def copies_seen(known: Mapping[str, Mapping[str, Any]]) -> tuple[CopySeen, ...]:
    return tuple(
        CopySeen(name, from_iso(c["missing"]) if c["missing"] else None, c["count"], c["error"], c["hint"])
        for name, c in known.items()
    )


def wal_of(loaded: LoadedPolicy, vault: Vault, now: dt.datetime) -> list[dict[str, Any]]:
    """How far the log of each physical source reaches, as JSON. Raises StoreError."""
    found = []
    for environment, settings in loaded.policy.environments.items():
        for name, source in settings.sources.items():
            if isinstance(source, PostgresSource) and str(source.method) == "physical":
                seen = _wal(loaded, vault, environment, name, source, now)
                if seen is not None:
                    found.append(seen)
    return found


def _wal(
    loaded: LoadedPolicy, vault: Vault, environment: str, name: str, source: PostgresSource, now: dt.datetime
) -> dict[str, Any] | None:
    archives = [WalArchive(vault, environment, name, system).coverage() for system in systems(vault, environment, name)]
    archives = [archive for archive in archives if archive.parts]
    if not archives:
        return None
    newest = max(archives, key=lambda archive: max(part.modified for part in archive.parts))
    reached = max(part.modified for part in newest.parts)
    # A database that nobody writes to makes no log: then the server is asked whether there is any that is not here.
    if now - reached > loaded.policy.watch.wal_within and _all_there(loaded, name, source, newest):
        reached = now
    return {
        "environment": environment,
        "source": name,
        "newest": iso(reached),
        "gap": _gap(vault, environment, name, newest),
    }


def _all_there(loaded: LoadedPolicy, name: str, source: PostgresSource, coverage: Coverage) -> bool:
    """Whether the server has written nothing that the archive lacks. A server that does not answer is no reason to be calm."""
    try:
        url = source.url.resolve(loaded.base, what=f"the URL of {name}", error=SourceError)
        with connection.connected(connection.parse(url)) as server:
            row = server.execute(
                "select (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_flush_lsn() end "
                "- '0/0'::pg_lsn)::numeric::bigint"
            ).fetchone()
    except KeepwellError:
        return False
    timeline = coverage.newest_timeline()
    end = coverage.end(timeline) if timeline is not None else None
    return row is not None and end is not None and int(row[0]) <= end


def _gap(vault: Vault, environment: str, name: str, coverage: Coverage) -> str:
    """The first gap after the newest physical backup, in words."""
    bases = bases_of(vault.backups(environment), environment, name)
    if not bases:
        return ""
    base = max(bases, key=lambda b: (b.timeline, b.stop))
    for timeline in coverage.timelines():
        if timeline < base.timeline:
            continue
        for start, end in coverage.gaps(timeline):
            if timeline > base.timeline or end > base.stop:
                return f"{show_lsn(start)} to {show_lsn(end)} of timeline {timeline} are missing"
    return ""


def wal_seen(known: Sequence[Mapping[str, Any]]) -> tuple[WalSeen, ...]:
    return tuple(WalSeen(w["environment"], w["source"], from_iso(w["newest"]), w["gap"]) for w in known)
