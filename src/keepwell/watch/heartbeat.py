"""Signs of life for a service elsewhere, which tells people when they stop: URLs as Healthchecks has them.

`URL/start` when a run begins, `URL` when it is done, `URL/fail` when it failed; the body is what a person would want to read.
"""

from __future__ import annotations

import datetime as dt
import http.client
import urllib.error
import urllib.request
from typing import Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from keepwell.core.clock import iso
from keepwell.core.errors import KeepwellError
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.secret import SecretRef
from keepwell.watch.book import Book

Sign: TypeAlias = Literal["start", "done", "fail"]
_SECONDS = 10
_TRIES = 2
_MOST_BYTES = 10_000


class HeartbeatError(KeepwellError):
    """The service that waits for signs of life did not take one."""


def beat(
    loaded: LoadedPolicy,
    book: Book,
    ref: SecretRef | None,
    sign: Sign,
    body: str,
    *,
    of: str,
    now: dt.datetime,
    run: str = "",
) -> str:
    """Sends one sign; returns what went wrong, or nothing. That it failed is noted in the book, and becomes an alert.

    `of` names it: `watch`, or an environment. `run` is a UUID that start and end have in common. Raises BookError.
    """
    if ref is None:
        return ""
    error = ""
    try:
        url = ref.resolve(loaded.base, what=f"the heartbeat URL of {of}", error=HeartbeatError)
        _send(url.reveal(), sign, body, run)
    except HeartbeatError as problem:
        error = f"heartbeat of {of}: {problem.message}"
    note = f"heartbeat:{of}"
    with book.look() as pages:
        known = pages.note(note)
    if error or known:
        with book.turn() as pages:
            if error:
                known = pages.note(note) or {"since": iso(now), "tries": 0}
                pages.write(note, {"since": known["since"], "tries": known["tries"] + 1, "error": error})
            else:
                pages.forget(note)
    return error


def _send(url: str, sign: Sign, body: str, run: str) -> None:
    """Raises HeartbeatError; the URL, which is a secret, stands in none."""
    try:
        parts = urlsplit(url)
        suffix = "" if sign == "done" else f"/{sign}"
        query = "&".join(filter(None, [parts.query, f"rid={run}" if run else ""]))
        address = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/") + suffix, query, ""))
        good = parts.scheme in {"http", "https"} and parts.hostname
    except ValueError:
        good = False
    if not good:
        raise HeartbeatError("it is not an http:// or https:// address")
    text = body.encode()[:_MOST_BYTES]
    headers = {"User-Agent": "keepwell", "Content-Type": "text/plain; charset=utf-8"}
    request = urllib.request.Request(address, text, headers)  # noqa: S310  # the scheme was looked at
    said = ""
    for _ in range(_TRIES):
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  # as above
                answer.read(1000)
            return
        except urllib.error.HTTPError as error:
            error.close()
            said = f"it answered {error.code}"
        except urllib.error.URLError as error:
            reason = error.reason
            said = (reason.strerror or type(reason).__name__) if isinstance(reason, OSError) else type(error).__name__
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or type(error).__name__
    raise HeartbeatError(said)
