"""The folder of uploads: scans and photographs that do not compress, texts, tables, and the names people give."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keepwell.core.errors import SourceError, TargetNotEmpty, UsageError
from keepwell.core.progress import Progress, Silent
from keepwell.demo import records, texts, words

_NOT_UTF8 = b"r\xe9sum\xe9 (alt).txt"
_KINDS = ("pdf", "pdf", "jpg", "jpg", "txt", "csv")


@dataclass(frozen=True)
class FolderChanges:
    """Paths relative to the folder."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]


def fill_uploads(folder: Path, files: int, seed: int = 1, progress: Progress | None = None) -> int:
    """Make `files` uploads in folders by month, beside the oddities that real folders have; returns all files made.

    The oddities: a link, an empty folder, an empty file, a program, a hidden file, names with accents and spaces, and
    one name that is not UTF-8 (a file system that refuses it is named in a warning).
    Raises TargetNotEmpty where the folder has content, SourceError where it cannot be written.
    """
    progress = progress or Silent()
    if files < 1:
        raise UsageError(f"a folder of {files} uploads cannot be made", hint="Ask for at least one.")
    rng = np.random.default_rng([seed, 20])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise TargetNotEmpty(f"{folder} is not empty", hint="Name a new folder for the uploads.")
        progress.begin("uploads", files, "files")
        for number in range(1, files + 1):
            _upload(folder, number, records.BEGIN + (records.END - records.BEGIN) * number // files, rng)
            progress.advance("uploads")
        progress.end("uploads")
        return files + _oddities(folder, rng, progress)
    except OSError as error:
        raise SourceError(
            f"the uploads could not be made in {folder}: {error}", hint="Name a folder where you may write."
        ) from error


def change_uploads(folder: Path, share: float = 0.01, seed: int = 1) -> FolderChanges:
    """Let one more day pass: about `share` of the uploads (one at least) are added, as many edited, removed, renamed.

    Raises SourceError where the folder does not have enough uploads or cannot be written.
    """
    if not 0 < share <= 0.25:
        raise UsageError(
            f"{share} of the uploads cannot change four times", hint="Give a share above 0 and up to 0.25."
        )
    try:
        there = sorted(path for path in folder.glob("20*/*/*") if path.is_file() and not path.is_symlink())
        count = max(1, round(len(there) * share))
        if len(there) < 3 * count:
            raise SourceError(
                f"{folder} has {len(there)} uploads, too few to let a day pass",
                hint="Fill it first, with four or more.",
            )
        newest = max(path.stat().st_mtime_ns for path in there) // 1000
        rng = np.random.default_rng([seed, 21, newest])
        chosen = [there[k] for k in rng.choice(len(there), size=3 * count, replace=False)]
        edited, removed, renamed = chosen[:count], chosen[count : 2 * count], chosen[2 * count :]
        last = max(int(path.name[7:13]) for path in there)
        added = [_upload(folder, last + 1 + k, newest + records.DAY, rng) for k in range(count)]
        for path in edited:
            with path.open("ab") as file:
                file.write(b"\nedited: " + rng.bytes(64))
            _date(path, newest + records.DAY)
        for path in removed:
            path.unlink()
        moves = []
        for path in renamed:
            new = path.with_name(f"{path.stem} (signed){path.suffix}")
            path.rename(new)
            moves.append((path, new))
    except OSError as error:
        raise SourceError(f"{folder} could not be changed: {error}", hint="See that you may write there.") from error

    def relative(path: Path) -> str:
        return str(path.relative_to(folder))

    return FolderChanges(
        tuple(map(relative, added)),
        tuple(map(relative, edited)),
        tuple(map(relative, removed)),
        tuple((relative(old), relative(new)) for old, new in moves),
    )


def _upload(folder: Path, number: int, moment: int, rng: np.random.Generator) -> Path:
    year, month = str(np.datetime64(moment, "us"))[:7].split("-")
    kind = _KINDS[int(rng.integers(len(_KINDS)))]
    what = {"pdf": "contract", "jpg": "photo", "txt": "minutes", "csv": "import"}[kind]
    path = folder / year / month / f"upload-{number:06d}-{what}.{kind}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_content(kind, rng))
    _date(path, moment)
    return path


def _content(kind: str, rng: np.random.Generator) -> bytes:
    if kind == "pdf":
        return b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + rng.bytes(int(rng.integers(20_000, 200_000))) + b"\n%%EOF\n"
    if kind == "jpg":
        head = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
        return head + rng.bytes(int(rng.integers(30_000, 150_000))) + b"\xff\xd9"
    count = int(rng.integers(10, 60))
    if kind == "txt":
        return "\n\n".join(texts.notes(rng, count, 3)).encode() + b"\n"
    people = zip(
        texts.picks(rng, count, words.FIRST_NAMES), texts.companies(rng, count), texts.phones(rng, count), strict=True
    )
    return "".join(
        f"{name},{company},{phone}\r\n" for name, company, phone in [("name", "company", "phone"), *people]
    ).encode()


def _oddities(folder: Path, rng: np.random.Generator, progress: Progress) -> int:
    (folder / "inbox").mkdir()
    (folder / "Verträge & Größen").mkdir()
    program = folder / "tools" / "import.sh"
    program.parent.mkdir()
    plain = {
        folder / "Verträge & Größen" / "größte Kunden 2026 ✓.csv": _content("csv", rng),
        folder / "Verträge & Größen" / "empty.txt": b"",
        folder / ".htaccess": b"Require all denied\n",
        program: b"#!/bin/sh\nexec psql -f import.sql\n",
    }
    for path, content in plain.items():
        path.write_bytes(content)
        _date(path, records.BEGIN)
    program.chmod(0o750)
    (folder / "latest").symlink_to(Path("Verträge & Größen"))
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/" + _NOT_UTF8))
    try:
        odd.write_bytes(b"The name of this file comes from an old Windows share.\n")
    except OSError as error:
        if error.errno not in (errno.EILSEQ, errno.EINVAL):
            raise
        progress.warn("this file system takes only UTF-8 names; the upload with another name was left out")
        return len(plain)
    _date(odd, records.BEGIN)
    return len(plain) + 1


def _date(path: Path, moment: int) -> None:
    os.utime(path, ns=(moment * 1000, moment * 1000))
