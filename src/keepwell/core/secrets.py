"""A value that must not show in logs, `repr`, tracebacks or errors; and taking such values out of texts.

Every `Secret` that a process makes is remembered, so that `redact` finds it wherever it turns up: in the words of a
library, in a command line, inside an address.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
_SHORTEST = 4
"""What is shorter would take half of every text with it, and is no secret to speak of."""
_known: tuple[str, ...] = ()
"""Longest first, so that what holds another one goes as a whole."""
_lock = threading.Lock()

_IN_URL = re.compile(r"(?<=://)([^/\s:@]*):([^/\s@]+)@")
_ASSIGNED = re.compile(
    r"((?:password|passphrase|passwd|secret(?:_access)?_key|account_key|client_secret|session_token|sas_key|api_?key"
    r"|[?&](?:sig|token|x-amz-signature|x-amz-security-token))(?:\s*=\s*|[\"']\s*:\s*))"
    r"('[^']*'|\"[^\"]*\"|[^\s&,;'\"]+)",
    re.IGNORECASE,
)
_KEY_LINE = re.compile(r"(keepwell-key-1:[0-9a-f]*:[0-9a-f]*:)[A-Za-z0-9+/=]+")
_NAMED = re.compile(r"password|passphrase|secret|token|credential|private|authorization", re.IGNORECASE)
_CONNINFO = re.compile(r"\bpassword\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]+)")


@dataclass(frozen=True, repr=False)
class Secret:
    """Wraps a string; only `reveal()` gives it out."""

    _value: str

    def __post_init__(self) -> None:
        remember(self._value)

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__


def remember(value: str) -> None:
    """From now on `redact` takes this value out, and the password inside it where it is an address."""
    global _known  # noqa: PLW0603  # the memory of the process is what this is about
    fresh = {form for part in _parts(value) for form in _forms(part) if len(form) >= _SHORTEST}
    if fresh.issubset(_known):
        return
    with _lock:
        _known = tuple(sorted(fresh.union(_known), key=lambda text: (-len(text), text)))


def _parts(value: str) -> Iterator[str]:
    yield value.strip()
    for found in _IN_URL.finditer(value):
        yield found[2]
        yield unquote(found[2])
    for found in _CONNINFO.finditer(value):
        yield re.sub(r"\\(.)", r"\1", found[1].strip("'"))
        yield unquote(found[1])


def _forms(value: str) -> Iterator[str]:
    """As it is, and as addresses and JSON write it."""
    yield value
    yield quote(value, safe="")
    yield quote_plus(value)
    yield json.dumps(value)[1:-1]
    yield json.dumps(value, ensure_ascii=False)[1:-1]


def redact(text: str) -> str:
    """The text without any known secret, and without what looks like one: passwords in addresses, `password=…`."""
    for value in _known:
        if value in text:
            text = text.replace(value, HIDDEN)
    text = _IN_URL.sub(rf"\1:{HIDDEN}@", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    return _KEY_LINE.sub(rf"\1{HIDDEN}", text)


def redacted(value: Any) -> Any:
    """The same for a document: every text in it, every `Secret`, and everything that stands under a telling key.

    What JSON does not know becomes text.
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Secret):
        return HIDDEN
    if isinstance(value, Mapping):
        return {
            redact(str(key)): HIDDEN if _NAMED.search(str(key)) and _is_text(inner) else redacted(inner)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(inner) for inner in value]
    return redact(value if isinstance(value, str) else str(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes | Secret)
