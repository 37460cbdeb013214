"""The command line: one module per command; prints, asks, maps errors to exit codes.

Nothing is imported here: PostgreSQL calls `wal push` and `wal fetch` once a segment, and what an earlier call has done
ahead is answered before the program is loaded.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code (docs/reference/exit-codes.md) and raises nothing.

    `wal fetch` returns only with 0, or 1 at the genuine end of the log; otherwise it ends the process by a signal.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:2] in (["wal", "push"], ["wal", "fetch"]) and "--json" not in args:
        from keepwell.core import walnote

        if walnote.pushed(args[2:]) if args[1] == "push" else walnote.fetched(args[2:]):
            return 0
    if "wal" not in args or "fetch" not in args[args.index("wal") :]:
        from keepwell.cli.program import run

        return run(args)
    from keepwell.cli.fatal import never_mistaken

    return never_mistaken(args)
