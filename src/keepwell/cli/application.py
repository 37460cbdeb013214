"""The tree of commands, each imported only when it runs, and the global options that every one of them takes."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from keepwell.cli.commands import ABOUT, ALIASES, COMMANDS, FOOT, GROUPS, Entry
from keepwell.cli.session import Session

_WIDTH = 110


class LazyGroup(TyperGroup):
    """A group that knows its commands from a table."""

    entries: Mapping[str, Entry] = COMMANDS
    globals: tuple[TyperOption, ...] = ()

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if self.entries is COMMANDS:
            cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in self.entries:
            return None
        if self.entries is COMMANDS and cmd_name in GROUPS:
            return _inner_group(cmd_name, self.globals)
        module = importlib.import_module(f"keepwell.cli.{self.entries[cmd_name].module}")
        app = typer.Typer(rich_markup_mode=None, add_completion=False)
        app.command(cmd_name, cls=_Command, context_settings=_SETTINGS)(module.run)
        command: Any = get_command(app)
        # In a raw docstring the mark of a paragraph that is not to be wrapped is two characters.
        command.help = (command.help or "").replace("\\b\n", "\b\n")
        command.params += self.globals
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names: Any = dict.fromkeys(self.entries)
        self.commands = names  # for "did you mean"
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self.entries.items():
            sections.setdefault(entry.section, []).append((name, entry.line))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(10), line) for name, line in rows])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        self.format_commands(ctx, formatter)
        _options(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _epilog(self.epilog, formatter)


class _Command(TyperCommand):
    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        # `[ENVIRONMENT]` and `BACKUP`, as the manual writes them, not `[[ENVIRONMENT]]` and `{BACKUP}`.
        return [piece.replace("[[", "[").replace("]]", "]").strip("{}") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _options(self, ctx, formatter)


def _options(command: Any, ctx: Any, formatter: Any) -> None:
    """Arguments, the command's own options, then the global ones (without TyperCommand's angle brackets)."""
    sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": [], "Global options": []}
    for param in command.get_params(ctx):
        record = param.get_help_record(ctx)
        if record is None:
            continue
        if param.param_type_name == "argument":
            text = record[1].removesuffix("[required]").strip() or _ARGUMENTS.get(param.name or "", "")
            sections["Arguments"].append((str(param.metavar), text))
        else:
            everywhere = param.name in _GLOBAL or "--help" in param.opts
            sections["Global options" if everywhere else "Options"].append(record)
    for title, rows in sections.items():
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows, col_max=28)


_ARGUMENTS = {
    "backup": "Its id, or for example production@latest, production@proven, production@2026-11-22, or production: its latest."
}


def _epilog(text: str | None, formatter: Any) -> None:
    if text:
        formatter.write("\n" + text + "\n")


def _root(
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            metavar="FILE",
            help="The policy; without it KEEPWELL_POLICY, else keepwell.toml here or in a folder above.",
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            "--key-file",
            metavar="FILE",
            envvar="KEEPWELL_KEY_FILE",
            show_envvar=True,
            help="Open the vault with this key file instead of the key that the policy names.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document (docs/reference/json.md), also for errors.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only answers, warnings and errors.")] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours; NO_COLOR does the same.")] = False,
) -> None:
    pass


_GLOBAL = ("policy", "key_file", "as_json", "quiet", "no_color")
_SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"], "max_content_width": _WIDTH}


def _remember(ctx: Any, param: TyperOption, value: Any) -> Any:
    """Puts a global option where it is used; said twice, the later one (nearer to the command) counts."""
    session: Session = ctx.obj
    if value is None or value is False:
        return value
    match param.name:
        case "policy":
            session.policy = value
        case "key_file":
            session.key_file = value
        case "as_json":
            session.output.as_json = True
        case "quiet":
            session.output.quiet = True
        case "no_color":
            session.output.without_color()
    return value


def _inner_group(name: str, options: tuple[TyperOption, ...]) -> TyperGroup:
    group = _group(name, COMMANDS[name].line, GROUPS[name], options, epilog=None)
    group.params += options
    return group


def _group(
    name: str, about: str, entries: Mapping[str, Entry], options: tuple[TyperOption, ...], epilog: str | None
) -> LazyGroup:
    group = LazyGroup(
        name=name,
        rich_markup_mode=None,
        no_args_is_help=True,
        help=about,
        epilog=epilog,
        context_settings=_SETTINGS,
    )
    group.entries, group.globals = entries, options
    return group


def build() -> LazyGroup:
    """The program `keepwell` as one command."""
    carrier = typer.Typer(rich_markup_mode=None, add_completion=False)
    carrier.command()(_root)
    mine: list[Any] = list(get_command(carrier).params)
    for option in mine:
        option.callback, option.expose_value = _remember, False
    below: list[Any] = [copy.copy(option) for option in mine]
    for option in below:
        option.envvar, option.show_envvar = None, False  # read once, at the top, so that it overrides no option
    group = _group("keepwell", ABOUT, COMMANDS, tuple(below), FOOT)
    group.params += mine
    return group
