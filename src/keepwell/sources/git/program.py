"""Running git so that nothing of the repository, the user or the machine has a say in what it does.

No hook, no filter, no pager, no editor, no prompt, no file system monitor, no lazy fetch; no configuration but ours, and
no protocol but the one that is wanted. Configuration by the environment goes before that of the repository.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from keepwell.core.errors import Interrupted, ProgramMissing, SourceError
from keepwell.core.streams import Context

_POLL = 0.05
_BLOCK = 1 << 20
_SAID = 1000
_KEPT = {"GIT_SSL_CAINFO", "GIT_SSL_CAPATH"}
_ALONE = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS": "",
    "GIT_PAGER": "cat",
    "GIT_EDITOR": "false",
    "LC_ALL": "C",
}
_CONFIG = {
    "safe.directory": "*",  # whoever runs keepwell was told to back this up; nothing of it is executed
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.askPass": "",
    "core.attributesFile": os.devnull,
    "core.excludesFile": os.devnull,
    "credential.helper": "",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "gc.autoDetach": "false",
    "fetch.recurseSubmodules": "false",
    "submodule.recurse": "false",
    "init.templateDir": "",
    "init.defaultBranch": "main",
    "advice.detachedHead": "false",
    "protocol.allow": "never",
    # One thread gives the same pack for the same objects every time.
    "pack.threads": "1",
}


@dataclass(frozen=True)
class Git:
    """git in one repository (`folder` is what GIT_DIR is) with our own configuration, which `config` adds to."""

    folder: Path | None
    context: Context
    config: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)
    shown: str = ""
    """What the repository is called in errors."""

    def run(self, *arguments: str, stdin: Path | None = None, fails: bool = False) -> bytes:
        """What it printed. With `fails`, nothing where it ended with another code than 0. Raises SourceError."""
        with tempfile.TemporaryFile(dir=self.context.work) as out:
            try:
                self.into(out, *arguments, stdin=stdin)
            except SourceError:
                if fails:
                    return b""
                raise
            out.seek(0)
            return out.read()

    def into(self, out: IO[bytes], *arguments: str, stdin: Path | None = None) -> str:
        """Prints into the file; what it said on standard error. Raises SourceError, Interrupted."""
        with _opened(stdin) as given, _said() as said:
            with self._started(arguments, given, out, said) as process:
                self._wait(process)
            return self._judge(process, arguments, said)

    def lines(self, *arguments: str, stdin: Path | None = None) -> Iterator[bytes]:
        """Lines of what it prints, without their ends, as they come. Raises SourceError, Interrupted."""
        rest = b""
        for block in self.blocks(*arguments, stdin=stdin):
            *whole, rest = (rest + block).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def blocks(self, *arguments: str, stdin: Path | None = None) -> Iterator[bytes]:
        """What it prints, as it comes."""
        with _opened(stdin) as given, _said() as said:
            with self._started(arguments, given, subprocess.PIPE, said) as process:
                assert process.stdout is not None
                while block := process.stdout.read(_BLOCK):
                    self._stop_if_cancelled()
                    yield block
                self._wait(process)
            self._judge(process, arguments, said)

    @contextlib.contextmanager
    def fed(self, *arguments: str) -> Iterator[IO[bytes]]:
        """A program that the block writes to; at the end it must have been content. Raises SourceError."""
        with _said() as said:
            with self._started(arguments, subprocess.PIPE, subprocess.DEVNULL, said) as process:
                assert process.stdin is not None
                try:
                    yield process.stdin
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # why it ended is told by its code and its words
                self._wait(process)
            self._judge(process, arguments, said)

    @contextlib.contextmanager
    def _started(
        self, arguments: tuple[str, ...], stdin: IO[bytes] | int, stdout: IO[bytes] | int, said: IO[bytes]
    ) -> Iterator[subprocess.Popen[bytes]]:
        self._stop_if_cancelled()
        try:
            process = subprocess.Popen(
                ["git", *arguments],
                cwd=self.folder,
                env=self._environment(),
                stdin=stdin,
                stdout=stdout,
                stderr=said,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            if self.folder is not None and not self.folder.is_dir():
                raise SourceError(f"{self.folder} is gone", hint="Take the backup again.") from error
            raise ProgramMissing(
                "git is not installed here, and repositories are read and written with it",
                hint="Install it: apt install git.",
            ) from error
        try:
            yield process
        finally:
            if process.poll() is None:
                # With what it started itself: git fetch leaves ssh behind otherwise.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL)
                return
            self._stop_if_cancelled()

    def _judge(self, process: subprocess.Popen[bytes], arguments: tuple[str, ...], said: IO[bytes]) -> str:
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
        if process.returncode:
            raise GitFailed(self.shown or str(self.folder), arguments[0], process.returncode, text)
        return text

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") or name in _KEPT}
        settings = [*_CONFIG.items(), *self.config.items()]
        found = kept | _ALONE | {"GIT_CONFIG_COUNT": str(len(settings))}
        for number, (name, value) in enumerate(settings):
            found |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}
        if self.folder is not None:
            found["GIT_DIR"] = str(self.folder)
        return found | dict(self.variables)

    def _stop_if_cancelled(self) -> None:
        if self.context.cancelled():
            raise Interrupted("git was interrupted", hint="Nothing was changed; start it again.")


class GitFailed(SourceError):
    """git ended with another code than 0; `said` is all that it wrote to standard error."""

    def __init__(self, place: str, command: str, code: int, said: str) -> None:
        self.said = said
        lines = [line.strip() for line in said.splitlines() if line.strip() and not line.startswith("hint:")]
        text = " | ".join(lines[-4:])[:_SAID]
        how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
        super().__init__(f"{place}: git {command} {how}" + (f": {text}" if text else ""), hint=_hint(said))


def version(context: Context) -> str:
    """`2.39.5`. Raises ProgramMissing, SourceError."""
    found = Git(None, context, shown="git").run("version").decode().split()
    return found[2] if len(found) > 2 else "?"


def _hint(said: str) -> str:
    if "No space left" in said:
        return "Free some space where temporary files are kept (TMPDIR), or in the place itself."
    if any(sign in said for sign in ("bad object", "missing", "corrupt", "unable to read", "loose object", "inflate")):
        return "The repository is damaged: run git fsck in it, and mend it from another clone."
    if any(sign in said for sign in ("Authentication failed", "could not read Username", "Permission denied", "403")):
        return "The server wants other credentials: see username, password and ssh_key of the source in the policy."
    if "Host key verification failed" in said:
        return (
            "The server's host key is not known: add it to the file known_hosts, after comparing it with the real one."
        )
    return "The message is git's own. Mend what it names and try again."


@contextlib.contextmanager
def _opened(path: Path | None) -> Iterator[IO[bytes] | int]:
    if path is None:
        yield subprocess.DEVNULL
        return
    with path.open("rb") as file:
        yield file


def _said() -> IO[bytes]:
    """A file and not a pipe: nobody has to read it meanwhile for the program to go on."""
    return tempfile.TemporaryFile()
