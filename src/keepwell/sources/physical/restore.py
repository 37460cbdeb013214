"""A cluster's data directory from a backup: new, or an older state rewritten where it differs."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keepwell.core.errors import SourceError, UsageError
from keepwell.core.streams import Context, Facts, Finding, Streams
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.physical import recovery, scatter
from keepwell.sources.physical.directory import (
    CONTROL,
    MARKER,
    is_empty,
    owner_of,
    places_of,
    refuse_running,
    require_restorable,
)
from keepwell.sources.physical.entries import Entry
from keepwell.sources.physical.layout import ALWAYS, Layout, read_layout
from keepwell.sources.physical.scatter import Scatter
from keepwell.sources.physical.target import Sandbox, Target

_LATE = f"{CONTROL}.keepwell"
"""`global/pg_control` while it is not yet in its place."""
_UNWANTED = (recovery.STANDBY, recovery.SIGNAL, "postmaster.pid", "postmaster.opts")
"""What of the backup would make the copy something that it is not."""


def restore(facts: Facts, streams: Streams, target: Target, request: RestoreRequest, context: Context) -> RestoreReport:
    """Writes the directory, and what its recovery needs; with `request.start` runs it until the recovery has ended.

    A sandbox gets the files only. A new directory is removed again when it fails; one that is rewritten (`delta`) has no
    `global/pg_control` meanwhile, so that no server starts in it, and the next `delta` goes on. Raises UsageError,
    TargetNotEmpty, SourceError, ProgramMissing, Damaged, StoreError, Interrupted.
    """
    if request.tables or request.paths or request.sql:
        raise UsageError(
            "a physical backup is of the whole cluster, and tables or files cannot be taken out of it",
            hint="Restore it to a new directory with --to and --start, and take the tables from there with pg_dump.",
        )
    recovery.check(request.recovery)
    proving = isinstance(target, Sandbox)
    if request.start and not proving:
        from keepwell.sources.physical.start import programs_for

        programs_for(facts)  # better now than after an hour
    report = RestoreReport()
    with _phase(report, context, "files"):
        layout = read_layout(streams)
        work = _Work(facts, layout, target, request, context, report)
        work.run(streams, proving=proving)
    report.bytes, report.files = layout.size, len(layout.files)
    if request.start and not proving:
        from keepwell.sources.physical.start import recover_and_start

        with _phase(report, context, "recovery"):
            recover_and_start(facts, target.path, request, context, report)
    return report


def compare_files(streams: Streams, target: Target, context: Context) -> list[Finding]:
    """Every file of a restored directory in which no server has run yet, against the backup's own bytes."""
    layout = read_layout(streams)
    task = f"{target.path.name}: compare"
    context.progress.begin(task, layout.size)
    local = _local(target.path)
    found = [Finding(path, problem) for path, problem in scatter.compare(layout, local, streams, context, task)]
    there = {path for path, _ in _walk(target.path)}
    extra = there - set(layout.files) - set(layout.folders) - {link.path for link in layout.links} - set(ALWAYS)
    found += [Finding(path, "was not in the backup") for path in sorted(extra)]
    context.progress.end(task)
    return found


