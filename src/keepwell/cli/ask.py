"""Questions to a person at a terminal."""

from __future__ import annotations

import getpass
import os
import sys

from keepwell.core.errors import KeyMissing, KeyWrong, UsageError
from keepwell.core.secrets import Secret


def at_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def question(text: str, default: str = "") -> str:
    """The answer, stripped; the default where it is empty. The question goes to standard error."""
    shown = f"{text} [{default}]: " if default else f"{text}: "
    sys.stderr.write(shown)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise UsageError("the input ended before all questions were answered", hint="Nothing was written.")
    return line.strip() or default


def new_passphrase(variable: str | None) -> Secret:
    """Asked for twice, or from the environment. Raises KeyMissing, KeyWrong, UsageError."""
    if variable is not None:
        value = os.environ.get(variable)
        if not value:
            raise KeyMissing(f"the environment variable {variable} is not set, or empty", hint="Set it and run again.")
        return Secret(value)
    if not at_terminal():
        raise UsageError(
            "a passphrase can only be asked for at a terminal", hint="Use --passphrase-env NAME or --to-file FILE."
        )
    first = getpass.getpass("New passphrase: ")
    if not first:
        raise KeyWrong("an empty passphrase protects nothing", hint="Nothing was changed.")
    if getpass.getpass("The same again: ") != first:
        raise KeyWrong("the two passphrases differ", hint="Nothing was changed; run the command again.")
    return Secret(first)
