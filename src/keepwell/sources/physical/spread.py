"""Which files of a cluster lie so scattered in the vault that they are stored anew (docs/why/no-chains.md).

Each backup of changes puts new pages among those of older ones. A restore decodes whole frames, of which it then needs ever less.
"""

from __future__ import annotations

from keepwell.core.streams import Sink
from keepwell.sources.physical.previous import PAGE, Previous

MOST = 3.0
"""Bytes to decode for each byte of a file: from here on its restore takes twice as long as it could (docs/why/speed.md)."""
_LEAST = (4 << 20) // PAGE
"""Pages: smaller files share frames with their neighbours."""
_SHARE = 8
"""At most such a part of the cluster is stored anew in one backup, so that no night is much longer than others."""


def scattered(previous: Previous, sink: Sink) -> list[str]:
    """Paths, the worst first; no more than one backup should bear."""
    files = [(path, pages) for path, pages in previous.files() if len(pages) >= _LEAST]
    spread = {path: sink.spread(pages) for path, pages in files}
    worst = sorted((path for path in spread if spread[path] > MOST), key=lambda path: -spread[path])
    sizes = {path: len(pages) for path, pages in files}
    room, chosen = previous.size // _SHARE, list[str]()
    for path in worst:
        if not chosen or sizes[path] <= room:
            chosen.append(path)
            room -= sizes[path]
    return chosen
