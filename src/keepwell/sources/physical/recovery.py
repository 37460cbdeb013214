"""The settings of a recovery, as text: what a restored cluster reads when it is started for the first time."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Mapping

from keepwell.core.errors import UsageError
from keepwell.core.streams import Facts, Json
from keepwell.core.wal import show_lsn
from keepwell.sources.base import Recovery

SIGNAL, STANDBY, AUTO, MAIN, HBA, IDENT = (
    "recovery.signal",
    "standby.signal",
    "postgresql.auto.conf",
    "postgresql.conf",
    "pg_hba.conf",
    "pg_ident.conf",
)
NO_LOG = "/bin/false"
"""A restore_command that finds nothing: PostgreSQL demands one, and the log in the backup is all there is."""

_TARGETS = (
    "recovery_target",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
    "recovery_target_lsn",
)
_SILENCED = {
    "archive_mode": "off",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "synchronous_standby_names": "",
}
"""What a copy must not do in the name of the server that was backed up: write into its archive, clean it, wait for its
standbys."""
_LINE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(?:=|\s)")
_HEADER = "# Written by keepwell's restore; what stood here for these settings before is gone.\n"

Settings = dict[str, str]


def latest() -> Recovery:
    """To the end of the log that there is."""
    return Recovery()


def check(recovery: Recovery) -> None:
    """Raises UsageError for what cannot be meant."""
    given = [
        option
        for option, value in (
            ("--at", recovery.time),
            ("--lsn", recovery.lsn),
            ("--name", recovery.name),
            ("--immediate", recovery.immediate),
        )
        if value not in (None, False)
    ]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} were given, and a recovery ends at one moment")
    if recovery.time is not None and recovery.time.tzinfo is None:
        raise UsageError("the moment to recover to has no time zone", hint='Write --at "2026-11-22 14:30:00+00".')
    if recovery.name is not None and not 0 < len(recovery.name.encode()) < 64:
        raise UsageError("the name of a restore point has 1 to 63 bytes")
    if not (recovery.timeline in ("latest", "current") or recovery.timeline.isdecimal()):
        raise UsageError(
            f"{recovery.timeline!r} is no timeline", hint="Write --timeline latest, current, or a number such as 2."
        )


def target_settings(recovery: Recovery) -> Settings:
    """What ends the recovery. The empty ones first: PostgreSQL takes an empty one behind the real one for a second target."""
    chosen: Settings = {}
    if recovery.time is not None:
        moment = recovery.time.astimezone(dt.UTC)
        chosen["recovery_target_time"] = f"{moment:%Y-%m-%d %H:%M:%S.%f}+00"
    elif recovery.lsn is not None:
        chosen["recovery_target_lsn"] = show_lsn(recovery.lsn)
    elif recovery.name is not None:
        chosen["recovery_target_name"] = recovery.name
    elif recovery.immediate:
        chosen["recovery_target"] = "immediate"
    found = {name: "" for name in _TARGETS if name not in chosen}
    return found | chosen | {"recovery_target_inclusive": "on", "recovery_target_timeline": recovery.timeline}


def settings(recovery: Recovery, restore_command: str, *, action: str = "promote") -> Settings:
    """All that goes into `postgresql.auto.conf`, in the order in which it must stand."""
    found = target_settings(recovery) | {"recovery_target_action": action}
    return found | {"restore_command": restore_command or NO_LOG} | _SILENCED


def merge(auto_conf: str, new: Settings) -> str:
    """The text of `postgresql.auto.conf` with these settings in place of its own."""
    kept = [line for line in auto_conf.splitlines() if line != _HEADER.rstrip() and _name(line) not in new]
    while kept and not kept[-1].strip():
        kept.pop()
    before = "\n".join(kept) + "\n" if kept else ""
    return before + _HEADER + "".join(f"{name} = {quote(value)}\n" for name, value in new.items())


def remarks(auto_conf: str, conf: str) -> list[str]:
    """What a restored cluster does otherwise than the one that was backed up."""
    there = {name: value for text in (conf, auto_conf) for name, value in _values(text).items()}
    changed = []
    if there.get("archive_mode", "off") not in ("off", "false", "no", "0"):
        changed.append(
            "archive_mode is off in the restored cluster, so that it does not write into the archive of the one that was "
            "backed up. To archive from here: ALTER SYSTEM RESET archive_mode, see to archive_command, and restart."
        )
    changed += [
        f"{name} is empty in the restored cluster; it was {there[name]!r}. ALTER SYSTEM RESET {name} brings it back."
        for name in ("archive_cleanup_command", "recovery_end_command", "synchronous_standby_names")
        if there.get(name)
    ]
    return changed


_NEEDED = {
    "max_connections": 100,
    "max_worker_processes": 8,
    "max_wal_senders": 10,
    "max_prepared_transactions": 0,
    "max_locks_per_transaction": 64,
}
"""What a server that replays log needs as much of as the one that wrote it, and PostgreSQL's own values."""


def needed(auto_conf: str, conf: str, then: Mapping[str, Json]) -> Settings:
    """Those that the restored files give less of than the server had (`then`), which got them elsewhere: from its command line
    or an included file. Without them the recovery is refused.
    """
    there = _values(conf) | _values(auto_conf)
    found: Settings = {}
    for name, usual in _NEEDED.items():
        text = there.get(name, "")
        has = int(text) if text.isdecimal() else usual
        if name in then and int(then[name]) > has:
            found[name] = str(then[name])
    return found


def quote(value: str) -> str:
    """As a configuration file takes it. Raises UsageError for a line end, which no setting can hold."""
    if "\n" in value or "\0" in value:
        raise UsageError("a setting of PostgreSQL cannot have a line end in it")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


_LARGE_SEGMENT = 40 << 20


def minimal(facts: Facts) -> str:
    """A `postgresql.conf` for a cluster whose own lies outside of its data directory, with the settings that a server needs
    that replays its log.
    """
    found: Mapping[str, Json] = facts.get("settings", {})
    lines = [
        "# The backup has no postgresql.conf: the server that was backed up keeps it outside of its data directory."
    ]
    lines += [f"{name} = {quote(str(value))}" for name, value in found.items() if name != "wal_level"]
    if (segment := int(facts["wal"]["segment_size"])) > _LARGE_SEGMENT:
        # A server refuses to start where these are less than two segments; their defaults are 80 MB and 1 GB.
        lines += [f"min_wal_size = '{2 * segment >> 20}MB'", f"max_wal_size = '{max(1024, 4 * segment >> 20)}MB'"]
    return "\n".join(lines) + "\n"


HBA_TEXT = "# Written by keepwell: the backup has no pg_hba.conf.\nlocal all all peer\n"


def _name(line: str) -> str:
    found = _LINE.match(line)
    return found[1].lower() if found else ""


def _values(text: str) -> dict[str, str]:
    """Settings of one file, without what it includes."""
    values = {}
    for line in text.splitlines():
        if name := _name(line):
            rest = line[_LINE.match(line).end() :].strip().lstrip("=").strip()  # type: ignore[union-attr]  # _name found it
            quoted = re.match(r"'((?:[^'\\]|''|\\.)*)'", rest)
            values[name] = quoted[1] if quoted else rest.split("#")[0].strip()
    return values
