"""What to protect, and where to restore to; which objects are taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import ObjectMissing, SourceError, StoreError
from keepwell.core.objects import Objects
from keepwell.sources.files.spec import excluder


@dataclass(frozen=True)
class Spec:
    """The objects of a bucket, or those below the prefix in its address, apart from what the patterns leave out.

    Patterns are those of the source `files`; with `include` only what fits one of them is taken, or lies below what fits.
    """

    objects: Objects
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    allow_empty: bool = False
    """Whether nothing at all is a backup too."""
    remember: bool = True
    """Whether unchanged objects are told from the last backup's."""


@dataclass(frozen=True)
class Target:
    """A folder that does not exist yet or is empty, or an empty bucket or prefix: one of the two."""

    path: Path | None = None
    objects: Objects | None = None


def chooser(include: tuple[str, ...], exclude: tuple[str, ...]) -> Callable[[str], bool]:
    """A function that says whether the object of that name is taken."""
    wanted, unwanted = excluder(include), excluder(exclude)
    if not include and not exclude:
        return lambda _name: True

    def fits(name: str, of: Callable[[str, bool], bool]) -> bool:
        return of(name, False) or any(of(name[:at], True) for at in range(1, len(name)) if name[at] == "/")

    return lambda name: (not include or fits(name, wanted)) and not fits(name, unwanted)


@contextmanager
def asked() -> Iterator[None]:
    """A StoreError of the source's own bucket is the source's fault, not the vault's. ObjectMissing passes."""
    try:
        yield
    except ObjectMissing:
        raise
    except StoreError as error:
        raise SourceError(error.message, hint=error.hint) from None
