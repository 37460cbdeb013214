"""Log lines of processes that run by themselves (`serve`, `worker`, `wal receive`): for people at a terminal, else JSON.

    logs.configure()                                # once, at the start of the process; lines go to standard error
    log = logs.get("engine")                        # any time, also before `configure`
    with logs.bound(run=ident, verb="backup", environment="production"):
        log.info("begins", due=iso(job.due))        # every line of this thread in here has the three
    context.progress = logs.Logged(log)             # notes and warnings of an operation become lines, from any thread

A line of JSON has `time` (UTC), `level`, `logger`, `event`, what is bound, and what was given. Every value goes through
`core.secrets.redacted`: no secret that this process ever held stands in a line. What libraries log through `logging` goes
the same way. An exception (`log.error("failed", exc_info=error)`) is told as `error` (kind, message and hint of a
KeepwellError; of any other its kind only, since its text may hold anything) and `at`, the places it came through.

Around a whole run use `operations.record.recorded` (audit entry and run log); it binds `run`, `verb`, `environment` itself.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO

import structlog

from keepwell.core.clock import Clock, SystemClock, iso
from keepwell.core.errors import KeepwellError
from keepwell.core.progress import Progress, Silent
from keepwell.core.secrets import redacted

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

_FRAMES = 12
_ROOT = "keepwell"


def configure(
    *,
    as_json: bool | None = None,
    stream: TextIO | None = None,
    level: int = logging.INFO,
    foreign: int = logging.WARNING,
    clock: Clock | None = None,
) -> None:
    """Sets up the whole process; a second call takes the place of the first.

    `as_json` None: lines for people where the stream (standard error) is a terminal, else JSON. Lines of keepwell from
    `level` on, of libraries from `foreign` on.
    """
    out = stream or sys.stderr
    json_lines = not out.isatty() if as_json is None else as_json
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _stamp(clock or SystemClock()),
        _exception,
        _redact,
    ]
    last: Processor
    if json_lines:
        last = structlog.processors.JSONRenderer(sort_keys=False)
    else:
        last = structlog.dev.ConsoleRenderer(
            colors=not os.environ.get("NO_COLOR"), timestamp_key="time", sort_keys=False, pad_event_to=0
        )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, last],
            foreign_pre_chain=shared,
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(foreign)
    logging.getLogger(_ROOT).setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,  # a later `configure` must reach loggers that were made before
    )


def get(name: str) -> FilteringBoundLogger:
    """A logger; its lines say `logger: keepwell.<name>`. Silent below the level WARNING until `configure` was called."""
    logger: FilteringBoundLogger = structlog.get_logger(f"{_ROOT}.{name}")
    return logger


@contextlib.contextmanager
def bound(**values: Any) -> Iterator[None]:
    """What every line of this thread says while the block lasts."""
    with structlog.contextvars.bound_contextvars(**values):
        yield


class Logged:
    """Progress whose notes and warnings become log lines, and go on to `inner`."""

    def __init__(self, log: FilteringBoundLogger, inner: Progress | None = None) -> None:
        # Operations report from threads of their own, which do not see what this one has bound.
        self._log = log.bind(**structlog.contextvars.get_contextvars())
        self._inner = inner or Silent()

    def begin(self, task: str, total: int | None = None, unit: str = "bytes") -> None:
        self._inner.begin(task, total, unit)

    def advance(self, task: str, amount: int = 1) -> None:
        self._inner.advance(task, amount)

    def end(self, task: str) -> None:
        self._inner.end(task)

    def note(self, text: str) -> None:
        self._log.info(text)
        self._inner.note(text)

    def warn(self, text: str) -> None:
        self._log.warning(text)
        self._inner.warn(text)


def about(error: BaseException) -> dict[str, Any]:
    """`{"error": {"kind", "message"?, "hint"?}, "at": [...]}`: what may be told of an exception."""
    told: dict[str, Any] = {"kind": type(error).__name__}
    if isinstance(error, KeepwellError):
        told["message"] = error.message
        if error.hint:
            told["hint"] = error.hint
    elif isinstance(error, OSError) and error.strerror:
        told["message"] = error.strerror
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    found: dict[str, Any] = redacted({"error": told, "at": [f"{f.filename}:{f.lineno} {f.name}" for f in frames]})
    return found


def _stamp(clock: Clock) -> Processor:
    def stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        now = clock.now()
        return {"time": f"{iso(now)[:-1]}.{now.microsecond // 1000:03d}Z", **event}

    return stamp


def _exception(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    given = event.pop("exc_info", None)
    event.pop("stack_info", None)
    error = given if isinstance(given, BaseException) else given[1] if isinstance(given, tuple) else None
    if given is True:
        error = sys.exc_info()[1]
    return {**event, **about(error)} if error is not None else event


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # What begins with an underscore is how structlog hands a record on; it is taken out before a line is made.
    return {key: value if key.startswith("_") else redacted({key: value})[key] for key, value in event.items()}
