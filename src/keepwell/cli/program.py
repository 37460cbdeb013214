"""One run of the program, whatever the command."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

from keepwell.cli import failures
from keepwell.cli.output import Output, prepare_streams
from keepwell.cli.session import Session, catch_signals
from keepwell.core.caller import called


def run(args: Sequence[str]) -> int:
    """Runs one command; returns the exit code (docs/reference/exit-codes.md) and raises nothing."""
    args = list(args)
    # What a run makes lives to its end or is freed by its count; to look for cycles every 700 objects takes a twentieth of it.
    gc.set_threshold(50_000, 50, 50)
    atexit.register(gc.freeze)  # nor for what is left at the end of the process
    prepare_streams()
    # Known before the options are parsed: a mistake in the options is reported as JSON too.
    before_end = args[: args.index("--")] if "--" in args else args
    session = Session(output=Output(as_json="--json" in before_end, color="--no-color" not in before_end), args=args)
    try:
        catch_signals()
        code = _run(args, session)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read our output has gone (`keepwell list | head`); keep the interpreter's last flush quiet too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except BaseException as error:  # everything that can end a run gets its message and its code here
        return _report(error, session.output)


def _run(args: list[str], session: Session) -> int:
    import typer

    from keepwell.cli.application import build

    group = build()
    try:
        with called("command", args), group.make_context("keepwell", args, obj=session) as context:
            code: Any = group.invoke(context)
            return code if isinstance(code, int) else 0
    except typer.Exit as stop:  # --help
        return stop.exit_code
    except typer.TyperException as error:
        return _usage(error, session.output)


def _usage(error: Any, output: Output) -> int:
    """A mistake in the command line, as the parser reports it."""
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" and not output.as_json:
        sys.stderr.write(error.format_message() + "\n")
        return 2
    command = context.command_path if context else "keepwell"
    hint = f"`{command} --help` shows how to call it."
    message = "no command was given" if type(error).__name__ == "NoArgsIsHelpError" else error.format_message()
    failure = failures.Failure("UsageError", message, hint, 2)
    output.document(failure.json())
    output.fail(failure.message, failure.hint)
    return failure.exit_code


def _report(error: BaseException, output: Output) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    failure = failures.failure_of(error)
    failures.show_trace(error)
    output.document(failure.json())
    output.fail(failure.message, failure.hint)
    return failure.exit_code
