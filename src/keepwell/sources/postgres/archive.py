"""The schema archive (pg_dump's custom format): its table of contents, and text of chosen entries."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import Damaged
from keepwell.core.streams import Streams
from keepwell.sources.postgres.dump import RESTRICT_KEY, SCHEMA
from keepwell.sources.postgres.process import Program, last_lines
from keepwell.sources.postgres.programs import Programs

_LINE = re.compile(r"(\d+); (\d+) (\d+) (.*)")
_PG_CLASS = 1259

# Kinds that begin like one another are told apart by the catalog, so that a schema called ATTACH confuses nothing.
_OF_PG_CLASS = ("MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE", "TABLE", "INDEX", "VIEW")
_OTHERS = (
    "MATERIALIZED VIEW DATA",
    "SEQUENCE OWNED BY",
    "TABLE ATTACH",
    "INDEX ATTACH",
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "CONSTRAINT",
    "DEFAULT ACL",
    "DEFAULT",
    "ACL",
    "POLICY",
    "ROW SECURITY",
    "RULE",
    "EVENT TRIGGER",
    "TRIGGER",
    "STATISTICS",
    "COMMENT",
    "SECURITY LABEL",
    "USER MAPPING",
    "SCHEMA",
    "EXTENSION",
    "PUBLICATION TABLES IN SCHEMA",
    "PUBLICATION TABLE",
    "DATABASE PROPERTIES",
    "DATABASE",
    "ENCODING",
    "STDSTRINGS",
    "SEARCHPATH",
    "BLOB METADATA",
    "BLOB",
)


@dataclass(frozen=True)
class Entry:
    """One object of the archive."""

    number: int
    catalog: int
    oid: int
    kind: str
    """`TABLE`, `INDEX`, …; empty for kinds that nothing here asks about."""
    line: str
    """As pg_restore prints it and wants it back."""
    needs: frozenset[int]


def fetch(streams: Streams, folder: Path) -> Path:
    """The archive as a file."""
    path = folder / SCHEMA
    with path.open("wb") as file:
        for block in streams.read(SCHEMA):
            file.write(block)
    return path


def entries(programs: Programs, archive: Path, section: str | None = None) -> list[Entry]:
    """In the order of restoring. Raises Damaged where pg_restore cannot read the archive."""
    options = [f"--section={section}"] if section else []
    listing = b"".join(_output(programs, ["--list", "--verbose", *options, str(archive)]))
    found: list[Entry] = []
    for line in listing.decode(errors="surrogateescape").split("\n"):
        if line.startswith(";\tdepends on:") and found:
            last = found.pop()
            needs = frozenset(int(number) for number in line.split(":")[1].split())
            found.append(Entry(last.number, last.catalog, last.oid, last.kind, last.line, needs))
        elif match := _LINE.fullmatch(line):
            catalog = int(match[2])
            kinds = _OF_PG_CLASS if catalog == _PG_CLASS else _OTHERS
            kind = next((kind for kind in kinds if match[4].startswith(f"{kind} ")), "")
            found.append(Entry(int(match[1]), catalog, int(match[3]), kind, line, frozenset()))
    return found


def write_list(chosen: Iterable[Entry], folder: Path) -> str:
    """An argument for pg_restore that chooses these entries."""
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".list", delete=False, errors="surrogateescape") as file:
        file.writelines(f"{entry.line}\n" for entry in chosen)
    return f"--use-list={file.name}"


def text(programs: Programs, archive: Path, *options: str) -> Iterator[bytes]:
    """SQL of the entries that the options choose, in blocks."""
    key = programs.options("pg_restore", f"--restrict-key={RESTRICT_KEY}")
    yield from _output(programs, [*key, "--file=-", *options, str(archive)])


def _output(programs: Programs, arguments: list[str]) -> Iterator[bytes]:
    program = Program([programs.path("pg_restore"), *arguments], {"LC_ALL": "C"})
    try:
        buffer = bytearray(1 << 20)
        while count := program.fill(buffer):
            yield bytes(buffer[:count])
        if program.process.wait():
            raise Damaged(
                f"the archive of the schema cannot be read: {last_lines(program.said())}",
                hint="Run `keepwell check`, and restore an older backup or a copy.",
            )
    finally:
        program.close()
