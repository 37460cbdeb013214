"""References to secrets. The policy never holds a secret itself."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, model_validator

from keepwell.core.errors import KeepwellError, PolicyError
from keepwell.core.secrets import Secret
from keepwell.policy.values import Table, wrong

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_URL_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/@\s]*:[^/@\s]+@|[?&]password=", re.IGNORECASE)
_FORMS = '{ env = "NAME" }, { file = "path" } or { command = ["program", "argument"] }'
COMMAND_SECONDS = 60
_SAID = 500
"""How much of a failed command's own words goes into the error, in characters."""


class SecretRef(Table):
    """Where a secret is to be found; exactly one of the three."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["env"]}, {"required": ["file"]}, {"required": ["command"]}]}
    )

    env: str | None = Field(default=None, description="The name of an environment variable that holds the secret.")
    file: str | None = Field(
        default=None, description="A file that holds only the secret; relative to the policy file."
    )
    command: tuple[str, ...] | None = Field(
        default=None,
        description="A program and its arguments, run without a shell in the policy's folder; it prints the secret.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_literal(cls, value: Any) -> Any:
        if isinstance(value, str):
            what = "holds a password" if _URL_PASSWORD.search(value) else "is written out"
            raise wrong(
                f"{what} in plain text; a secret is always a reference",
                f"Write one of {_FORMS}. A literal would be committed to Git with the policy and be seen by everyone who "
                "reads it. If a real secret stood here, change it where it is used.",
            )
        if not isinstance(value, (dict, SecretRef)):
            raise wrong("is not a reference to a secret", f"Write one of {_FORMS}.")
        return value

    @model_validator(mode="after")
    def _exactly_one(self) -> SecretRef:
        given = [name for name in ("env", "file", "command") if getattr(self, name) is not None]
        if len(given) != 1:
            raise wrong(f"has {' and '.join(given) or 'none of env, file and command'}", f"Write one of {_FORMS}.")
        if self.env is not None and not _VARIABLE.fullmatch(self.env):
            raise wrong(
                "is not the name of an environment variable", 'Write the name only: { env = "DATABASE_URL" }.', ("env",)
            )
        if self.file == "" or self.command == () or (self.command and not self.command[0]):
            raise wrong("is empty", f"Write one of {_FORMS}.", (given[0],))
        return self

    def __str__(self) -> str:
        """Says where the secret is, never what: for messages."""
        if self.env is not None:
            return f"environment variable {self.env}"
        return f"file {self.file}" if self.file is not None else f"command {(self.command or ('',))[0]}"

    def path(self, base: Path) -> Path | None:
        """The file of a `file` reference."""
        return None if self.file is None else base / Path(self.file).expanduser()

    def resolve(
        self,
        base: Path,
        *,
        what: str = "the secret",
        error: type[KeepwellError] = PolicyError,
        environ: Mapping[str, str] | None = None,
    ) -> Secret:
        """The secret itself: text without the line ends after it.

        `base` is the policy's folder. `what` names the secret in errors ("the passphrase of the vault"); `error` is the
        class to raise when it cannot be had: SourceError for one source of several, KeyMissing for the vault's.
        """
        if self.env is not None:
            text = (os.environ if environ is None else environ).get(self.env, "")
            if not text:
                raise error(
                    f"{what} is to be in the environment variable {self.env}, which is not set or empty",
                    hint=f"Set {self.env} where keepwell runs (for a service or cron: in its environment file), or name "
                    "another place in keepwell.toml.",
                )
        elif self.file is not None:
            text = self._from_file(base, what, error)
        else:
            text = self._from_command(base, what, error)
        text = text.rstrip("\r\n")
        if not text:
            raise error(f"{what} is empty: {self} gave nothing", hint="Put the secret there, or name another place.")
        return Secret(text)

    def _from_file(self, base: Path, what: str, error: type[KeepwellError]) -> str:
        path = base / Path(self.file or "").expanduser()
        try:
            return path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise error(f"{what} cannot be read from {path}: it is not UTF-8 text") from None
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "no file can have that name"
            raise error(
                f"{what} cannot be read from {path}: {reason}",
                hint="Make that file (mode 600, owned by who runs keepwell), or name another place in keepwell.toml.",
            ) from None

    def _from_command(self, base: Path, what: str, error: type[KeepwellError]) -> str:
        program = (self.command or ("",))[0]
        # Arguments may be private, and output is the secret: neither goes into an error.
        try:
            done = subprocess.run(
                list(self.command or ()),
                cwd=base,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise error(
                f"{what}: the command {program} did not end within {COMMAND_SECONDS} seconds and was stopped",
                hint="It must not ask questions: run it by hand to see what it waits for.",
            ) from None
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else str(problem)
            raise error(
                f"{what}: the command {program} cannot be run: {reason}",
                hint="Install it, or write its whole path in keepwell.toml.",
            ) from None
        if done.returncode:
            said = _without(done.stderr, done.stdout)
            raise error(
                f"{what}: the command {program} failed with exit status {done.returncode}"
                + (f": {said}" if said else ""),
                hint="Run it by hand as the user who runs keepwell.",
            )
        try:
            return done.stdout.decode("utf-8")
        except UnicodeDecodeError:
            raise error(f"{what}: the command {program} printed something that is not UTF-8 text") from None


def _without(stderr: bytes, stdout: bytes) -> str:
    """The end of what a command said, without any line that it also printed as its output."""
    text = stderr.decode("utf-8", "replace")
    for line in stdout.decode("utf-8", "replace").splitlines():
        if line.strip():
            text = text.replace(line.strip(), "***")
    return " ".join(text.split())[-_SAID:]
