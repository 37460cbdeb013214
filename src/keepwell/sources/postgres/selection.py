"""Which entries of the schema archive belong to chosen tables."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from keepwell.core.errors import UsageError
from keepwell.core.streams import Facts
from keepwell.sources.postgres.archive import Entry

_ATTACHED = {
    "DEFAULT",
    "SEQUENCE",
    "SEQUENCE OWNED BY",
    "CONSTRAINT",
    "CHECK CONSTRAINT",
    "FK CONSTRAINT",
    "INDEX",
    "INDEX ATTACH",
    "TABLE ATTACH",
    "TRIGGER",
    "POLICY",
    "ROW SECURITY",
    "RULE",
    "STATISTICS",
    "COMMENT",
    "ACL",
    "SECURITY LABEL",
}
_RELATIONS = {"TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE"}
_PART = re.compile(r'"((?:[^"]|"")*)"|([^."]+)')


@dataclass
class Selection:
    """Chosen tables, with everything they need."""

    tables: list[str]
    """With rows, as in the facts."""
    entries: list[Entry] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def wanted_tables(facts: Facts, names: Iterable[str]) -> tuple[list[str], set[int]]:
    """Tables with rows, partitions in the place of partitioned ones, and the oids of all. Raises UsageError."""
    tables, partitioned = facts["tables"], facts["partitioned"]
    found: dict[str, None] = {}
    oids: set[int] = set()
    for name in names:
        if name in partitioned:
            family = partitioned[name]
            found |= dict.fromkeys(family["tables"])
            oids |= {family["oid"], *(partitioned[key]["oid"] for key in family["partitioned"])}
        elif name in tables:
            found[name] = None
        else:
            known = [*tables, *partitioned]
            near = difflib.get_close_matches(name, known, 3, 0.5) or sorted(known)[:10]
            raise UsageError(
                f"no table {name!r} in this backup of {facts['database']}",
                hint=f"There is {', '.join(near)}." if near else "The backup has no tables.",
            )
    return list(found), oids | {tables[name]["oid"] for name in found}


def select(facts: Facts, entries: list[Entry], names: Iterable[str]) -> Selection:
    """The entries in their order. Foreign keys to tables that are not chosen are left out, with a warning."""
    tables, oids = wanted_tables(facts, names)
    by_number = {entry.number: entry for entry in entries}
    partitions = {need for entry in entries if entry.kind == "TABLE ATTACH" for need in entry.needs}
    chosen = {entry.number for entry in entries if entry.kind == "TABLE" and entry.oid in oids}
    asked = set(chosen)
    _follow(chosen, by_number, partitions)
    while True:
        before = len(chosen)
        for entry in entries:
            if entry.number not in chosen and _belongs(entry, chosen, by_number):
                chosen.add(entry.number)
                _follow(chosen, by_number, partitions)
        if len(chosen) == before:
            break
    selection = Selection(tables, [entry for entry in entries if entry.number in chosen])
    numbers = {oid: name for name, (_, _, oid) in facts["sequences"].items()}
    for entry in selection.entries:
        if entry.kind == "SEQUENCE" and entry.oid in numbers:
            selection.sequences.append(numbers[entry.oid])
        if entry.kind == "TABLE" and entry.number not in asked:
            selection.warnings.append(f"made without rows, because a chosen table needs it: {_named(entry)}")
    _warn(selection, entries, chosen, facts)
    return selection


def _follow(chosen: set[int], by_number: dict[int, Entry], partitions: set[int]) -> None:
    """Adds what the chosen entries cannot be made without."""
    todo = list(chosen)
    while todo:
        entry = by_number[todo.pop()]
        for number in entry.needs - chosen:
            need = by_number.get(number)
            if need is None or need.kind in ("INDEX", "CONSTRAINT"):
                continue  # of the partitioned table above; the partition's own is made without it
            if need.kind == "TABLE" and (entry.kind == "SEQUENCE" or entry.number in partitions):
                continue  # both can be made alone
            chosen.add(number)
            todo.append(number)


def _belongs(entry: Entry, chosen: set[int], by_number: dict[int, Entry]) -> bool:
    """Whether it is a part of something chosen, and all tables and views that it speaks of are there."""
    if entry.kind not in _ATTACHED or not entry.needs & chosen:
        return False
    needs = [by_number[number] for number in entry.needs if number in by_number]
    if entry.kind in ("COMMENT", "ACL", "SECURITY LABEL"):
        return all(need.number in chosen for need in needs)
    if entry.kind in ("INDEX ATTACH", "TABLE ATTACH"):
        return all(need.number in chosen for need in needs)
    if entry.kind == "SEQUENCE OWNED BY":
        # It names the table; the archive says only that it needs the sequence.
        needs = [by_number[n] for need in needs for n in need.needs if n in by_number]
    relations = [need for need in needs if need.kind in _RELATIONS]
    return bool(relations) and all(need.number in chosen for need in relations)


def _warn(selection: Selection, entries: list[Entry], chosen: set[int], facts: Facts) -> None:
    for entry in entries:
        if entry.number in chosen or entry.kind not in ("FK CONSTRAINT", "TRIGGER", "POLICY", "RULE"):
            continue
        if any(
            _is_of(entry, table) for table in [*selection.tables, *facts["partitioned"]] if _chosen(table, selection)
        ):
            selection.warnings.append(f"left out, because it needs a table that was not chosen: {_named(entry)}")
    if facts["large_objects"]["count"]:
        selection.warnings.append(
            "large objects are not restored with single tables; restore the whole database for them"
        )


def _chosen(table: str, selection: Selection) -> bool:
    return table in selection.tables or any(_is_of_table(entry, table) for entry in selection.entries)


def _is_of(entry: Entry, table: str) -> bool:
    return f" {entry.kind} {_plain(table)} " in f" {entry.line.split(' ', 3)[3]} "


def _is_of_table(entry: Entry, table: str) -> bool:
    return entry.kind == "TABLE" and f"TABLE {_plain(table)} " in f"{entry.line} "


def _plain(table: str) -> str:
    """As pg_restore lists it: schema and name without quotes, with a space between."""
    return " ".join((m[2] or m[1].replace('""', '"')).replace("\n", " ") for m in _PART.finditer(table))


def _named(entry: Entry) -> str:
    """`fk constraint public leads leads_owner_id_fkey`."""
    kind, rest = entry.kind, entry.line.split(" ", 3)[3].removeprefix(entry.kind)
    return f"{kind.lower()}{rest.rsplit(' ', 1)[0]}"
