"""What `wal push` and `wal fetch` leave for the next call: files that are done, so that it need not load the program.

PostgreSQL calls both once for each segment, and starting the whole program takes longer than storing one. So this
module imports nothing that Python has not loaded anyway. A *caller* is who calls in which way: arguments, folder, policy
with its state, key. What was left counts for the very same caller only, so that a changed policy is never overlooked.
"""
# pathlib alone takes as long to import as Python does to start:
# ruff: noqa: PTH100, PTH103, PTH105, PTH104, PTH108, PTH109, PTH110, PTH111, PTH112, PTH113, PTH116, PTH117, PTH118, PTH119, PTH120, PTH123, PTH208

from __future__ import annotations

import os
import sys

_FORMAT = "keepwell-wal-1"
_HEX = frozenset("0123456789ABCDEF")
POLICY, KEY_FILE = "KEEPWELL_POLICY", "KEEPWELL_KEY_FILE"
_ENVIRONMENT = (POLICY, KEY_FILE, "HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def is_log_name(name: str) -> bool:
    """Whether a file of this name may stand in `pg_wal`: segment, history, backup label or partial segment."""
    stem, _, rest = name.partition(".")
    if not _HEX.issuperset(stem):
        return False
    return len(stem) == 8 and rest == "history" if len(stem) != 24 else not rest or rest == "partial" or _is_label(rest)


def _is_label(rest: str) -> bool:
    offset, _, word = rest.partition(".")
    return len(offset) == 8 and _HEX.issuperset(offset) and word == "backup"


def caller_of(args: list[str]) -> tuple[list[str], list[str]] | None:
    """The caller as lines of text, and the arguments that name log (by their places in the command).

    `args` begin behind the command's own words. None where the caller cannot be told for certain.
    """
    names = [arg for arg in args if is_log_name(os.path.basename(arg))]
    rest = ["*" if arg in names else arg for arg in args]
    try:
        here = os.getcwd()
        policy = _policy(args, here)
        if policy is None:
            return None
        found = os.stat(policy)
    except OSError:
        return None
    state = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
    known = [f"{name}={os.environ.get(name, '')}" for name in _ENVIRONMENT]
    lines = [_FORMAT, str(os.geteuid()), here, policy, state, sys.prefix, *known, *rest]
    return None if any("\n" in line for line in lines) else (lines, names)


def _policy(args: list[str], here: str) -> str | None:
    """The policy's file, found as `policy.load.find` finds it."""
    for number, arg in enumerate(args):
        if arg == "--policy" and number + 1 < len(args):
            return _file(args[number + 1])
        if arg.startswith("--policy="):
            return _file(arg[9:])
    if os.environ.get(POLICY):
        return _file(os.environ[POLICY])
    while True:
        if os.path.isfile(os.path.join(here, "keepwell.toml")):
            return os.path.join(here, "keepwell.toml")
        if os.path.dirname(here) == here:
            return None
        here = os.path.dirname(here)


def _file(path: str) -> str:
    inside = os.path.join(path, "keepwell.toml")
    return os.path.abspath(inside if os.path.isdir(path) else path)


def folder(kind: str, caller: list[str], *, make: bool = False) -> str | None:
    """Where a caller's things lie: `~/.cache/keepwell/wal-<kind>/<number>`. None where there is no place for them."""
    import binascii

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if not os.path.isabs(cache):
        return None
    text = os.fsencode("\n".join(caller))
    found = os.path.join(cache, "keepwell", f"wal-{kind}", f"{binascii.crc32(text):08x}")
    try:
        if make:
            os.makedirs(found, mode=0o700, exist_ok=True)
        about = os.lstat(found)
    except OSError:
        return None
    # Only what this user made, and what nobody else can write: it says that log is safe.
    private = about.st_uid == os.geteuid() and about.st_mode & 0o170022 == 0o040000
    return found if private else None


def state_of(path: str) -> str:
    """Changes whenever the file does. Raises OSError."""
    found = os.stat(path)
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


def read(place: str, caller: list[str]) -> dict[str, str]:
    """What an earlier call of this caller left: states by name."""
    try:
        with open(os.path.join(place, "done"), encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().split("\n")
    except OSError:
        return {}
    if lines[: len(caller)] != caller or lines[len(caller) : len(caller) + 1] != [""] or lines[-2:] != ["end", ""]:
        return {}
    return {name: state for name, _, state in (line.partition(" ") for line in lines[len(caller) + 1 : -2])}


def write(place: str, caller: list[str], done: dict[str, str]) -> None:
    """Raises OSError."""
    lines = [*caller, "", *(f"{name} {state}" for name, state in done.items()), "end", ""]
    fresh = os.path.join(place, f"done.{os.getpid()}")
    try:
        with open(fresh, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write("\n".join(lines))
        os.replace(fresh, os.path.join(place, "done"))
    except OSError:
        if os.path.exists(fresh):
            os.unlink(fresh)
        raise


def pushed(args: list[str]) -> bool:
    """Whether an earlier `wal push` of this caller has put this very file into the vault."""
    try:
        found = caller_of(args)
        if found is None or len(found[1]) != 1:
            return False
        place = folder("push", found[0])
        if place is None:
            return False
        name = os.path.basename(found[1][0])
        return read(place, found[0]).get(name) == state_of(found[1][0])
    except OSError:
        return False


def fetched(args: list[str]) -> bool:
    """Puts what an earlier `wal fetch` of this caller has brought ahead into its place."""
    try:
        found = caller_of(args)
        if found is None or len(found[1]) != 1:
            return False
        caller, (name,) = found
        target = target_of(args, name)
        place = folder("fetch", caller)
        if target is None or place is None or "/" in name:
            return False
        waiting = os.path.join(place, name)
        if read(place, caller).get(name) != state_of(waiting):
            return False
        move(waiting, target)
    except OSError:
        return False
    return True


def move(waiting: str, target: str) -> None:
    """Also to another file system. Raises OSError."""
    try:
        os.rename(waiting, target)
    except OSError:
        with open(waiting, "rb") as source, open(target, "wb") as copy:
            while block := source.read(1 << 20):
                copy.write(block)
        os.unlink(waiting)


def keep(place: str, caller: list[str], done: dict[str, str]) -> None:
    """As `write`, and removes what else lies there. Raises OSError."""
    write(place, caller, done)
    for name in os.listdir(place):
        if name not in done and name != "done":
            os.unlink(os.path.join(place, name))


def target_of(args: list[str], name: str) -> str | None:
    """The argument behind the name: `%p`."""
    at = args.index(name) + 1
    return args[at] if at < len(args) and not args[at].startswith("-") else None
