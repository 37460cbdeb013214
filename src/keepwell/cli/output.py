"""What a person or a script sees: documents and answers on standard output, everything else on standard error."""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any, TextIO

_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_PLAIN = {"→": "->", "…": "...", "≥": ">=", "≤": "<=", "·": "-", "✓": "ok", "✗": "x"}


def _plainly(error: UnicodeError) -> tuple[str | bytes, int]:
    """Characters that the terminal cannot show become ASCII; bytes of a file name are escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    bad = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in bad), error.end


codecs.register_error("keepwell-plain", _plainly)


def prepare_streams() -> None:
    """Nothing that is printed may fail for its characters: a report must come through in any locale."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(errors="keepwell-plain")  # type: ignore[union-attr]  # tests replace the streams


class Output:
    """How one run speaks. `document` is printed only with --json, `say` and `table` only without."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, color: bool = True) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._color = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.bars: Any = None
        """The running progress bars, which lines on standard error must go around."""

    def without_color(self) -> None:
        self._color = False

    def document(self, document: Any) -> None:
        """The one document of --json. ASCII, so that no locale and no file name can break it."""
        if self.as_json:
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
            sys.stdout.flush()

    def say(self, text: str = "") -> None:
        """A line of the answer."""
        if not self.as_json:
            sys.stdout.write(text + "\n")

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
        if not self.as_json:
            for number, line in enumerate(aligned([head, *rows], right)):
                self.say(self.style(line, "bold") if number == 0 else line)

    def done(self, text: str) -> None:
        """What was done, for a person: left out with --quiet."""
        if not self.quiet:
            self.say(text)

    def note(self, text: str) -> None:
        """What goes on: only for a person who watches."""
        if not self.quiet and sys.stderr.isatty():
            self._message(self.style(text, "dim", sys.stderr))

    def story(self, text: str) -> None:
        """A chapter: worth a line also where nobody watches."""
        if not self.quiet:
            self._message(self.style(text, "bold", sys.stderr))

    def remind(self, text: str) -> None:
        """What a person must read, whatever standard output is used for."""
        self._message(self.style(text, "yellow", sys.stderr))

    def warn(self, text: str) -> None:
        self._message(self.style("Warning: ", "yellow", sys.stderr) + text)

    def fail(self, message: str, hint: str = "") -> None:
        self._message(self.style("Error: ", "red", sys.stderr) + message)
        if hint:
            self._message(f"  → {hint}")

    def style(self, text: str, style: str, stream: TextIO | None = None) -> str:
        if not self._color or not (stream or sys.stdout).isatty():
            return text
        return f"\033[{_STYLES[style]}m{text}\033[0m"

    def _message(self, text: str) -> None:
        if self.bars is not None and self.bars.print(text):
            return
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


def aligned(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Columns, two blanks apart; those in `right` end at the same place."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for number, cell in enumerate(row):
            gap = " " * (widths[number] - _width(cell))
            cells.append(gap + cell if number in right else cell + gap)
        lines.append("  ".join(cells).rstrip())
    return lines


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
