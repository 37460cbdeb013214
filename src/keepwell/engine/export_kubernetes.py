"""CronJobs for Kubernetes, with the policy as a ConfigMap and secrets from a Secret."""

from __future__ import annotations

import datetime as dt
import json
import posixpath
import shlex
from collections.abc import Iterator
from typing import Any

from keepwell.engine.export import (
    AGAIN,
    LASTING,
    MARK,
    WARNINGS,
    Errand,
    Export,
    Place,
    errands,
    five_fields,
    label,
    references,
)
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import FilesSource, GitSource, SqliteSource
from keepwell.policy.schedule import next_due

_FOLDER = "/etc/keepwell"
_LONGEST = 52
"""Kubernetes adds to the name of a CronJob what it calls its runs, and 63 is the most."""
_MOST_MISSED = 90
"""With a hundred missed runs in the window of `startingDeadlineSeconds` a controller gives up."""
_CANNOT = (
    "Kubernetes tries again after 10 s, 20 s, 40 s and so on, not after `retry_after`.",
    "A run of one environment may begin while another kind of run of it is going on (that does no harm).",
    "All jobs share a volume for keepwell's own notes: with ReadWriteOnce they run on one node.",
)


def export(loaded: LoadedPolicy, place: Place, now: dt.datetime) -> Export:
    """One file with everything but the Secret, whose keys its first lines name."""
    found, needed = errands(loaded, place, now), references(loaded.policy)
    cannot = list(_CANNOT)
    if any(errand.delay for errand in found):
        cannot.append("Of the jitter each run has a fixed share, which it waits for.")
    cannot += [
        f"{errand.about}: {errand.plan.cron} in {errand.plan.timezone} falls into the hour of the change to and from "
        "summer time: Kubernetes does not run it in spring and may run it twice in autumn."
        for errand in found
        if errand.skipped
    ]
    cannot += [AGAIN] * any(len(errand.arguments) > 1 for errand in found)
    cannot += [f"The program {name} of a `command` reference must be in the image." for name in needed.commands]
    cannot += list(_mounts_missing(loaded))
    keys = [*needed.variables, *(_key(path) for path in needed.files)]
    lines = [f"# {MARK} from {loaded.path}.", f"# The Secret {place.prefix} is yours to make, with the keys:"]
    lines += [f"#   {key}" for key in keys] or ["#   none"]
    lines += [f"# The image {place.image} has keepwell as its program, and a shell."]
    lines += [f"# Other than keepwell serve: {text}" for text in cannot]
    documents = [_policy(loaded, place), _state(place), *(_job(loaded, place, errand) for errand in found)]
    text = "\n".join(lines) + "\n" + "".join("---\n" + "\n".join(_yaml(document)) + "\n" for document in documents)
    return Export("kubernetes", {f"{place.prefix}.yaml": text}, tuple(cannot))


def _mounts_missing(loaded: LoadedPolicy) -> Iterator[str]:
    for name, environment in loaded.policy.environments.items():
        for source_name, source in environment.sources.items():
            if isinstance(source, FilesSource | SqliteSource | GitSource) and source.path is not None:
                yield f"The source {source_name} of {name} is in {source.path}: mount it into the jobs of {name}."
    for store in (loaded.policy.vault, *loaded.policy.copies):
        if folder := store.folder():
            yield f"The store {folder} is a folder: mount it into every job."


def _policy(loaded: LoadedPolicy, place: Place) -> dict[str, Any]:
    text = loaded.path.read_text(encoding="utf-8")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": place.prefix},
        "data": {"keepwell.toml": text},
    }


def _state(place: Place) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": place.prefix},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Gi"}}},
    }


