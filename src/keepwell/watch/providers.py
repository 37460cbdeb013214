"""The backups that the providers of managed databases take themselves, read through their public APIs.

Neon: https://api-docs.neon.tech/reference/getproject and …/listprojectbranches: it keeps a history of every change, and no single
backups. Supabase: https://supabase.com/docs/reference/api/v1-list-all-backups.
"""

from __future__ import annotations

import datetime as dt
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote

from keepwell.core.clock import from_iso, iso
from keepwell.core.errors import KeepwellError
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import PostgresSource
from keepwell.policy.provider import NeonAccount, SupabaseAccount
from keepwell.watch.seen import ProviderSeen

_SECONDS = 10
_MOST_BYTES = 8 << 20


class ProviderError(KeepwellError):
    """The API of a provider did not say what its backups are."""


def providers_of(loaded: LoadedPolicy, now: dt.datetime) -> list[dict[str, Any]]:
    """Each managed database whose provider the policy names, as JSON. What cannot be asked says so in `error`."""
    return [
        _asked(loaded, environment, name, source, now)
        for environment, settings in loaded.policy.environments.items()
        for name, source in settings.sources.items()
        if isinstance(source, PostgresSource) and source.provider is not None
    ]


def providers_seen(known: Iterable[Mapping[str, Any]]) -> tuple[ProviderSeen, ...]:
    return tuple(
        ProviderSeen(
            each["environment"],
            each["source"],
            each["provider"],
            from_iso(each["newest"]) if each["newest"] else None,
            dt.timedelta(seconds=each["window"]) if each["window"] is not None else None,
            each["error"],
            dt.timedelta(seconds=each["wanted"]),
        )
        for each in known
    )


def _asked(
    loaded: LoadedPolicy, environment: str, name: str, source: PostgresSource, now: dt.datetime
) -> dict[str, Any]:
    assert source.provider is not None
    account = source.provider.account
    found: dict[str, Any] = {
        "environment": environment,
        "source": name,
        "provider": "Neon" if isinstance(account, NeonAccount) else "Supabase",
        "newest": None,
        "window": None,
        "wanted": account.retention.total_seconds(),
        "error": "",
    }
    try:
        token = account.token.resolve(loaded.base, what=f"the provider's token of {name}", error=ProviderError).reveal()
        newest, window = (
            _neon(account, token, now) if isinstance(account, NeonAccount) else _supabase(account, token, now)
        )
    except ProviderError as error:
        return found | {"error": error.message}
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        return found | {"error": "its API answered in a form that keepwell does not know"}
    return found | {"newest": iso(newest) if newest else None, "window": window}


def _neon(account: NeonAccount, token: str, now: dt.datetime) -> tuple[dt.datetime | None, float]:
    """History is kept up to this moment, as long as the branch is there and usable."""
    where = f"{account.endpoint}/projects/{quote(account.project, safe='')}"
    project = _get(where, token)["project"]
    branches = _get(f"{where}/branches", token)["branches"]
    wanted = account.branch
    branch = next((b for b in branches if (wanted in {b["id"], b["name"]} if wanted else b.get("default"))), None)
    if branch is None:
        raise ProviderError(f"the project has no branch {wanted}" if wanted else "the project has no default branch")
    state = branch.get("current_state", "ready")
    if state != "ready":
        raise ProviderError(f"the branch {branch['name']} is {state}")
    return now, float(project["history_retention_seconds"])


def _supabase(account: SupabaseAccount, token: str, now: dt.datetime) -> tuple[dt.datetime | None, float]:
    found = _get(f"{account.endpoint}/projects/{quote(account.ref, safe='')}/database/backups", token)
    times = [dt.datetime.fromisoformat(b["inserted_at"]) for b in found["backups"] if b["status"] == "COMPLETED"]
    times = [t if t.tzinfo else t.replace(tzinfo=dt.UTC) for t in times]
    physical = found.get("physical_backup_data") or {}
    for key in ("earliest_physical_backup_date_unix", "latest_physical_backup_date_unix"):
        if physical.get(key) is not None:
            times.append(dt.datetime.fromtimestamp(physical[key], dt.UTC))
    return (max(times), (now - min(times)).total_seconds()) if times else (None, 0.0)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The token would go along to wherever an answer points."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _get(url: str, token: str) -> Any:
    """Raises ProviderError."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/json", "User-Agent": "keepwell"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310  # the policy allows https and loopback only
    try:
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=_SECONDS) as answer:
            return json.loads(answer.read(_MOST_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        refused = ": the token is wrong, or may not read this project" if error.code in {401, 403} else ""
        raise ProviderError(f"its API answered {error.code}{refused}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        # The error's own text may hold the request, and with it the token.
        raise ProviderError(f"its API does not answer ({type(error).__name__})") from None
