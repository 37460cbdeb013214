"""Getting a database back: schema by pg_restore, rows by COPY side by side, keys and indexes after them."""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeAlias

from keepwell.core.errors import Interrupted, ProofFailed, SourceError
from keepwell.core.streams import Context, Facts, Streams
from keepwell.sources.base import RestoreReport
from keepwell.sources.postgres import archive, place
from keepwell.sources.postgres.archive import Entry
from keepwell.sources.postgres.connection import Connection, connect, connected, one_line, parse, server_errors
from keepwell.sources.postgres.dump import POST_DATA, PRE_DATA, REST
from keepwell.sources.postgres.process import Program, last_lines
from keepwell.sources.postgres.programs import clients
from keepwell.sources.postgres.rights import Rights
from keepwell.sources.postgres.script import is_setting, statement_end
from keepwell.sources.postgres.spec import Target

_OPTIONS = (
    "-c synchronous_commit=off -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 "
    "-c client_min_messages=warning -c DateStyle=ISO -c IntervalStyle=postgres -c TimeZone=UTC "
    "-c check_function_bodies=off -c xmloption=content -c row_security=off -c default_transaction_read_only=off "
    "-c search_path="
)
_INDEX_MEMORY_KB = 256 * 1024
_SMALL = 64 * 1024
"""Tables below this are loaded several in one transaction: with thousands of them commits would be most of the work."""
_BATCH = 64
_STATEMENTS = 1 << 20

_RIGHTS = ("ACL", "DEFAULT ACL", "POLICY", "USER MAPPING")
"""Entries that name roles; run one statement after the other, so that one refusal does not take others with it."""
_LAST = ("MATERIALIZED VIEW DATA", "EVENT TRIGGER")
"""What needs the rights, or would be in the way before."""

_ERROR = re.compile(
    r"^pg_restore: error: (?P<said>.*?)^Command was: (?P<command>.*?)(?=^pg_restore: |\Z)", re.MULTILINE | re.DOTALL
)
_ANY_ERROR = re.compile(r"^pg_restore: (?:\[.*?\] )?error: ", re.MULTILINE)
# An owner that cannot be set, and a view that its owner may not fill, leave no rows out: they are reported.
_REPORTED = re.compile(r"ALTER [A-Z ]+ .* OWNER TO .*;|REFRESH MATERIALIZED VIEW .*;", re.DOTALL)
# A newer pg_dump sets what an older server does not know; comments on extensions are the extension owner's business.
_HARMLESS = re.compile(r"SET transaction_timeout = 0;|COMMENT ON EXTENSION .*", re.DOTALL)

_TRUNCATABLE = """
SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind = 'r' AND n.nspname !~ '^pg_' AND has_table_privilege(c.oid, 'TRUNCATE')
"""

Work: TypeAlias = Callable[[Connection], None]