def _job(loaded: LoadedPolicy, place: Place, errand: Errand) -> dict[str, Any]:
    container = {
        "name": "keepwell",
        "image": place.image,
        "command": ["sh", "-c", _script(errand)],
        "env": [
            *(
                {"name": name, "valueFrom": {"secretKeyRef": {"name": place.prefix, "key": name}}}
                for name in references(loaded.policy).variables
            ),
            {"name": "XDG_CACHE_HOME", "value": f"{_FOLDER}/.keepwell/cache"},
        ],
        "volumeMounts": [
            {"name": "policy", "mountPath": f"{_FOLDER}/keepwell.toml", "subPath": "keepwell.toml", "readOnly": True},
            {"name": "state", "mountPath": f"{_FOLDER}/.keepwell"},
            {"name": "scratch", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
            *(
                {"name": "secrets", "mountPath": _inside(loaded, path), "subPath": _key(path), "readOnly": True}
                for path in references(loaded.policy).files
            ),
        ],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    volumes: list[dict[str, Any]] = [
        {"name": "policy", "configMap": {"name": place.prefix}},
        {"name": "state", "persistentVolumeClaim": {"claimName": place.prefix}},
        {"name": "scratch", "emptyDir": {}},
    ]
    if references(loaded.policy).files:
        volumes.append({"name": "secrets", "secret": {"secretName": place.prefix, "defaultMode": 0o400}})
    user = 10001
    pod = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": user, "runAsGroup": user, "fsGroup": user},
        "containers": [container],
        "volumes": volumes,
    }
    lasting = {"containerName": "keepwell", "operator": "In", "values": list(LASTING)}
    return {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {
            "name": label(place.prefix, errand.name, most=_LONGEST),
            "annotations": {"description": f"keepwell: {errand.about}"},
        },
        "spec": {
            "schedule": five_fields(errand.plan.cron),
            "timeZone": "Etc/UTC" if errand.plan.timezone == "UTC" else errand.plan.timezone,
            "concurrencyPolicy": "Forbid",
            "startingDeadlineSeconds": _deadline(errand),
            "successfulJobsHistoryLimit": 1,
            "failedJobsHistoryLimit": 3,
            "jobTemplate": {
                "spec": {
                    "backoffLimit": 0 if errand.name == "watch" else loaded.policy.schedules.retries,
                    "podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": lasting}]},
                    "template": {"spec": pod},
                }
            },
        },
    }


def _script(errand: Errand) -> str:
    """Every command in turn as long as they do their work. A run with warnings is done, and no failure to be repeated."""
    lines = [f"sleep {errand.delay}"] if errand.delay else []
    for number, arguments in enumerate(errand.arguments):
        call = shlex.join(["keepwell", "--policy", f"{_FOLDER}/keepwell.toml", *arguments])
        lines.append(f"{call}; code=$?" if number == 0 else f"[ $code -ne 0 ] || {{ {call}; code=$?; }}")
        lines.append(f"[ $code -ne {WARNINGS} ] || code=0")
    return "; ".join([*lines, "exit $code"])


def _deadline(errand: Errand) -> int:
    """How late a run may begin: what was missed is caught up, the newest."""
    if not errand.plan.catch_up:
        return 300
    moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    end = moment
    for _ in range(_MOST_MISSED):
        end = next_due(errand.plan.cron, end, errand.plan.timezone)
    return int(min((end - moment).total_seconds(), 7 * 86400))


def _inside(loaded: LoadedPolicy, path: str) -> str:
    """Where the container has it: a file beside the policy stays beside it."""
    whole = (loaded.base / path).as_posix()
    base = loaded.base.as_posix()
    return posixpath.join(_FOLDER, posixpath.relpath(whole, base)) if whole.startswith(base + "/") else whole


def _key(path: str) -> str:
    return posixpath.basename(path)


def _yaml(value: Any, indent: int = 0) -> Iterator[str]:
    """As blocks; texts as JSON writes them, which is YAML."""
    margin = " " * indent
    for key, item in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        begin = f"{margin}- " if key is None else f"{margin}{key}:"
        if isinstance(item, str) and "\n" in item and not item[0].isspace() and item.replace("\n", "").isprintable():
            yield f"{begin} |"
            yield from (f"{margin}  {line}" if line else "" for line in item.rstrip("\n").split("\n"))
        elif isinstance(item, dict | list) and item and key is None:
            first, *rest = _yaml(item, indent + 2)
            yield f"{begin}{first[indent + 2 :]}"
            yield from rest
        elif isinstance(item, dict | list) and item and not all(isinstance(x, int) for x in item):
            yield begin
            yield from _yaml(item, indent + 2)
        else:
            space = "" if key is None else " "
            yield f"{begin}{space}{json.dumps(item, ensure_ascii=False)}"
