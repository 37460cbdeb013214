"""A folder that objects are restored into: each a file of its name, and beside them one file with what files cannot hold.

`keepwell-objects.jsonl` has a line for each object: as in the stream `objects`, with `file` where the object could not have
its own name as a path (a name that another object has as its folder, or that is too long); such files lie in `keepwell-objects/`.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from blake3 import blake3

from keepwell.core.clock import UTC
from keepwell.core.errors import Damaged, ObjectMissing, SourceError, TargetNotEmpty
from keepwell.core.objects import ObjectState, Opened
from keepwell.core.streams import Buffer
from keepwell.sources.bucket.entries import Entry, decode, encode

NAMES = "keepwell-objects.jsonl"
OTHERS = "keepwell-objects"
_BLOCK = 1 << 20
_NO_SUCH_NAME = {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ}
"""What file systems answer to names that they cannot have, or not beside the others."""


def apart(name: str) -> str:
    """The path of an object that cannot have its own."""
    return f"{OTHERS}/{blake3(name.encode()).hexdigest()[:32]}"


def is_taken(name: str) -> bool:
    """Whether the path is needed for what is beside the objects."""
    return name.split("/", 1)[0] in {NAMES, OTHERS}


def note(entry: Entry, odd: str | None) -> bytes:
    """The line of an object; `odd` is the path where it is not its name."""
    line = json.loads(encode(entry)) | ({"file": odd} if odd else {})
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class FolderObjects:
    """As `Objects`. Not for folders that others write to."""

    md5_etags = False

    def __init__(self, path: Path) -> None:
        self.path = path
        self.moved = 0
        """How many objects could not have their own names."""
        self._lock = threading.Lock()
        self._listed: dict[str, tuple[Path, Mapping[str, str]]] = {}

    @property
    def url(self) -> str:
        return str(self.path)

    def make(self) -> None:
        """Raises TargetNotEmpty, SourceError."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            full = any(self.path.iterdir())
        except (FileExistsError, NotADirectoryError):
            raise TargetNotEmpty(
                f"{self.path} is a file", hint="Nothing was overwritten. Name a folder that does not exist yet."
            ) from None
        except OSError as error:
            raise SourceError(
                f"cannot make the folder {self.path}: {error.strerror}", hint="Check your rights."
            ) from error
        if full:
            raise TargetNotEmpty(
                f"{self.path} is not empty",
                hint="Nothing was overwritten. Restore into a new folder, and move what you need from there.",
            )

    def entries(self) -> Iterator[tuple[Entry, Path]]:
        """What was put here, and the file that it should be. Raises SourceError, Damaged."""
        try:
            file = (self.path / NAMES).open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise SourceError(f"cannot read {self.path / NAMES}: {error.strerror}") from error
        with file:
            for line in file:
                entry = decode(line)
                yield entry, self.path / json.loads(line).get("file", entry.name)

    def list(self) -> Iterator[ObjectState]:
        """Without what is not there any more."""
        for entry, path in self.entries():
            if entry.folder or not path.is_file():
                continue
            self._listed[entry.name] = path, entry.attributes
            yield ObjectState(entry.name, path.stat().st_size, entry.modified)

    def look(self, name: str) -> ObjectState:
        raise ObjectMissing(f"{name} is not in {self.path}")

    def open(self, state: ObjectState) -> Opened:
        path, attributes = self._listed.pop(state.name, (None, {}))
        if path is None:
            raise ObjectMissing(f"{state.name} in {self.path} changed while it was read")
        return Opened(state, attributes, _blocks(path))

    def folder(self, entry: Entry) -> None:
        """The marker of a folder."""
        with contextlib.suppress(FileExistsError, NotADirectoryError):
            if not is_taken(entry.name):
                (self.path / entry.name).mkdir(parents=True, exist_ok=True)
        self._note(entry, None)

    def put(
        self, name: str, content: Iterable[Buffer], size: int, state: ObjectState, attributes: Mapping[str, str]
    ) -> None:
        """Raises SourceError."""
        path, odd = self.path / name, None
        try:
            try:
                if is_taken(name):
                    raise FileExistsError(errno.EEXIST, "taken")
                path.parent.mkdir(parents=True, exist_ok=True)
                file = path.open("xb")
            except OSError as error:
                if error.errno not in _NO_SUCH_NAME:
                    raise
                odd = apart(name)
                path = self.path / odd
                path.parent.mkdir(exist_ok=True)
                file = path.open("xb")
            digest, count = blake3(), 0
            try:
                with file:
                    for block in content:
                        digest.update(block)
                        count += file.write(block)
                os.utime(path, (state.modified.timestamp(), state.modified.timestamp()))
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise SourceError(
                f"cannot write {name} below {self.path}: {error.strerror}",
                hint="Check the rights and the free space there, empty the folder, and start again.",
            ) from error
        modified = state.modified.astimezone(UTC)
        entry = Entry(name, count, 0, digest.hexdigest(), modified, state.etag, state.version, attributes)
        self.moved += odd is not None
        self._note(entry, odd)

    def _note(self, entry: Entry, odd: str | None) -> None:
        with self._lock, (self.path / NAMES).open("ab") as names:
            names.write(note(entry, odd))


def _blocks(path: Path) -> Iterator[Buffer]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except OSError as error:
        raise Damaged(f"{path} cannot be read: {error.strerror}") from error
