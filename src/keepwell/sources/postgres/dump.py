"""Reading a database: several pg_dump processes under one snapshot, their text straight into streams."""

from __future__ import annotations

import contextlib
import fcntl
import selectors
import struct
import termios
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

from keepwell.core.errors import Interrupted, SourceError
from keepwell.core.streams import Context, Facts, Sink, StreamWriter
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.postgres import catalog, reorder
from keepwell.sources.postgres.catalog import Table
from keepwell.sources.postgres.connection import DUMP_OPTIONS, Address, parse, require_direct, server_errors
from keepwell.sources.postgres.process import Program, failure
from keepwell.sources.postgres.programs import Programs, clients
from keepwell.sources.postgres.script import Parser
from keepwell.sources.postgres.snapshot import Changed, Held, held
from keepwell.sources.postgres.spec import Spec

GLOBALS, PRE_DATA, POST_DATA, SCHEMA, REST = "globals", "pre-data", "post-data", "schema.custom", "data-rest"
RESTRICT_KEY = "keepwell"
"""Always the same, so that the text of an unchanged database is the same."""

_ATTEMPTS = 3
_BLOCK = 1 << 20
_MOST_NAMED = 500
"""Tables named on a pg_dump's command line, which has a limited length."""
_LOCK_WAIT = "10s"
_CHANGED = (
    "could not obtain lock",
    "canceling statement due to statement timeout",
    "canceling statement due to lock timeout",
    "does not exist",
    "no matching tables were found",
    "could not open relation",
    "cache lookup failed",
)


@dataclass
class Lane:
    """One pg_dump of rows, and its stream."""

    stream: str
    tables: list[Table]
    """Those it is told to dump; empty for the one that carries everything else."""
    program: Program
    parser: Parser = field(default_factory=Parser)


def capture(spec: Spec, sink: Sink, context: Context) -> Facts:
    """Read the database into streams. Raises SourceError, ProgramMissing, Interrupted.

    Streams: `globals` (roles), `pre-data`, `data-0` …, `data-rest`, `post-data`, and `schema.custom` (both schema
    sections once more, as an archive for pg_restore). The plain ones in order are the script that pg_dump writes.
    """
    address = parse(spec.url)
    require_direct(address)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            with _begun(spec, address, context) as dump:
                return dump.finish(sink)
        except Changed:
            if attempt == _ATTEMPTS:
                raise SourceError(
                    f"{address.place}: tables were dropped or altered each of the {_ATTEMPTS} times that the backup began",
                    hint="Run the backup when no migration is under way.",
                ) from None
            context.progress.note(f"{address.database}: a table was dropped or altered just now; beginning again")
    raise AssertionError


