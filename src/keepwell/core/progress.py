"""What an operation tells about itself while it runs. Nothing below `cli` prints; it reports here."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """All methods may be called from any thread. `task` is a short human name, unique while it runs."""

    def begin(self, task: str, total: int | None = None, unit: str = "bytes") -> None: ...

    def advance(self, task: str, amount: int = 1) -> None: ...

    def end(self, task: str) -> None: ...

    def note(self, text: str) -> None:
        """Something worth a line: a phase reached, a decision taken."""
        ...

    def warn(self, text: str) -> None:
        """Something the user must know although the work goes on. Never instead of an error."""
        ...


class Silent:
    """Progress that nobody watches; keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def begin(self, task: str, total: int | None = None, unit: str = "bytes") -> None:
        pass

    def advance(self, task: str, amount: int = 1) -> None:
        pass

    def end(self, task: str) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def warn(self, text: str) -> None:
        self.warnings.append(text)
