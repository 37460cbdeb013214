"""From what the models refuse to lines of text: where, what is wrong, how to mend it."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from keepwell.policy.lines import KeyPath
from keepwell.policy.models import Policy
from keepwell.policy.values import nearest

_KINDS = ("postgres", "sqlite", "files", "bucket", "git")
_MENDS: dict[str, str] = {
    "version": "Write version = 1 in the first line.",
    "project": 'Write for example project = "Lead Management System".',
    "vault": "Add the table [vault] with store and key.",
    "vault.store": 'Write for example store = "file:///var/backups/leads" or store = "s3://bucket/prefix".',
    "vault.key": 'Write key = { file = "vault.key" } or key = { passphrase = { env = "KEEPWELL_PASSPHRASE" } }.',
    "environments": "Add a table [environments.production] with sources.",
    "sources": "Add a table [environments.<name>.sources.<source>] with type and url or path.",
    "url": 'Write url = { env = "DATABASE_URL" }.',
    "store": 'Write for example store = "s3://bucket/prefix".',
    "path": 'Write for example path = "/srv/app/uploads".',
    "name": 'Say what the check makes sure of: name = "won deals have amounts".',
}
_SHAPES: dict[str, str] = {
    "string_type": "must be a text in quotes",
    "int_type": "must be a whole number, without quotes",
    "tuple_type": "must be a list in square brackets",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the policy."""

    path: KeyPath
    what: str
    mend: str = ""


def problems_of(error: ValidationError, data: Mapping[str, Any]) -> list[Problem]:
    """Every problem in it. The values that are wrong are never repeated: they may be secrets."""
    return [
        _problem(_path(found["loc"]), found["type"], found.get("ctx", {}), found["msg"], data)
        for found in error.errors(include_url=False, include_input=False)
    ]


def dotted(path: KeyPath) -> str:
    """`environments.production.sources.app.checks[0].sql`"""
    text = ""
    for key in path:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            plain = key.replace("_", "").replace("-", "").isalnum() and key.isascii()
            text += ("." if text else "") + (key if plain else f'"{key}"')
    return text or "the policy"


def _path(loc: tuple[str | int, ...]) -> KeyPath:
    """The keys as they are written: pydantic adds which member of a union it tried, and marks keys as such."""
    path = [key for key in loc if key != "[key]"]
    if len(path) > 4 and path[0] == "environments" and path[2] == "sources":
        del path[4]
    if "options" in path and len(path) > (at := path.index("options") + 2):
        del path[at]
    return tuple(path)


def _problem(path: KeyPath, kind: str, context: Mapping[str, Any], message: str, data: Mapping[str, Any]) -> Problem:
    key = str(path[-1]) if path else ""
    mend = _MENDS.get(dotted(path)) or _MENDS.get(key, "")
    if kind == "keepwell":
        return Problem(_numbered(path, context["at"], data), context["what"], context["hint"])
    if kind == "missing":
        return Problem(path, "is missing", mend)
    if kind == "extra_forbidden":
        known = sorted(_known(path[:-1], data))
        near = nearest(key, known)
        return Problem(path, "is not a key of this table", f"{near} Known here are: {', '.join(known)}.".strip())
    if kind == "union_tag_not_found":
        return Problem((*path, "type"), "is missing", f"Write one of {_quoted(_KINDS)}.")
    if kind == "union_tag_invalid":
        tag = str(context.get("tag", ""))
        near = nearest(tag, _KINDS)
        return Problem(
            (*path, "type"), "is not a kind of source", f"{near} This version knows {_quoted(_KINDS)}.".strip()
        )
    if kind == "literal_error":
        return Problem(path, f"must be {context['expected']}", mend)
    if kind in {"greater_than_equal", "less_than_equal"}:
        limit = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return Problem(path, f"must be {limit}", mend)
    return Problem(path, _SHAPES.get(kind, message[:1].lower() + message[1:]), mend)


def _numbered(path: KeyPath, below: tuple[str, ...], data: Any) -> KeyPath:
    """`path` and the keys below it, those of lists as numbers."""
    for key in below:
        path = (*path, int(key) if key.isdecimal() and isinstance(_at(data, path), list) else key)
    return path


def _at(data: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def _known(path: KeyPath, data: Mapping[str, Any]) -> set[str]:
    """The keys that the table at this path may have."""
    models: list[Any] = [Policy]
    for key in path:
        models = [found for model in models for found in _below(model, key)]
    models = [model for model in models if isinstance(model, type) and issubclass(model, BaseModel)]
    kind = (_at(data, path) or {}).get("type")
    of_kind = [
        m for m in models if "type" in m.model_fields and kind in typing.get_args(m.model_fields["type"].annotation)
    ]
    return {name for model in of_kind or models for name in model.model_fields}


def _below(model: Any, key: str | int) -> Iterator[Any]:
    """The types that a value under `key` may have, out of a union all of them."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        field = model.model_fields.get(str(key))
        if field is not None:
            yield from _members(field.annotation)
    elif typing.get_origin(model) is dict:
        yield from _members(typing.get_args(model)[1])
    elif typing.get_origin(model) is tuple:
        yield from _members(typing.get_args(model)[0])


def _members(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin in {dict, tuple} or isinstance(annotation, type):
        yield annotation
    elif origin is typing.Annotated:
        yield from _members(typing.get_args(annotation)[0])
    else:
        for part in typing.get_args(annotation):
            yield from _members(part)


def _quoted(names: tuple[str, ...]) -> str:
    return ", ".join(f'"{name}"' for name in names)