@contextlib.contextmanager
def _begun(spec: Spec, address: Address, context: Context) -> Iterator[_Dump]:
    """All processes running and holding their locks; they are killed at the end where they still run."""
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(WorkFolder("postgres", context.work))
        moment = stack.enter_context(held(address, spec.lock_seconds))
        programs = clients(moment.connection.info.server_version // 10000, address, spec.programs)
        dump = _Dump(spec, address, context, moment, programs, work)
        stack.callback(dump.close)
        dump.start()
        yield dump


class _Dump:
    def __init__(
        self, spec: Spec, address: Address, context: Context, moment: Held, programs: Programs, work: Path
    ) -> None:
        self.address, self.context, self.moment, self.programs, self.work = address, context, moment, programs, work
        self._spec = spec
        money = f" -c lc_monetary={spec.lc_monetary}" if spec.lc_monetary else ""
        self._environment = address.environment(DUMP_OPTIONS + money)
        self._programs: list[Program] = []
        self._stop = threading.Event()
        self.lanes: list[Lane] = []
        self.size = 0

    def start(self) -> None:
        with server_errors(self.address):
            sizes = catalog.table_sizes(self.moment.connection)
        self.size = sum(sizes.values())
        # All at once: each takes its locks in the first moments, before anybody can queue up to drop a table.
        self._schema = self._pg_dump("--format=custom", "--section=pre-data", "--section=post-data")
        named = distribute(self.moment.tables, sizes, self.context.jobs, self._spec.big_table)
        for number, bundle in enumerate(named):
            patterns = [f"--table={table.pattern}" for table in bundle]
            program = self._pg_dump("--section=data", "--strict-names", *patterns)
            self.lanes.append(Lane(f"data-{number}", bundle, program))
        without = [f"--exclude-table-data={table.pattern}" for bundle in named for table in bundle]
        self.lanes.append(Lane(REST, [], self._pg_dump("--section=data", *without)))
        self._wait_for_locks()

    def _pg_dump(self, *options: str) -> Program:
        path = self.programs.path("pg_dump")
        common = [f"--dbname={self.address.argument()}", "--no-password", f"--snapshot={self.moment.snapshot}"]
        common += [f"--lock-wait-timeout={_LOCK_WAIT}"]
        if "--format=custom" not in options:
            common += self.programs.options("pg_dump", f"--restrict-key={RESTRICT_KEY}")
        return self._run([path, *common, *options])

    def _run(self, arguments: Sequence[str]) -> Program:
        program = Program(arguments, self._environment)
        self._programs.append(program)
        return program

    def _wait_for_locks(self) -> None:
        """Until every pg_dump has written something: it does so after it has locked its tables."""
        with selectors.DefaultSelector() as waiting:
            for program in self._programs:
                waiting.register(program.output, selectors.EVENT_READ, program)
            while waiting.get_map():
                self._stop_if_cancelled()
                for key, _ in waiting.select(0.2):
                    program = key.data
                    waiting.unregister(key.fileobj)
                    if _readable(program) or not (code := program.process.wait()):
                        continue
                    if any(text in program.said() for text in _CHANGED):
                        raise Changed
                    raise failure(program, self.address, "cannot dump", code)

    def finish(self, sink: Sink) -> Facts:
        names = [GLOBALS, PRE_DATA, *(lane.stream for lane in self.lanes), POST_DATA, SCHEMA]
        writers = {name: sink.stream(name) for name in names}
        task = f"{self.address.database}: dump"
        self.context.progress.begin(task, self.size)
        with ThreadPoolExecutor(len(self.lanes) + 1, thread_name_prefix="dump") as pool:
            try:
                flows: list[Future[Any]] = [
                    pool.submit(self._flow, lane, writers[lane.stream], task) for lane in self.lanes
                ]
                flows.append(pool.submit(self._schema_archive, writers[SCHEMA]))
                facts = self._describe()
                warnings = self._globals(writers[GLOBALS], facts)
                self._wait(flows)
                digests = {name: self._schema_text(name, writers[name]) for name in (PRE_DATA, POST_DATA)}
            except BaseException:
                self._stop.set()
                for program in self._programs:
                    program.process.kill()
                raise
        self.context.progress.end(task)
        return self._facts(facts, names, writers, digests, warnings)

    def _wait(self, flows: list[Future[Any]]) -> None:
        pending = set(flows)
        while pending:
            done, pending = wait(pending, 0.2, FIRST_EXCEPTION)
            for flow in done:
                flow.result()
            self._stop_if_cancelled()

    def _flow(self, lane: Lane, writer: StreamWriter, task: str) -> None:
        buffer = bytearray(_BLOCK)
        view = memoryview(buffer)
        program, parser = lane.program, lane.parser
        try:
            while count := program.fill(buffer):
                if self._stop.is_set():
                    return
                self._stop_if_cancelled()
                done = 0
                for start in parser.feed(buffer, count):
                    if start > done:
                        writer.write(view[done:start])
                    writer.boundary()
                    done = start
                writer.write(view[done:count])
                self.context.progress.advance(task, count)
            self._require_success(program)
            parser.finish()
        except ValueError as error:
            raise SourceError(
                f"{self.address.place}: pg_dump wrote something unexpected: {error}",
                hint="Try again; if it happens again, report it with the versions of the server and of pg_dump.",
            ) from error
        writer.close()

    def _require_success(self, program: Program) -> None:
        code = program.process.wait()
        if code and not self._stop.is_set():
            raise failure(program, self.address, "cannot dump", code)

    def _schema_archive(self, writer: StreamWriter) -> None:
        """Kept as a file too: pg_restore makes the text of the sections from it, with no more work for the server."""
        buffer = bytearray(_BLOCK)
        with (self.work / SCHEMA).open("wb") as file:
            while count := self._schema.fill(buffer):
                file.write(memoryview(buffer)[:count])
                writer.write(memoryview(buffer)[:count])
        self._require_success(self._schema)
        writer.close()

    def _schema_text(self, section: str, writer: StreamWriter) -> str:
        """BLAKE3 of the section's text without the line that names the versions."""
        key = self.programs.options("pg_restore", f"--restrict-key={RESTRICT_KEY}")
        program = self._run(
            [self.programs.path("pg_restore"), *key, f"--section={section}", "--file=-", str(self.work / SCHEMA)]
        )
        hasher = blake3()
        buffer = bytearray(_BLOCK)
        first = True
        while count := program.fill(buffer):
            writer.write(memoryview(buffer)[:count])
            text = bytes(buffer[:count])
            if first:
                lines = text.split(b"\n", 12)
                text = b"\n".join(line for line in lines if not line.startswith(b"-- Dumped "))
                first = False
            hasher.update(text)
        self._require_success(program)
        writer.close()
        return hasher.hexdigest()

    def _globals(self, writer: StreamWriter, facts: Facts) -> list[str]:
        """Roles without passwords; where the server does not let pg_dumpall read them, those that are needed."""
        arguments = [f"--dbname={self.address.argument()}", f"--database={self.address.database}", "--no-password"]
        arguments += ["--globals-only", "--no-role-passwords"]
        arguments += self.programs.options("pg_dumpall", f"--restrict-key={RESTRICT_KEY}")
        program = self._run([self.programs.path("pg_dumpall"), *arguments])
        text = program.output.read()
        warnings = []
        facts["globals"] = "all roles, without passwords"
        if code := program.process.wait():
            self._stop_if_cancelled()
            reason = failure(program, self.address, "cannot read the roles of", code).message
            warnings = [f"only the roles that the database needs were saved, by name: {reason}"]
            facts["globals"] = "names of the roles that the database needs"
            with server_errors(self.address):
                text = catalog.role_script(self.moment.connection).encode()
        writer.write(text)
        writer.close()
        return warnings

    def _describe(self) -> Facts:
        with server_errors(self.address):
            connection = self.moment.connection
            facts = {"type": "postgres", "database": self.address.database, **catalog.describe(connection)}
            roles = catalog.roles(connection)
            facts["roles"] = list(roles)
            facts["superusers"] = [name for name, is_superuser in roles.items() if is_superuser]
            facts["unfilled"] = catalog.unfilled(connection)
            facts["invalid_indexes"] = catalog.invalid_indexes(connection)
            facts["unvalidated"] = catalog.unvalidated(connection)
            facts["sequence_oids"] = catalog.sequences(connection)
            facts["objects"] = catalog.objects(connection)
        return facts

    def _facts(
        self,
        facts: Facts,
        names: list[str],
        writers: dict[str, StreamWriter],
        digests: dict[str, str],
        warnings: list[str],
    ) -> Facts:
        by_name = {(table.raw_schema, table.raw_name): table for table in self.moment.tables}
        found: dict[str, Any] = {}
        sequences: dict[str, Any] = {}
        for lane in self.lanes:
            sequences |= lane.parser.rest.sequences
            for block in lane.parser.blocks:
                table = by_name.get((block.schema, block.table))
                if table is None:
                    raise SourceError(
                        f"{self.address.place}: pg_dump wrote the table {block.table!r}, which the snapshot "
                        "does not have",
                        hint="Try again; if it happens again, report it.",
                    )
                found[table.key] = {
                    "rows": block.rows,
                    "bytes": block.bytes,
                    "digest": block.digest,
                    "stream": lane.stream,
                    "offset": block.start,
                    "length": block.length,
                    "columns": [column.decode(errors="backslashreplace") for column in block.columns],
                    "oid": table.oid,
                } | ({"extension": table.extension} if table.extension else {})
        self._reorder(found, facts["encoding"])
        oids = facts.pop("sequence_oids")
        rest = self.lanes[-1].parser.rest
        ours = [table for table in self.moment.tables if table.kind == "r" and not table.extension]
        if missing := sorted(table.key for table in ours if table.key not in found):
            raise SourceError(
                f"{self.address.place}: pg_dump left out {len(missing)} tables: {', '.join(missing[:10])}",
                hint="Try again; if it happens again, report it.",
            )
        if not found:
            warnings.append("the database has no tables")
        warnings += [f"the index {name} is invalid and not in the backup" for name in facts["invalid_indexes"]]
        warnings += [f"the constraint {name} is NOT VALID: rows may break it" for name in facts["unvalidated"]]
        return facts | {
            "dump_version": self.programs.version,
            "tables": dict(sorted(found.items())),
            "partitioned": partitions(self.moment.tables),
            "sequences": {name: [*stand, oids.get(name, 0)] for name, stand in sorted(sequences.items())},
            "large_objects": {
                "count": rest.objects,
                "bytes": rest.object_bytes,
                "digest": rest.contents.hexdigest(),
            },
            "schema": {**digests, "data": rest.others.hexdigest()},
            "streams": names,
            "bytes": sum(writer.position for writer in writers.values()),
            "warnings": warnings,
        }

    def _reorder(self, found: dict[str, Any], encoding: str) -> None:
        """Digests in the orders of columns that the spec wants."""
        by_key = {table.key: table for table in self.moment.tables}
        for name, wanted in self._spec.columns.items():
            facts = found.get(name)
            if facts and facts["columns"] != list(wanted) and sorted(facts["columns"]) == sorted(wanted):
                table = by_key[name]
                with server_errors(self.address):
                    facts["digest"] = reorder.digest(self.moment.connection, table.schema, table.name, wanted, encoding)

    def _stop_if_cancelled(self) -> None:
        if self.context.cancelled():
            raise Interrupted("the backup was interrupted", hint="Nothing was changed; start it again.")

    def close(self) -> None:
        for program in self._programs:
            program.close()


def distribute(tables: list[Table], sizes: dict[int, int], jobs: int, big: int) -> list[list[Table]]:
    """Which big tables get processes of their own, `jobs - 1` at the most; the last lane takes everything else."""
    candidates = [t for t in tables if t.kind == "r" and t.readable and not t.extension and sizes.get(t.oid, 0) >= big]
    candidates = sorted(candidates, key=lambda t: (-sizes[t.oid], t.key))[:_MOST_NAMED]
    load = [0] * (max(jobs, 1) - 1) + [sum(sizes.values()) - sum(sizes[t.oid] for t in candidates)]
    lanes: list[list[Table]] = [[] for _ in load]
    for table in candidates:
        lane = min(range(len(load)), key=load.__getitem__)
        load[lane] += sizes[table.oid]
        lanes[lane].append(table)
    return [lane for lane in lanes[:-1] if lane]


def partitions(tables: list[Table]) -> dict[str, dict[str, Any]]:
    """Of each partitioned table: its oid, and the tables below it on all levels, with rows or partitioned again."""
    children: dict[str, list[Table]] = {}
    for table in tables:
        if table.parent:
            children.setdefault(table.parent, []).append(table)

    def below(key: str, kind: str) -> list[str]:
        found: list[str] = []
        for child in children.get(key, []):
            found += ([child.key] if child.kind == kind else []) + below(child.key, kind)
        return sorted(found)

    return {
        table.key: {"oid": table.oid, "tables": below(table.key, "r"), "partitioned": below(table.key, "p")}
        for table in tables
        if table.kind == "p"
    }


def _readable(program: Program) -> bool:
    """Whether there is output to read, without reading it; False at its end."""
    waiting = fcntl.ioctl(program.output.fileno(), termios.FIONREAD, b"\0\0\0\0")
    return bool(struct.unpack("i", waiting)[0])