class _Work:
    """One restore of files."""

    def __init__(
        self,
        facts: Facts,
        layout: Layout,
        target: Target,
        request: RestoreRequest,
        context: Context,
        report: RestoreReport,
    ) -> None:
        self.facts, self.layout, self.request, self.context, self.report = facts, layout, request, context, report
        self.root = target.path
        self.system = str(facts["wal"]["system"])
        mapping = dict(request.tablespaces)
        if isinstance(target, Sandbox):
            mapping = {link.target: str(target.folder / "tablespaces" / Path(link.path).name) for link in layout.links}
        self.delta = require_restorable(self.root, self.system, delta=request.delta)
        self.places = places_of(layout.links, mapping, self.root, delta=self.delta)
        self.owner = owner_of(self.root)
        self.put: set[Path] = set()
        """Files written here, which are not as in the backup."""

    def run(self, streams: Streams, *, proving: bool) -> None:
        new = [path for path in (self.root, *self.places.values()) if is_empty(path)]
        absent = [path for path in new if not path.exists()]
        try:
            self._prepare()
            task = f"{self.root}: restore"
            self.context.progress.begin(task, self.layout.size)
            maker = ThreadPoolExecutor(1, "make")
            try:
                made = {entry.path: maker.submit(self._make, entry) for entry in self.layout.in_order()}

                def local(path: str) -> str:
                    made[path].result()
                    return self._path(path)

                writer = Scatter(self.layout, local, self.context, delta=self.delta, durable=not proving)
                writer.run(streams, task)
                for file in made.values():
                    file.result()
            finally:
                maker.shutdown(cancel_futures=True)
            self.context.progress.end(task)
            if self.delta:
                self.report.written = writer.written
            if not proving:
                self._settings()
            self._modes()
            if not proving:
                self._sync()
            self._finish(durable=not proving)
        except OSError as error:
            self._undo(new, absent)
            raise SourceError(
                f"cannot restore into {self.root}: {error.strerror}: {error.filename}",
                hint="See that there is room, and the rights to write there; then start it again.",
            ) from error
        except BaseException:
            self._undo(new, absent)
            raise

    def _path(self, path: str) -> str:
        """As a text: there are as many of them as files, and more."""
        return f"{self.root}/{_LATE if path == CONTROL else path}"

    def _prepare(self) -> None:
        """Directories and links; the last moment at which nothing has been changed is before."""
        for folder in (self.root, *self.places.values()):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._own(folder)
        (self.root / MARKER).write_text(self.system + "\n")
        self._own(self.root / MARKER)
        if self.delta:
            (self.root / CONTROL).unlink(missing_ok=True)
            self._clear()
        for path in sorted({*ALWAYS, *self.layout.folders, *self.places} - {"", "."}):
            real = self.root / path
            if path in self.places:
                if real.is_symlink():
                    continue
                real.symlink_to(self.places[path])
            elif real.is_dir():
                continue
            else:
                real.mkdir(mode=0o700)
            self._own(real)

    def _make(self, entry: Entry) -> None:
        """The file, in its full size."""
        path = self._path(entry.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if self.delta else os.O_EXCL)
        handle = os.open(path, flags, 0o600)
        try:
            if os.fstat(handle).st_size != entry.size:
                os.ftruncate(handle, entry.size)
            os.fchmod(handle, entry.mode)
            if self.owner:
                os.fchown(handle, self.owner.user, self.owner.group)
        finally:
            os.close(handle)

    def _clear(self) -> None:
        """Takes away what the backup does not have, or has as something else. A link of a tablespace, and one at `pg_wal`,
        stays; nobody follows any other.
        """
        removed = 0
        wanted = {link.path: self.places[link.path] for link in self.layout.links}
        for path, mode in list(_walk(self.root)):
            real = self.root / path
            if not os.path.lexists(real) or path == MARKER:
                continue
            if stat.S_ISLNK(mode):
                keep = path == "pg_wal" or (path in wanted and real.resolve() == wanted[path].resolve())
                if not keep and path.startswith("pg_tblspc/"):
                    self.report.warnings.append(
                        f"{real.readlink()} held a tablespace that the backup does not have there; it was left as it is"
                    )
            elif stat.S_ISDIR(mode):
                keep = path in self.layout.folders or path in ALWAYS
            else:
                keep = path in self.layout.files and stat.S_ISREG(mode) and path != CONTROL
            if not keep:
                removed += 1
                shutil.rmtree(real) if stat.S_ISDIR(mode) else real.unlink()
        if removed:
            self.context.progress.note(
                f"{removed} files and folders that the backup does not have were removed from {self.root}"
            )

    def _settings(self) -> None:
        """What makes the directory recover by itself when it is started."""
        for name in _UNWANTED:
            (self.root / name).unlink(missing_ok=True)
        auto, conf = _text(self.root / recovery.AUTO), _text(self.root / recovery.MAIN)
        self.report.warnings += recovery.remarks(auto, conf)
        new = recovery.settings(self.request.recovery, self.request.restore_command)
        if conf:
            more = recovery.needed(auto, conf, self.facts.get("settings", {}))
            for name, value in more.items():
                self.report.warnings.append(
                    f"{name} is set to {value}, as the server had it: a recovery needs no less, and its files say otherwise"
                )
            new |= more
        merged = recovery.merge(auto, new)
        self._put(recovery.AUTO, merged)
        self._put(recovery.SIGNAL, "")
        missing = {
            recovery.MAIN: recovery.minimal(self.facts),
            recovery.HBA: recovery.HBA_TEXT,
            recovery.IDENT: "",
        }
        written = [name for name in missing if not (self.root / name).exists()]
        for name in written:
            self._put(name, missing[name])
        if recovery.MAIN in written:
            self.report.warnings.append(
                f"the backup has no {recovery.MAIN}: the server keeps its settings outside of its data directory (as Debian "
                f"does below /etc/postgresql), so they are not in the backup. A small one was written into {self.root}; "
                "bring your own there, or start the server with config_file."
            )
        if not self.request.restore_command:
            self.context.progress.note("No log is asked for: the recovery ends where the backup ended")

    def _put(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_text(text, errors="surrogateescape")
        path.chmod(0o600)
        self._own(path)
        self.put.add(path)

    def _modes(self) -> None:
        for path in sorted(self.layout.folders, reverse=True):
            (self.root / path).chmod(self.layout.folders[path])

    def _sync(self) -> None:
        self.context.progress.note("Waiting until everything is on the disk")
        folders = {self.root / path for path in self.layout.folders} | {self.root, *self.places.values()}
        folders |= {self.root / path for path in ALWAYS}
        # Those with content were made durable when they were written.
        files = {Path(self._path(path)) for path, entry in self.layout.files.items() if not entry.size} | self.put
        with ThreadPoolExecutor(max(4, self.context.jobs), "sync") as pool:
            for _ in pool.map(_fsync, [path for path in sorted(files) if path.exists()]):
                pass
            for _ in pool.map(_fsync, sorted(folders)):
                pass

    def _finish(self, *, durable: bool) -> None:
        refuse_running(self.root)
        (self.root / _LATE).replace(self.root / CONTROL)
        if durable:
            _fsync((self.root / CONTROL).parent)
        (self.root / MARKER).unlink()

    def _own(self, path: Path) -> None:
        if self.owner:
            os.lchown(path, self.owner.user, self.owner.group)

    def _undo(self, new: list[Path], made: list[Path]) -> None:
        """What was empty is empty again."""
        if self.delta and self.root.exists():
            self.context.progress.warn(
                f"{self.root} is half rewritten and cannot be started; --delta goes on from here when it is called again"
            )
        for path in new:
            if path in made:
                shutil.rmtree(path, ignore_errors=True)
            elif path.is_dir():
                for child in path.iterdir():
                    if child.is_dir() and not child.is_symlink():
                        shutil.rmtree(child, ignore_errors=True)
                    else:
                        with contextlib.suppress(OSError):
                            child.unlink()


def _local(root: Path) -> scatter.Local:
    return lambda path: f"{root}/{path}"


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    """Path and mode (of the link itself) of all that is in the directory, what lies deeper first; into tablespaces as well, but
    there only below what belongs to PostgreSQL.
    """
    links = [path.name for path in (root / "pg_tblspc").glob("*") if path.is_symlink()]
    yield from _below(root, "")
    for name in links:
        for child in _names(root / "pg_tblspc" / name):
            if child.startswith("PG_"):
                yield from _below(root, f"pg_tblspc/{name}/{child}/")
                yield f"pg_tblspc/{name}/{child}", (root / "pg_tblspc" / name / child).lstat().st_mode
    if (root / "pg_wal").is_symlink():
        yield from _below(root, "pg_wal/")


def _below(root: Path, prefix: str) -> Iterator[tuple[str, int]]:
    for name in _names(root / prefix):
        mode = (root / prefix / name).lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _below(root, f"{prefix}{name}/")
        yield f"{prefix}{name}", mode


def _names(folder: Path) -> Iterable[str]:
    return sorted(child.name for child in folder.iterdir()) if folder.is_dir() else []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="surrogateescape")
    except FileNotFoundError:
        return ""


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _phase(report: RestoreReport, context: Context, name: str) -> Iterator[None]:
    started = context.clock.monotonic()
    try:
        yield
    finally:
        report.seconds[name] = context.clock.monotonic() - started
