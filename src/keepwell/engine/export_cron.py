"""A file for /etc/cron.d."""

from __future__ import annotations

import datetime as dt
import shlex

from keepwell.core.errors import UsageError
from keepwell.engine.export import MARK, WARNINGS, Errand, Export, Place, errands, five_fields, references
from keepwell.policy.load import LoadedPolicy

_LONGEST = 998
"""Debian's cron cuts off what is longer."""
_CANNOT = (
    "cron does not catch up: a run that is due while the machine is off is not done.",
    "cron does not try a failed run again: the next run is the next try.",
)
_ZONES = (
    "CRON_TZ is understood by cronie (Fedora, Red Hat, SUSE, Arch). The crons of Debian, Ubuntu and busybox do not know it "
    "and take all times as the machine's own: there the file is right only where the machine's time zone is {}."
)
_SEVERAL = (
    "CRON_TZ is understood by cronie (Fedora, Red Hat, SUSE, Arch). The crons of Debian, Ubuntu and busybox do not know it "
    "and take all times as the machine's own, and the schedules are in {}: there use --systemd."
)


def export(loaded: LoadedPolicy, place: Place, now: dt.datetime) -> Export:
    """One file, named as the prefix: names with dots are passed over by cron. Raises UsageError."""
    found = errands(loaded, place, now)
    zones = list(dict.fromkeys(errand.plan.timezone for errand in found if errand.name != "watch"))
    cannot = [*_CANNOT, (_ZONES if len(zones) == 1 else _SEVERAL).format(" and ".join(zones) or "UTC")]
    if any(errand.delay for errand in found):
        cannot.append("Of the jitter each run has a fixed share, which it waits for.")
    lines = [f"# {MARK} from {loaded.path}.", f"# As /etc/cron.d/{place.prefix}, owned by root, mode 0644."]
    lines += [f"# Other than keepwell serve: {text}" for text in cannot]
    lines += ["SHELL=/bin/sh", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    lines += ["# What runs say is mailed to:", "MAILTO=root", ""]
    current = ""
    for errand in sorted(found, key=lambda errand: zones.index(errand.plan.timezone) if errand.name != "watch" else -1):
        if errand.plan.timezone != current:
            current = errand.plan.timezone
            lines += [f"CRON_TZ={current}"]
        lines += [f"# {errand.about}", _line(loaded, place, errand)]
    return Export("cron", {place.prefix: "\n".join(lines) + "\n"}, tuple(cannot))


def _line(loaded: LoadedPolicy, place: Place, errand: Errand) -> str:
    begin = [f"sleep {errand.delay}"] if errand.delay else []
    if references(loaded.policy).variables:
        begin += ["set -a", f". {shlex.quote(place.secrets)}", "set +a"]
    calls = [
        shlex.join([place.program, "--policy", str(loaded.path), "--quiet", *arguments])
        for arguments in errand.arguments
    ]
    # The next command only where the one before did its work, also with warnings.
    joined = "".join(f"{{ {call} || [ $? -eq {WARNINGS} ]; }} && " for call in calls[:-1]) + calls[-1]
    command = "; ".join([*begin, joined]).replace("%", "\\%")
    if len(command) >= _LONGEST:
        raise UsageError(
            f"the command for the {errand.about} has {len(command)} characters, and cron takes {_LONGEST - 1}",
            hint="Give the policy a shorter path, or use --systemd.",
        )
    return f"{five_fields(errand.plan.cron)} {place.user} {command}"
