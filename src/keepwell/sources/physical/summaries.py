"""Which blocks of a cluster's tables the log has changed, from the server's own summaries of it (17 and newer).

Source: PostgreSQL's documentation, "WAL Summarization Information Functions"; and `backup/basebackup_incremental.c`, which decides
by the same summaries what an incremental backup holds. Where it and this differ, this reads more: see `Changes.of`.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import numpy as np
import psycopg

from keepwell.core.clock import Clock
from keepwell.core.errors import SourceError
from keepwell.core.wal import parse_lsn, show_lsn
from keepwell.sources.physical.checksums import Numbers
from keepwell.sources.postgres.connection import Connection, one_line

_Relation: TypeAlias = tuple[int, int, int]
"""Oids of the tablespace and the database, and the file number; that is 0 for a whole database."""
_MAIN = re.compile(r"(?:base/(\d+)|global|pg_tblspc/(\d+)/PG_[^/]+/(\d+))/(\d+)(?:\.(\d+))?", re.ASCII)
_DEFAULT, _GLOBAL = 1663, 1664
_SHARE = 0.9
"""Of a file: from here on reading all of it is as fast."""
_PATIENCE = 60.0
"""Seconds in which the summarizer must get on, as the server itself waits for it."""
_STEP = 0.01
_THERE = "SELECT start_lsn::text, end_lsn::text FROM pg_available_wal_summaries() WHERE tli = %s"
# The summaries by their names: one that was removed since they were listed is an error, not an answer with less in it.
_CONTENTS = """\
SELECT spc, db, rel, segment, min(block) FILTER (WHERE is_limit)::bigint,
  string_agg(int4send((block - segment * %(size)s)::int4), ''::bytea) FILTER (WHERE NOT is_limit)
FROM (SELECT DISTINCT c.reltablespace::bigint AS spc, c.reldatabase::bigint AS db, c.relfilenode::bigint AS rel,
        c.relblocknumber / %(size)s AS segment, c.relblocknumber AS block, c.is_limit_block AS is_limit
      FROM unnest(%(starts)s::pg_lsn[], %(ends)s::pg_lsn[]) AS s(first, last),
        LATERAL pg_wal_summary_contents(%(timeline)s, s.first, s.last) AS c
      WHERE c.relforknumber = 0) AS found
GROUP BY spc, db, rel, segment"""


class Untold(Exception):
    """The summaries do not say what changed; why not."""


class Changes:
    """What was changed between two positions in the log."""

    def __init__(self, segment: int) -> None:
        """`segment`: blocks of a whole file of a table."""
        self._segment = segment
        self._limits: dict[_Relation, int] = {}
        """The least length that a table had meanwhile, where it was made, cut or dropped."""
        self._blocks: dict[tuple[_Relation, int], Numbers] = {}
        """Of a file, from its beginning, rising."""

    def add(self, relation: _Relation, segment: int, limit: int | None, blocks: Numbers) -> None:
        if limit is not None:
            self._limits[relation] = min(limit, self._limits.get(relation, limit))
        if len(blocks):
            self._blocks[relation, segment] = np.sort(blocks)

    def of(self, path: str, pages: int, known: int) -> Numbers | None:
        """What must be read of a file that has so many pages, of which so many are known from before: rising. None: all of it.

        Only main forks are taken apart: the server does not log all that happens to the map of free space, and the others are small.
        From the least length of the table on, and behind what is known, every page is read, whether it was changed or not.
        """
        found = _MAIN.fullmatch(path)
        if found is None:
            return None
        base, tablespace, inside, number, part = found.groups()
        database = int(base or inside or 0)
        place = int(tablespace) if tablespace else _DEFAULT if base else _GLOBAL
        relation, segment = (place, database, int(number)), int(part or 0)
        if (place, database, 0) in self._limits:  # the whole database was copied, moved or dropped
            return None
        limit = self._limits.get(relation)
        stays = min(pages, known)
        if limit is not None:
            stays = min(stays, limit - segment * self._segment)
        if stays <= 0:
            return None
        changed = self._blocks.get((relation, segment), np.zeros(0, np.uint32))
        changed = changed[: int(np.searchsorted(changed, stays))]
        if len(changed) + pages - stays > _SHARE * pages:
            return None
        return np.concatenate((changed, np.arange(stays, pages, dtype=np.uint32)))


def changes(connection: Connection, timeline: int, since: int, until: int, *, segment: int, clock: Clock) -> Changes:
    """Of what the log says from `since` to `until`, a redo position that was just now. Waits until the server has summarized it.

    Raises Untold, SourceError where the connection is lost.
    """
    if since > until:
        raise Untold(f"the last backup began at {show_lsn(since)}, behind {show_lsn(until)}, where this one does")
    found = Changes(segment)
    try:
        _await(connection, until, clock)
        starts, ends = _covering(connection, timeline, since, until)
        asked = {"size": segment, "timeline": timeline, "starts": starts, "ends": ends}
        with connection.cursor(binary=True) as cursor:
            for place, database, number, part, limit, blocks in cursor.stream(_CONTENTS, asked):
                found.add((place, database, number), part, limit, np.frombuffer(blocks or b"", ">u4").astype(np.uint32))
    except psycopg.Error as error:
        if connection.broken:
            raise SourceError(
                f"the connection to the server was lost while its summaries of the log were read: {one_line(str(error))}",
                hint="Try again.",
            ) from error
        # Not allowed, or a summary was removed meanwhile.
        raise Untold(f"the server does not give its summaries of the log: {one_line(str(error))}") from error
    return found


def _await(connection: Connection, until: int, clock: Clock) -> None:
    last, since = 0, clock.monotonic()
    while True:
        row = connection.execute("SELECT summarized_lsn::text FROM pg_get_wal_summarizer_state()").fetchone()
        reached = parse_lsn(row[0]) if row and row[0] else 0
        if reached >= until:
            return
        now = clock.monotonic()
        if reached > last:
            last, since = reached, now
        elif now - since > _PATIENCE:
            raise Untold(f"the server has summarized its log only up to {show_lsn(reached)}, and does not get on")
        clock.sleep(_STEP)


def _covering(connection: Connection, timeline: int, since: int, until: int) -> tuple[list[str], list[str]]:
    """Beginnings and ends of the summaries that together have all of the log between."""
    there = [(parse_lsn(start), parse_lsn(end)) for start, end in connection.execute(_THERE, [timeline]).fetchall()]
    wanted = sorted((start, end) for start, end in there if end > since and start < until)
    reached = since
    for start, end in wanted:
        if start > reached:
            break
        reached = max(reached, end)
    if reached < until:
        raise Untold(
            f"the server has no summaries of its log from {show_lsn(reached)} on, where those since the last backup begin "
            f"at {show_lsn(since)}"
        )
    return [show_lsn(start) for start, _ in wanted], [show_lsn(end) for _, end in wanted]
