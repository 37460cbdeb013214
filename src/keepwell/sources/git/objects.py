"""Which objects are new, and reading them into a pack that is taken apart and looked at while it flows into the vault."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, StreamWriter
from keepwell.sources.git.bundle import PACK
from keepwell.sources.git.ids import Ids
from keepwell.sources.git.memory import Segment, width_of
from keepwell.sources.git.program import Git
from keepwell.sources.git.repository import Repository, empty_repository

_FANOUT = 256 * 4
_ATTRIBUTES = b".gitattributes"


@dataclass
class Listed:
    """Objects to be packed, in a file as `git pack-objects` takes it."""

    path: Path
    count: int
    attributes: list[str]
    """Those that are a `.gitattributes`."""


def walk(git: Git, include: Sequence[str], exclude: Sequence[str], work: Path) -> Iterator[bytes]:
    """Lines of `rev-list`: an object's name in hex, then where it lies. All that `include` leads to and `exclude` does not;
    some of the latter may be among them too. Raises SourceError where an object is missing.
    """
    asked = work / "asked"
    asked.write_text("".join(f"{tip}\n" for tip in include) + "".join(f"^{tip}\n" for tip in exclude))
    return git.lines("rev-list", "--objects", "--stdin", stdin=asked)


def present(git: Git, idents: Sequence[str], work: Path) -> list[str]:
    """Those of them that the repository still has."""
    asked = work / "asked-for"
    asked.write_text("".join(f"{ident}\n" for ident in idents))
    lines = git.lines("cat-file", "--batch-check=%(objectname)", stdin=asked)
    return [line.decode() for line in lines if not line.endswith(b" missing")]


def listed(
    lines: Iterator[bytes], known: Ids, path: Path, seen: Callable[[bytes], None] = lambda _ident: None
) -> Listed:
    """Those that are not known yet; `seen` is told those that are."""
    found = Listed(path, 0, [])
    width = 2 * known.width
    with path.open("wb") as file:
        for line in lines:
            ident = bytes.fromhex(line[:width].decode())
            if ident in known:
                seen(ident)
                continue
            found.count += 1
            file.write(line + b"\n")
            name = line[width + 1 :]
            if name == _ATTRIBUTES or name.endswith(b"/" + _ATTRIBUTES):
                found.attributes.append(line[:width].decode())
    return found


def pack(
    repository: Repository, wanted: Listed, writer: StreamWriter, work: Path, context: Context, task: str
) -> tuple[Segment, Ids]:
    """Appends the objects to the stream; what was appended, and the ids.

    A second git takes the pack apart meanwhile: git itself copies what it has packed already as it is, also where the disk
    has changed it. Raises SourceError where anything else comes out than was asked for.
    """
    checker = empty_repository(work / "checker.git", repository.format, context, repository.shown)
    assert checker.folder is not None
    index = checker.folder / "checked.idx"
    width = width_of(repository.format)
    writer.boundary()
    start, held, head = writer.position, b"", b""
    arguments = ("pack-objects", "--stdout", "-q", "--delta-base-offset")
    # It wants a name for the pack where it is given one for the index.
    take = ("--stdin", f"--threads={context.jobs}", "-o", str(index), str(index.with_suffix(".pack")))
    with checker.fed("index-pack", *take) as checked:
        for block in repository.reader.blocks(*arguments, stdin=wanted.path):
            checked.write(block)
            data = held + block
            if not head:
                if len(data) < PACK.size:
                    held = data
                    continue
                head, data = data[: PACK.size], data[PACK.size :]
            if len(data) > width:
                writer.write(data[:-width])
            held = data[-width:]
            context.progress.advance(task, len(block))
    ids = Ids(width, _ids_of(index, width))
    shutil.rmtree(checker.folder)
    _, _, count = PACK.unpack(head)
    if count != wanted.count or ids.data != _sorted_ids(wanted.path, width):
        raise SourceError(
            f"{repository.shown}: git packed other objects than it was asked for",
            hint="The repository is damaged: run git fsck in it, and mend it from another clone.",
        )
    pieces = writer.take_ids()
    return Segment(writer.position - start, count, pieces), ids


def _ids_of(index: Path, width: int) -> bytes:
    """Out of an index of version 2: head, fan-out table, then the ids in order."""
    with index.open("rb") as file:
        head = file.read(8 + _FANOUT)
        if head[:8] != b"\xfftOc\0\0\0\2":
            raise SourceError("git wrote an index of a version that is not known", hint="Install another git.")
        return file.read(int.from_bytes(head[-4:], "big") * width)


def _sorted_ids(path: Path, width: int) -> bytes:
    with path.open("rb") as file:
        return b"".join(sorted(bytes.fromhex(line[: 2 * width].decode()) for line in file))
