"""Going through a folder without ever following a link out of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from keepwell.core.errors import SourceError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MOST_NAMED = 20


@dataclass(slots=True)
class Found:
    path: bytes
    """From the root, `/`-separated."""
    name: str
    parent: int
    """Handle of the folder it is in; valid until the next one is asked for."""
    stat: os.stat_result
    folder: int | None = None
    """Handle of the folder it is, valid as long."""


@dataclass
class Trouble:
    """What could not be walked or read, by path."""

    unreadable: list[tuple[bytes, str]] = field(default_factory=list)
    vanished: list[bytes] = field(default_factory=list)
    excluded: int = 0


def open_root(path: Path) -> int:
    """A handle of the folder (a link to it is followed). Raises SourceError."""
    try:
        return os.open(path, _FOLDER)
    except FileNotFoundError:
        raise SourceError(
            f"there is no folder {path}",
            hint="Check `path` of this source in the policy (relative paths start at the policy file), "
            "and that the disk is mounted.",
        ) from None
    except NotADirectoryError:
        raise SourceError(f"{path} is not a folder", hint="Name the folder that holds the files.") from None
    except OSError as error:
        raise SourceError(
            f"cannot open the folder {path}: {error.strerror}", hint="Check the rights on it and the folders above."
        ) from error


def walk(root: int, excluded: Callable[[str, bool], bool], trouble: Trouble) -> Iterator[Found]:
    """Everything below the handle `root`, in the order of the stream `tree`, without the root itself."""
    stack = [(root, b"", _names(root, b"", trouble))]
    try:
        while stack:
            parent, prefix, names = stack[-1]
            if not names:
                stack.pop()
                if stack:
                    os.close(parent)
                continue
            name = names.pop()
            path = prefix + os.fsencode(name)
            try:
                found = os.stat(name, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                trouble.vanished.append(path)
                continue
            except OSError as error:
                trouble.unreadable.append((path, error.strerror or str(error)))
                continue
            folder = stat.S_ISDIR(found.st_mode)
            if excluded(os.fsdecode(path), folder):
                trouble.excluded += 1
                continue
            if not folder:
                yield Found(path, name, parent, found)
                continue
            try:
                handle = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
            except FileNotFoundError:
                trouble.vanished.append(path)
            except OSError as error:
                trouble.unreadable.append((path, error.strerror or str(error)))
            else:
                stack.append((handle, path + b"/", _names(handle, path, trouble)))
                yield Found(path, name, parent, os.fstat(handle), handle)
    finally:
        for handle, _, _ in stack[1:]:
            os.close(handle)


def refuse_holes(root: Path, trouble: Trouble) -> None:
    """Raises SourceError where anything could not be read: a backup with holes must not count."""
    if not trouble.unreadable:
        return
    named = [f"{os.fsdecode(path)!a} ({why})" for path, why in trouble.unreadable[:_MOST_NAMED]]
    more = len(trouble.unreadable) - len(named)
    raise SourceError(
        f"cannot read {len(trouble.unreadable)} of the files and folders in {root}: {', '.join(named)}"
        + (f" and {more} more" if more else ""),
        hint="Let the user who takes the backup read them, or name them in `exclude` if they do not matter.",
    )


def _names(handle: int, path: bytes, trouble: Trouble) -> list[str]:
    """The names in the folder, last first."""
    try:
        return sorted(os.listdir(handle), key=os.fsencode, reverse=True)
    except FileNotFoundError:
        trouble.vanished.append(path)
    except OSError as error:
        trouble.unreadable.append((path, error.strerror or str(error)))
    return []