class Restore:
    """One restore into one database; the methods are its phases, in this order."""

    def __init__(self, facts: Facts, streams: Streams, target: Target, context: Context, folder: Path) -> None:
        self.facts, self.streams, self.target, self.context, self.folder = facts, streams, target, context, folder
        self.address = parse(target.url)
        self.report = RestoreReport()
        self._stop = threading.Event()
        self._report_lock = threading.Lock()

    def prepare(self) -> None:
        self.report.warnings += place.prepare(self.facts, self.address, create=self.target.create)
        with connected(self.address) as connection:
            version = connection.info.server_version // 10000
            row = connection.execute(
                "SELECT setting::int FROM pg_settings WHERE name = 'maintenance_work_mem'"
            ).fetchone()
            memory = max(_INDEX_MEMORY_KB, row[0] if row else 0)
        self._options = f"{_OPTIONS} -c maintenance_work_mem={memory}kB"
        if monetary := self.facts["lc_monetary"]:
            # Amounts of type money mean what this says; another locale would read them as other numbers.
            self._options += f" -c lc_monetary={monetary}"
        dumped = int(self.facts["dump_version"].split(".")[0])
        self.programs = clients(max(version, dumped), self.address, self.target.programs)
        self.archive = archive.fetch(self.streams, self.folder)
        self.rights_connection = connect(self.address, self._options)
        with server_errors(self.address):
            _set_encoding(self.rights_connection, self.facts)
        self.rights = Rights(self.rights_connection, self.rights_connection.info.encoding)

    def schema(self, chosen: Iterable[Entry] | None = None) -> None:
        """Everything but rows, indexes and keys."""
        self._entries = list(chosen) if chosen is not None else None
        with self._phase("schema"):
            self._pg_restore(self._of(PRE_DATA), PRE_DATA, 1)

    def rows(self, tables: Sequence[str], *, rest: bool = True) -> None:
        """The rows of these tables, biggest first, and (`rest`) sequences and large objects."""
        facts = self.facts["tables"]
        wanted = sorted((name for name in tables if facts[name]["rows"]), key=lambda name: -facts[name]["bytes"])
        self.report.tables |= dict.fromkeys((name for name in tables if not facts[name]["rows"]), 0)
        big = [[name] for name in wanted if facts[name]["bytes"] >= _SMALL]
        small = [name for name in wanted if facts[name]["bytes"] < _SMALL]
        small_groups = [small[at : at + _BATCH] for at in range(0, len(small), _BATCH)]
        work: list[Work] = [lambda c, g=group: self._copy(c, g) for group in [*big, *small_groups]]  # type: ignore[misc]
        if rest:
            # First, as large objects may be the biggest of all and go through one connection.
            work.insert(0, self._outside_rows)
        with connected(self.address, self._options) as connection:
            # Tables that belong to another role may let us only insert.
            self._truncatable = {name for (name,) in connection.execute(_TRUNCATABLE).fetchall()}
        total = sum(facts[name]["bytes"] for name in wanted)
        with self._phase("rows", total):
            self._side_by_side(work)

    def sequences(self, names: Iterable[str]) -> None:
        """Sets these sequences to where they were."""
        with connected(self.address, self._options) as connection:
            for name in names:
                last, called, _ = self.facts["sequences"][name]
                connection.execute("SELECT pg_catalog.setval(%s::regclass, %s, %s)", (name, last, called))

    def keys(self) -> None:
        """Indexes, keys, triggers, privileges, materialized views."""
        with self._phase("indexes and keys"):
            after = self._of(POST_DATA)
            late = {entry.number for entry in after if entry.kind in _LAST}
            late |= {entry.number for entry in after if entry.kind == "COMMENT" and entry.needs & late}
            self._pg_restore([e for e in after if e.number not in late], POST_DATA, self.context.jobs)
        with self._phase("privileges"):
            everything = [*self._of(PRE_DATA), *after]
            self._give_rights([entry for entry in everything if entry.kind in _RIGHTS])
            if late:
                # A materialized view shows what its owner may see; pg_restore would refuse to fill it from a table with
                # row security.
                chosen = [entry for entry in after if entry.number in late]
                self._pg_restore(chosen, POST_DATA, self.context.jobs, "--enable-row-security")
            if self.target.create:
                with server_errors(self.address):
                    self.report.warnings += place.give_back(self.facts, self.rights_connection, self.address.database)
        self.report.warnings += self.rights.warnings()

    def statistics(self) -> None:
        """What the planner wants to know."""
        if not self.target.analyze:
            return
        with self._phase("statistics"):
            with connected(self.address, self._options) as connection:
                # A partitioned table brings its partitions with it.
                names = connection.execute(
                    "SELECT quote_ident(n.nspname) || '.' || quote_ident(c.relname) FROM pg_class c "
                    "JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition "
                    "AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY pg_total_relation_size(c.oid) DESC"
                ).fetchall()
            self._side_by_side([lambda c, n=name: self._analyze(c, n) for (name,) in names])  # type: ignore[misc]

    def _analyze(self, connection: Connection, name: str) -> None:
        # A tenth of the usual sample: fair estimates at once, where all of them took longer than the whole restore
        # (measured with 26 partitions). Autovacuum makes them finer afterwards.
        connection.execute("SET default_statistics_target = 10")
        connection.execute(f"ANALYZE {name}")

    def close(self) -> None:
        if connection := self.__dict__.get("rights_connection"):
            connection.close()

    def _of(self, section: str) -> list[Entry]:
        found = archive.entries(self.programs, self.archive, section)
        if self._entries is None:
            return found
        chosen = {entry.number for entry in self._entries}
        return [entry for entry in found if entry.number in chosen]

    def _pg_restore(self, entries: list[Entry], section: str, jobs: int, *options: str) -> None:
        """Runs the entries that do not deal with rights. Raises SourceError for what may not be left out."""
        chosen = archive.write_list((e for e in entries if e.kind not in _RIGHTS), self.folder)
        arguments = [self.programs.path("pg_restore"), f"--dbname={self.address.argument()}", "--no-password"]
        arguments += [f"--section={section}", f"--jobs={max(jobs, 1)}", *options, chosen, str(self.archive)]
        program = Program(arguments, self.address.environment(self._options))
        try:
            while not _ended(program):
                self._stop_if_cancelled()
            self._judge(program)
        finally:
            program.close()

    def _judge(self, program: Program) -> None:
        code = program.process.wait()
        said = self.address.scrub(program.said())
        allowed = 0
        for found in _ERROR.finditer(said):
            command = found["command"].strip()
            if _HARMLESS.fullmatch(command):
                allowed += 1
            elif _REPORTED.fullmatch(command):
                allowed += 1
                why = one_line(found["said"].split("ERROR:")[-1])
                self.rights.refused(_role_reason(why), command)
            else:
                raise SourceError(
                    f"{self.address.place} refused: {one_line(found['said'].split('ERROR:')[-1])} "
                    f"(in: {one_line(command)[:200]})",
                    hint=self._left_over("The message is the server's own. Mend what it names and restore again."),
                )
        # Every error must have been understood; pg_restore's own count is too high where it works in parallel.
        if len(_ANY_ERROR.findall(said)) != allowed or (code and not allowed):
            raise SourceError(
                f"restoring into {self.address.place}: pg_restore ended with exit code {code}: {last_lines(said)}",
                hint=self._left_over("See that the server is still there and has room, then restore again."),
            )

    def _give_rights(self, entries: list[Entry]) -> None:
        if not entries:
            return
        chosen = archive.write_list(entries, self.folder)
        with server_errors(self.address):
            self.rights.run_all(b"".join(archive.text(self.programs, self.archive, chosen)))

    def _copy(self, connection: Connection, names: list[str]) -> None:
        """One transaction: the tables are emptied in it, so that PostgreSQL neither logs the rows (where it need not),
        nor fills gaps: the rows lie in the order of the backup, and a later dump has the same digest.
        """
        task = "rows"
        with connection.transaction():
            for name in names:
                table = self.facts["tables"][name]
                blocks = self.streams.read(table["stream"], table["offset"], table["length"])
                statement, rows = _split(blocks, table["bytes"])
                fresh = "extension" not in table and name in self._truncatable
                if fresh:
                    connection.execute(f"TRUNCATE ONLY {name}")
                query = statement.rstrip()[:-1] + (b" WITH (FREEZE true)" if fresh else b"")
                with connection.cursor() as cursor:
                    with cursor.copy(query) as copy:
                        for block in rows:
                            if self._stop.is_set():
                                raise Interrupted("the restore was interrupted")
                            copy.write(block)
                            self.context.progress.advance(task, len(block))
                    came = cursor.rowcount
                if came != table["rows"]:
                    raise ProofFailed(
                        f"{name}: {came} rows arrived in {self.address.place}; {table['rows']} were backed up",
                        hint=self._left_over("Run `keepwell check`, and restore an older backup or a copy."),
                    )
                with self._report_lock:
                    self.report.tables[name] = came
                    self.report.bytes += table["bytes"]

    def _outside_rows(self, connection: Connection) -> None:
        """Sequences and large objects: the statements of the stream between the rows of tables."""
        held: list[bytes] = []
        size = 0
        for statement in _statements(self.streams, self.facts):
            if self._stop.is_set():
                raise Interrupted("the restore was interrupted")
            if statement.startswith((b"ALTER ", b"GRANT ", b"REVOKE ", b"SET ", b"RESET ", b"COMMENT ", b"SECURITY ")):
                _execute(connection, held)
                size = 0
                self.rights.run(statement)
                continue
            held.append(statement)
            size += len(statement)
            if size >= _STATEMENTS:
                _execute(connection, held)
                with self._report_lock:
                    self.report.bytes += size
                size = 0
        _execute(connection, held)

    def _side_by_side(self, work: Sequence[Work]) -> None:
        queue: SimpleQueue[Work] = SimpleQueue()
        for piece in work:
            queue.put(piece)

        def worker() -> None:
            with connected(self.address, self._options) as connection:
                _set_encoding(connection, self.facts)
                while not self._stop.is_set():
                    try:
                        piece = queue.get_nowait()
                    except Empty:
                        return
                    piece(connection)

        count = max(min(self.context.jobs, len(work)), 1)
        with ThreadPoolExecutor(count, thread_name_prefix="load") as pool:
            try:
                pending = {pool.submit(worker) for _ in range(count)}
                while pending:
                    done, pending = wait(pending, 0.2, FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self._stop_if_cancelled()
            except BaseException:
                self._stop.set()
                raise

    @contextlib.contextmanager
    def _phase(self, name: str, total: int | None = None) -> Iterator[None]:
        started = self.context.clock.monotonic()
        self.context.progress.begin(name, total)
        yield
        self.context.progress.end(name)
        self.report.seconds[name] = self.context.clock.monotonic() - started

    def _stop_if_cancelled(self) -> None:
        if self.context.cancelled():
            raise Interrupted(
                f"the restore into {self.address.place} was interrupted",
                hint=self._left_over("The backup is untouched; start the restore again."),
            )

    def _left_over(self, hint: str) -> str:
        return f"{hint} What was restored so far is still in {self.address.database}: drop that database first."


def _split(blocks: Iterator[bytes], size: int) -> tuple[bytes, Iterator[bytes]]:
    """The COPY statement, and the `size` bytes of rows after it."""
    text = b""
    while (end := statement_end(text, 0, len(text)) if text else None) is None:
        text += next(blocks)
    statement, first = text[:end], text[end:]

    def rows() -> Iterator[bytes]:
        left = size
        for block in itertools.chain([first], blocks):
            if left and block:
                yield block[:left]
                left -= min(left, len(block))

    return statement, rows()


def _statements(streams: Streams, facts: Facts) -> Iterator[bytes]:
    """The statements between the rows, without settings; sequences' owners' lanes repeat what is in the last one."""
    blocks = sorted((t["offset"], t["length"]) for t in facts["tables"].values() if t["stream"] == REST)
    at = 0
    for start, length in [*blocks, (streams.size(REST), 0)]:
        pending = b""
        for data in streams.read(REST, at, start - at):
            text, done = pending + data, 0
            while done < len(text) and (end := statement_end(text, done, len(text))) is not None:
                piece, done = text[done:end], end
                if not is_setting(piece) or piece.startswith(b"SET SESSION AUTHORIZATION"):
                    yield piece
            pending = text[done:]
        at = start + length


def _execute(connection: Connection, held: list[bytes]) -> None:
    if held:
        connection.execute(b"".join(held))
        held.clear()


def _set_encoding(connection: Connection, facts: Facts) -> None:
    connection.execute(f"SET client_encoding = '{facts['encoding']}'")


def _ended(program: Program) -> bool:
    try:
        program.process.wait(0.1)
    except subprocess.TimeoutExpired:
        return False
    return True


def _role_reason(said: str) -> str:
    found = re.search(r'role "(.*)" does not exist', said)
    return f'the role "{found[1]}" does not exist here' if found else said
