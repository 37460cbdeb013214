"""Pairs of a service and a timer for systemd."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from keepwell.core.clock import UTC
from keepwell.engine.export import AGAIN, LASTING, MARK, WARNINGS, Errand, Export, Place, errands, expanded, references
from keepwell.operations.heads import folder_of
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import SqliteSource

_DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
_CANNOT = (
    "systemd tries a failed run again after the same wait each time (`retry_after`), not after growing ones.",
    "A backup that is repeated after the machine went down in the middle is another run of systemd's, not the same one.",
)
_HARDENING = """\
NoNewPrivileges=true
ProtectSystem=strict
ProtectHome=read-only
ProtectKernelTunables=true
ProtectKernelModules=true
ProtectControlGroups=true
ProtectClock=true
RestrictSUIDSGID=true
RestrictRealtime=true
LockPersonality=true
PrivateTmp=true
UMask=0077
"""


def export(loaded: LoadedPolicy, place: Place, now: dt.datetime) -> Export:
    """`PREFIX-backup-production.service` and `.timer`, and so on."""
    found = errands(loaded, place, now)
    cannot = list(_CANNOT)
    if any(errand.plan.jitter for errand in found):
        cannot.append("Each machine has its own share of the jitter; it stays the same, but is not that of `serve`.")
    cannot += [AGAIN] * any(len(errand.arguments) > 1 for errand in found)
    if not any(errand.name == "watch" for errand in found):
        cannot.append("The watch is not among these files: run it where the rest of the policy is served.")
    files: dict[str, str] = {}
    for errand in found:
        name = f"{place.prefix}-{errand.name}"
        files[f"{name}.service"] = _service(loaded, place, errand, cannot)
        files[f"{name}.timer"] = _timer(errand)
    return Export("systemd", files, tuple(cannot))


def on_calendar(cron: str, timezone: str) -> list[str]:
    """The times as systemd writes them; two lines where either of two kinds of day makes it due."""
    minute, hour, day, month, weekday = expanded(cron)
    days = ",".join(_DAYS[number % 7] for number in weekday) + " " if weekday is not None else ""
    date, time = f"*-{_values(month)}-", f"{_values(hour)}:{_values(minute)}:00 {timezone}"
    if day is not None and weekday is not None:
        return [f"{date}{_values(day)} {time}", f"{days}{date}* {time}"]
    return [f"{days}{date}{_values(day)} {time}"]


def _values(values: list[int] | None) -> str:
    return "*" if values is None else ",".join(f"{value:02}" for value in values)


def _service(loaded: LoadedPolicy, place: Place, errand: Errand, cannot: list[str]) -> str:
    retries, wait = loaded.policy.schedules.retries, max(1, int(loaded.policy.schedules.retry_after.total_seconds()))
    lines = [f"# {MARK} from {loaded.path}."]
    lines += [f"# Other than keepwell serve: {text}" for text in cannot]
    lines += ["", "[Unit]", f"Description={_plain(f'keepwell: {errand.about}')}"]
    lines += ["Wants=network-online.target", "After=network-online.target"]
    tries = retries and errand.name != "watch"
    if tries:
        # The window of tries: long enough for all of them, shorter than a day of waiting would be.
        lines += [f"StartLimitBurst={retries + 1}", f"StartLimitIntervalSec={(retries + 1) * wait + 6 * 3600}"]
    lines += ["", "[Service]", "Type=oneshot", f"User={place.user}", f"SuccessExitStatus={WARNINGS}"]
    if tries:
        lines += ["Restart=on-failure", f"RestartSec={wait}"]
        lines += [f"RestartPreventExitStatus={' '.join(map(str, LASTING))}"]
    if references(loaded.policy).variables:
        lines += [f"EnvironmentFile={_path(place.secrets)}"]
    lines += ["Environment=XDG_CACHE_HOME=/var/cache", "CacheDirectory=keepwell"]
    lines += [
        f"ExecStart={_word(place.program)} --policy {_word(str(loaded.path))} {' '.join(map(_word, arguments))}"
        for arguments in errand.arguments
    ]
    lines += [f"ReadWritePaths=-{_path(str(path))}" for path in _written(loaded)]
    return "\n".join(lines) + "\n" + _HARDENING


def _timer(errand: Errand) -> str:
    plan = errand.plan
    lines = [f"# {MARK}: {plan.cron} in {plan.timezone}.", "", "[Unit]"]
    lines += [f"Description={_plain(f'keepwell: when the {errand.about} is due')}", "", "[Timer]"]
    lines += [f"OnCalendar={text}" for text in on_calendar(plan.cron, plan.timezone)]
    if errand.skipped:
        lines += ["# Times that the clock skips in spring: systemd would skip the run, too."]
        lines += [f"OnCalendar={due.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" for due in errand.skipped]
    lines += ["AccuracySec=1s"]
    if plan.jitter:
        lines += [f"RandomizedDelaySec={int(plan.jitter.total_seconds())}", "FixedRandomDelay=true"]
    lines += [f"Persistent={'true' if plan.catch_up else 'false'}"]
    return "\n".join([*lines, "", "[Install]", "WantedBy=timers.target"]) + "\n"


def _written(loaded: LoadedPolicy) -> list[Path]:
    """What keepwell writes beside its cache: its notes, vaults in folders, and SQLite's own files beside a database."""
    stores = [loaded.policy.vault, *loaded.policy.copies]
    folders = [store.folder() for store in stores]
    databases = [
        source.path.parent
        for environment in loaded.policy.environments.values()
        for source in environment.sources.values()
        if isinstance(source, SqliteSource)
    ]
    return list(dict.fromkeys([folder_of(loaded), *(folder for folder in folders if folder is not None), *databases]))


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def _path(text: str) -> str:
    return text.replace("%", "%%").replace(" ", "\\x20")


def _word(text: str) -> str:
    """One word of a command line, whatever is in it."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if any(c in text for c in " '\"\\;\t") else text
