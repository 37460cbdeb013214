"""From an exception to what the user reads and the exit code (docs/reference/exit-codes.md)."""

from __future__ import annotations

import os
import re
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from keepwell.core.errors import Interrupted, KeepwellError

_PASSWORD_IN_URL = re.compile(r"(://[^/\s:@]*):[^/\s@]+@")


@dataclass(frozen=True)
class Failure:
    kind: str
    message: str
    hint: str
    exit_code: int

    def json(self) -> dict[str, object]:
        return {
            "error": {"kind": self.kind, "message": self.message, "hint": self.hint, "exit_code": self.exit_code},
        }


def failure_of(error: BaseException) -> Failure:
    """What to tell of any exception. The text of an unknown one is not shown: it may hold anything."""
    if isinstance(error, KeyboardInterrupt | Interrupted):
        return Failure(
            "Interrupted",
            "interrupted; no committed backup was touched",
            "Run the command again: what was stored already is used again.",
            Interrupted.exit_code,
        )
    if isinstance(error, KeepwellError):
        return Failure(type(error).__name__, error.message, error.hint, error.exit_code)
    if isinstance(error, MemoryError):
        return Failure("Unexpected", "the machine's memory is used up", "Close other programs, or use fewer jobs.", 1)
    if isinstance(error, OSError) and error.strerror:
        what = f"{error.filename}: " if error.filename else ""
        return Failure("Unexpected", f"{what}{error.strerror}{_place(error)}", _REPORT, 1)
    return Failure("Unexpected", f"unexpected {type(error).__name__}{_place(error)}", _REPORT, 1)


_REPORT = "This is a fault in keepwell. Set KEEPWELL_DEBUG=1 to see where, and report it."


def show_trace(error: BaseException) -> None:
    """With KEEPWELL_DEBUG=1, for developers; passwords in addresses are taken out."""
    if os.environ.get("KEEPWELL_DEBUG") == "1":
        text = "".join(traceback.format_exception(error))
        sys.stderr.write(_PASSWORD_IN_URL.sub(r"\1:***@", text))


def _place(error: BaseException) -> str:
    """` (at stores/local.py:120)`: the innermost place in keepwell's own code."""
    own = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}keepwell{os.sep}" in f.filename]
    if not own:
        return ""
    parts = Path(own[-1].filename).parts
    inside = "/".join(parts[len(parts) - parts[::-1].index("keepwell") :])
    return f" (at {inside}:{own[-1].lineno})"
