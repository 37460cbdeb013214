"""Reading a repository into the streams `bundle-head` and `objects` (see `bundle`)."""

from __future__ import annotations

from pathlib import Path

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Facts, Sink, StreamWriter
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.git import lfs, memory, objects, refs, remote
from keepwell.sources.git.bundle import HEAD, OBJECTS, head_of
from keepwell.sources.git.ids import Ids
from keepwell.sources.git.memory import Memory, width_of
from keepwell.sources.git.objects import Listed
from keepwell.sources.git.program import version
from keepwell.sources.git.refs import Refs
from keepwell.sources.git.repository import Repository, open_repository
from keepwell.sources.git.spec import Spec

MOST_GARBAGE = 0.1
"""Share of objects that no ref leads to, beyond which everything is packed anew."""
MOST_GROWTH = 1.0
"""How many times the size of the first pack the later ones may have together; packed in one they are smaller."""


def capture(spec: Spec, sink: Sink, context: Context) -> Facts:
    """Read all refs and the objects that the last backup does not have; lay them over what it had.

    Raises SourceError for what is no repository, for a shallow clone, and where a ref is broken or an object is missing
    or damaged; ProgramMissing without git. A repository without commits is a valid, empty one. Facts, besides the common
    ones: `root` (path or URL), `version` (of git), `format` (sha1 or sha256), `bare`, `refs` (how many), `head`
    (the ref that HEAD names, or None), `at` (the object that it leads to, or None), `symbolic` (ref: ref), `objects` (that
    refs lead to), `stored` (objects in the stream), `segments`, `reused` (bytes not read again), `lfs` (pointers to
    files that are not in the repository), `digest` (of the refs).
    """
    with WorkFolder("git", context.work) as work:
        path = remote.mirror(spec, context.cache or work, context) if spec.url else spec.path
        assert path is not None  # one of the two is always given
        repository = open_repository(path, spec.shown, work, context)
        found = refs.read(repository.git, context)
        cached = memory.file_of(context.cache, spec.shown) if context.cache else None
        old = memory.load(cached) if cached else None
        run = _Capture(repository, found, sink.stream(OBJECTS), work, context)
        usable = old is not None and old.format == repository.format and sink.find(old.pieces) is not None
        now = run.run(old if usable else None)
        head = sink.stream(HEAD)
        head.write(head_of(found, repository.format, len(now.known)))
        head.close()
        if cached:
            memory.save(cached, now)
        return {
            "type": "git",
            "root": spec.shown,
            "version": version(context),
            "streams": [HEAD, OBJECTS],
            "bytes": now.size,
            "format": repository.format,
            "bare": repository.bare or bool(spec.url),
            "refs": len(found.by_name),
            **found.facts(),
            "objects": len(now.known) - len(now.garbage),
            "stored": len(now.known),
            "segments": len(now.segments),
            "reused": run.reused,
            "lfs": now.lfs,
            "digest": found.digest,
            "warnings": _warnings(repository, found, now),
        }


class _Capture:
    def __init__(self, repository: Repository, found: Refs, writer: StreamWriter, work: Path, context: Context) -> None:
        self.repository, self.refs, self.writer = repository, found, writer
        self.work, self.context = work, context
        self.reader = repository.reader
        self.task = f"{Path(repository.shown).name}: objects"
        self.reused = 0

    def run(self, old: Memory | None) -> Memory:
        """What is in the stream now."""
        self.context.progress.begin(self.task)
        now = (old and self.grown(old)) or self.anew()
        self.writer.close()
        self.context.progress.end(self.task)
        return now

    def anew(self) -> Memory:
        now = Memory(self.repository.format, self.refs.tips, [], Ids(width_of(self.repository.format)))
        if now.tips:
            everything = objects.walk(self.reader, now.tips, (), self.work)
            self.append(now, objects.listed(everything, now.known, self.work / "wanted"))
        return now

    def grown(self, now: Memory) -> Memory | None:
        """The old stream with what is new behind it; None where it had better be packed anew."""
        tips, before = self.refs.tips, now.tips
        if not now.segments:
            return None
        wanted = None
        if tips != before:
            if sum(segment.size for segment in now.segments[1:]) > MOST_GROWTH * now.segments[0].size:
                return None
            left = objects.present(self.reader, before, self.work)
            if self.lost(before, left):
                found = set[bytes]()
                everything = objects.walk(self.reader, tips, (), self.work) if tips else iter(())
                wanted = objects.listed(everything, now.known, self.work / "wanted", found.add)
                now.garbage = {ident for ident in now.known if ident not in found}
                if len(now.garbage) > MOST_GARBAGE * len(now.known):
                    return None
            else:
                lines = objects.walk(self.reader, tips, left, self.work)
                wanted = objects.listed(lines, now.known, self.work / "wanted", now.garbage.discard)
            now.tips = tips
        for segment in now.segments:
            self.writer.boundary()
            if not self.writer.reuse(segment.pieces, segment.size):
                raise SourceError(
                    f"{self.repository.shown}: the vault lost what an earlier backup had, while this one ran",
                    hint="Take the backup again: it will read everything.",
                )
        self.reused = now.size
        self.context.progress.advance(self.task, self.reused)
        if wanted and wanted.count:
            self.append(now, wanted)
        return now

    def lost(self, before: list[str], left: list[str]) -> bool:
        """Whether something that was reachable from the tips before may not be any more."""
        gone = sorted(set(left) - set(self.refs.tips))
        if len(left) < len(before):
            return True
        return bool(gone) and any(objects.walk(self.reader, gone, self.refs.tips, self.work))

    def append(self, now: Memory, wanted: Listed) -> None:
        segment, idents = objects.pack(self.repository, wanted, self.writer, self.work, self.context, self.task)
        now.segments.append(segment)
        first = not now.has_lfs and lfs.attributes_name_lfs(self.reader, wanted.attributes, self.work)
        now.has_lfs = now.has_lfs or first
        if now.has_lfs:
            now.lfs += lfs.count_pointers(self.reader, idents, self.work)
        if first and len(now.known):
            now.lfs += lfs.count_pointers(self.reader, now.known, self.work)
        now.known = now.known.joined(idents)


def _warnings(repository: Repository, found: Refs, now: Memory) -> list[str]:
    warnings = []
    if not found.tips:
        warnings.append("the repository has no commits")
    if now.lfs:
        files = "1 file is" if now.lfs == 1 else f"{now.lfs:,} files are"
        warnings.append(
            f"{files} kept by Git LFS and not in the repository, so not in this backup: back up what `git lfs fetch --all` "
            "fetches (the folder lfs) as a source of type files"
        )
    assert repository.git.folder is not None
    stashes = repository.git.folder / "logs" / "refs" / "stash"
    try:
        count = stashes.read_bytes().count(b"\n") if "refs/stash" in found.by_name else 0
    except OSError:
        count = 0
    if count > 1:
        warnings.append(f"of {count} stashes only the newest has a ref; the others are not in this backup")
    if found.at and (modules := _submodules(repository, found.at)):
        warnings.append(f"{modules} submodules are repositories of their own and not in this backup")
    return warnings


def _submodules(repository: Repository, commit: str) -> int:
    """How many `.gitmodules` names."""
    asked = ("config", "--blob", f"{commit}:.gitmodules", "--name-only", "--get-regexp", r"^submodule\..*\.path$")
    return len(repository.reader.run(*asked, fails=True).splitlines())
