"""Which cluster to back up physically, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from keepwell.core.secrets import Secret


@dataclass(frozen=True)
class Spec:
    url: Secret
    on_damaged_page: Literal["fail", "keep"] = "fail"
    """What to do where a page's own checksum is wrong on the server: give up, or take it as it is and say so."""
    checkpoint: Literal["fast", "spread"] = "fast"
    """How the server makes the checkpoint that a backup begins with."""
    read_from: Literal["auto", "server", "files"] = "auto"
    """Whether the server sends its files, or they are read themselves, which needs to be on its host. `auto`: the files,
    where that can be; else the server."""
