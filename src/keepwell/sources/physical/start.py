"""Starting a restored cluster: its recovery first, where nobody reaches it, then the server with its own settings."""

from __future__ import annotations

import contextlib
import dataclasses
import pwd
from collections.abc import Iterator
from pathlib import Path

from keepwell.core.errors import KeepwellError, ProgramMissing, SourceError
from keepwell.core.streams import Context, Facts
from keepwell.core.workfolder import WorkFolder
from keepwell.sources.base import RestoreReport, RestoreRequest
from keepwell.sources.physical.cluster import RecoveringServer, failure_in, show_reached
from keepwell.sources.physical.directory import owner_of
from keepwell.sources.physical.feeder import Feeder
from keepwell.sources.physical.target import LogSource
from keepwell.sources.postgres.programs import Programs, servers

LOG = "keepwell-start.log"
_START_SECONDS = 600


def programs_for(facts: Facts) -> Programs:
    """Of the very major version: no other can read the files. Raises ProgramMissing."""
    major = int(facts["server_version"]) // 10000
    hint = (
        f"Install it: `apt-get install postgresql-{major}` (Debian, Ubuntu; from apt.postgresql.org where the distribution "
        "has another version)."
    )
    try:
        found = servers(major)
    except ProgramMissing as error:
        raise ProgramMissing(error.message, hint=hint) from error
    if found.major != major:
        raise ProgramMissing(
            f"the files of PostgreSQL {major} can be read by no other major version, and here is only {found.version}",
            hint=hint,
        )
    return found


def recover_and_start(
    facts: Facts, data: Path, request: RestoreRequest, context: Context, report: RestoreReport
) -> None:
    """Runs the recovery that the directory's settings ask for, and leaves the server running with its own settings.

    What was reached goes into the report. Raises SourceError, Interrupted, and what `request.log` raises.
    """
    programs = programs_for(facts)
    with _folder() as folder:
        settings = {"hba_file": str(folder / "hba"), "ident_file": str(folder / "ident")}
        put_readable(folder / "hba", "local all all reject\n")
        put_readable(folder / "ident", "")
        server = RecoveringServer(
            programs, folder / "server", data, settings=settings, clock=context.clock, cancelled=context.cancelled
        )
        context.progress.note(f"Recovering {data}")
        try:
            with feeding(server, folder, request.log) as command:
                server.change(settings | command)
                server.recover()
            report.reached = server.reached()
        except SourceError as error:
            raise type(error)(
                error.message,
                hint=f"{error.hint} The files are restored in {data}; the recovery goes on when a server is started there.",
            ) from error
        finally:
            server.stop()
    if not request.log and not request.restore_command:
        report.warnings.append("no log behind the backup was used: the cluster is as it was when the backup ended")
    context.progress.note(f"Recovered to {show_reached(report.reached)}; starting the server with its own settings")
    _start(programs, data, report)


def put_readable(path: Path, text: str) -> None:
    """For the server's own user, whatever the umask."""
    path.write_text(text)
    path.chmod(0o644)


@contextlib.contextmanager
def feeding(server: RecoveringServer, folder: Path, log: LogSource | None) -> Iterator[dict[str, str]]:
    """For the block, the setting by which the server gets log from here; none: its own. What kept the log from being given is
    raised rather than what the server made of it.
    """
    if log is None:
        yield {}
        return
    with Feeder(folder / "log", server.data, log, owner_of(server.data)) as feeder:
        try:
            yield {"restore_command": feeder.command}
        except SourceError as error:
            if isinstance(feeder.error, KeepwellError):
                raise feeder.error from error
            if feeder.error:
                raise SourceError(
                    f"the log could not be handed to the server: {feeder.error}",
                    hint="See that there is room on the disk.",
                ) from feeder.error
            raise


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """Where the server's own user can get to."""
    work = WorkFolder("recovery")
    work.path.chmod(0o711)
    try:
        yield work.path
    finally:
        work.remove(quietly=True)


def _start(programs: Programs, data: Path, report: RestoreReport) -> None:
    log = data / LOG
    log.unlink(missing_ok=True)
    starter = _Starter(programs, data)
    code, said = starter.run("start", "-w", "-s", "-t", str(_START_SECONDS), "-l", str(log))
    if code:
        text = failure_in(log.read_text(errors="replace")) if log.exists() else said
        raise SourceError(
            f"the cluster in {data} is recovered to {show_reached(report.reached)}, but its server does not start with its "
            f"own settings: {text}",
            hint=f"Mend what the message names (postgresql.conf in {data}), then: pg_ctl -D {data} start",
        )


@dataclasses.dataclass(frozen=True)
class _Starter:
    """pg_ctl for a directory, as the user whose it is."""

    programs: Programs
    data: Path

    def run(self, action: str, *options: str) -> tuple[int, str]:
        import os
        import subprocess
        import tempfile

        command = [self.programs.path("pg_ctl"), action, "-D", str(self.data), *options]
        identity: dict[str, object] = {}
        if os.geteuid() == 0:
            user = pwd.getpwuid(self.data.stat().st_uid)
            identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        # A file and not a pipe: the server would keep the pipe open, and nobody would see its end.
        with tempfile.TemporaryFile() as said:
            try:
                code = subprocess.call(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    cwd="/",
                    start_new_session=True,
                    **identity,  # type: ignore[arg-type]  # keywords by name
                )
            except OSError as error:
                raise SourceError(
                    f"cannot run {command[0]} as the owner of {self.data}: {error.strerror}",
                    hint="Its folder must be open to that user.",
                ) from error
            said.seek(0)
            return code, said.read().decode(errors="replace").strip()[-600:]


def stop(programs: Programs, data: Path) -> None:
    """Ends the server in that directory. Raises SourceError."""
    code, said = _Starter(programs, data).run("stop", "-m", "fast", "-w", "-s", "-t", str(_START_SECONDS))
    if code:
        raise SourceError(f"the server in {data} could not be stopped: {said}", hint="Stop it with pg_ctl.")
