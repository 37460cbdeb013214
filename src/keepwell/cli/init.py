"""`keepwell init`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from keepwell.cli import ask
from keepwell.cli.output import Output
from keepwell.cli.session import Session
from keepwell.core.errors import UsageError

if TYPE_CHECKING:
    from keepwell.operations.draft import SourceType
    from keepwell.operations.init import InitResult
    from keepwell.policy.template import Answers


def run(
    ctx: typer.Context,
    project: Annotated[str | None, typer.Option(metavar="NAME", help="What the project is called.")] = None,
    store: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Where the vault is to be: a folder, s3://…, gs://…, az://…, sftp://…."),
    ] = None,
    passphrase_env: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Protect the vault with the passphrase in this variable, not with a key file."
        ),
    ] = None,
    environment: Annotated[
        str | None, typer.Option(metavar="NAME", help="The first environment.  [default: production]")
    ] = None,
    postgres_env: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Protect the PostgreSQL database whose URL is in this variable. Repeatable."),
    ] = None,
    sqlite: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Protect this SQLite file. Repeatable.")
    ] = None,
    files: Annotated[list[Path] | None, typer.Option(metavar="PATH", help="Protect this folder. Repeatable.")] = None,
    git: Annotated[
        list[Path] | None, typer.Option(metavar="PATH", help="Protect this Git repository. Repeatable.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")] = False,
) -> None:
    """Write a policy, make the vault and its key.

    Asks for what the options do not say. Nothing that exists is changed: where keepwell.toml is already there, only
    the vault and the key that it names are made, and where those are there too, it makes sure that the key fits.
    With --key-file the key is made there.
    """
    given = {
        "--project": project,
        "--store": store,
        "--passphrase-env": passphrase_env,
        "--environment": environment,
        "--postgres-env": postgres_env,
        "--sqlite": sqlite,
        "--files": files,
        "--git": git,
    }
    session: Session = ctx.obj
    path = _place(session.policy)
    exists = os.path.lexists(path)
    if exists:
        _refuse_ignored(path, [flag for flag, value in given.items() if value])
        if not yes:
            _confirm(f"{path} exists. Make the vault and the key that it names, where they are missing?")
    else:
        if not yes and not ask.at_terminal():
            _refuse_to_guess(store, [postgres_env, sqlite, files, git])
        answers = _answers(
            session, path, project, store, passphrase_env, environment, postgres_env, sqlite, files, git, ask=not yes
        )
        _write(session.output, path, answers, confirm=not yes)
    _make(session, path, written=not exists)


def _place(given: Path | None) -> Path:
    """Where the policy is or will be. A policy in a folder above is another project's, not this one's."""
    from keepwell.policy.load import NAME, VARIABLE

    path = given or Path(os.environ.get(VARIABLE) or NAME)
    return path / NAME if path.is_dir() else path


def _refuse_ignored(path: Path, flags: list[str]) -> None:
    if flags:
        raise UsageError(
            f"{path} exists already and is not changed: {', '.join(flags)} would have no effect",
            hint="Change it in the policy, or give --policy with the name of a new one.",
        )


def _refuse_to_guess(store: str | None, sources: list[object]) -> None:
    missing = [] if store else ["--store ADDRESS"]
    missing += [] if any(sources) else ["--postgres-env NAME, --sqlite PATH, --files PATH or --git PATH"]
    raise UsageError(
        "there is no terminal to ask questions at" + (f"; still needed: {'; '.join(missing)}" if missing else ""),
        hint=f"Run it again with {'these and ' if missing else ''}--yes.",
    )


def _confirm(text: str) -> None:
    if not ask.at_terminal():
        raise UsageError("there is no terminal to ask at", hint="Run it again with --yes.")
    if ask.question(f"{text} (yes/no)", "yes").lower() not in {"y", "yes"}:
        raise UsageError("not confirmed", hint="Nothing was written.")


def _answers(
    session: Session,
    path: Path,
    project: str | None,
    store: str | None,
    passphrase_env: str | None,
    environment: str | None,
    postgres_env: list[str] | None,
    sqlite: list[Path] | None,
    files: list[Path] | None,
    git: list[Path] | None,
    *,
    ask: bool,
) -> Answers:
    from keepwell.operations.draft import environment_of, slug
    from keepwell.policy.template import Answers

    folder = path.absolute().parent

    def answer(given: str | None, text: str, default: str = "") -> str:
        return given if given is not None else _question(text, default) if ask else default

    if session.key_file and passphrase_env:
        raise UsageError("--key-file and --passphrase-env are two kinds of key", hint="Choose one of them.")
    project = answer(project, "What is the project called?", folder.name or "backups")
    store = answer(store, "Where shall the backups be? A folder on another disk, s3://…, gs://…, az://… or sftp://…")
    if not store:
        raise UsageError("it is not said where the vault shall be", hint="Give --store ADDRESS.")
    key = None
    if not passphrase_env:
        key = str(session.key_file or "") or answer(None, "Where shall the key be?", str(_usual_key(slug(project))))
    environment = answer(environment, "Which environment is this?", "production")
    if not (postgres_env or sqlite or files or git) and ask:
        variable = _question("Which variable holds the URL of the PostgreSQL database? (empty: none)")
        database = _question("Which SQLite file? (empty: none)")
        uploads = _question("Which folder of files? (empty: none)")
        code = _question("Which Git repository? (empty: none)")
        postgres_env = [variable] if variable else []
        sqlite, files = [Path(database)] if database else [], [Path(uploads)] if uploads else []
        git = [Path(code)] if code else []
    sources: list[tuple[SourceType, str]] = [("postgres", name) for name in postgres_env or []]
    sources += [("sqlite", _beside(place, folder)) for place in sqlite or []]
    sources += [("files", _beside(place, folder)) for place in files or []]
    sources += [("git", _beside(place, folder)) for place in git or []]
    if not sources:
        raise UsageError(
            "it is not said what to protect",
            hint="Give --postgres-env NAME, --sqlite PATH, --files PATH or --git PATH.",
        )
    return Answers(
        project,
        _address(store),
        (environment_of(environment, sources),),
        _beside(Path(key), folder) if key else None,
        passphrase_env,
    )


def _question(text: str, default: str = "") -> str:
    return ask.question(text, default)


def _usual_key(name: str) -> Path:
    """Not beside the policy, which is in Git."""
    import platformdirs

    return platformdirs.user_config_path("keepwell") / f"{name or 'vault'}.key"


def _beside(place: Path, folder: Path) -> str:
    """As given where that means the same for the policy, else the whole path."""
    place = place.expanduser()
    return str(place) if place.is_absolute() or folder == Path.cwd() else str(Path.cwd() / place)


def _address(store: str) -> str:
    return store if "://" in store else "file://" + quote(str(Path(store).expanduser().absolute()))


def _write(output: Output, path: Path, answers: Answers, *, confirm: bool) -> None:
    from keepwell.operations.init import write_policy

    if confirm:
        for environment in answers.environments:
            output.remind(f"{path}: {environment.name} of {answers.project}, into {answers.store}")
            for source in environment.sources:
                output.remind(f"  {source.name}: {source.type} {source.at}")
        _confirm("Write it?")
    write_policy(path, answers)


def _make(session: Session, path: Path, *, written: bool) -> None:
    from keepwell.operations.init import init

    output = session.output
    session.policy = path
    if written:
        output.done(f"Wrote the policy {path}.")
    with session.context() as context:
        result = init(session.load(), context, policy_written=written)
    output.document(result.json())
    _tell(output, result)


def _tell(output: Output, result: InitResult) -> None:
    if not result.vault_created:
        output.done(f"The vault at {result.store} is there, and the {result.role} key opens it. Nothing was changed.")
        return
    output.done(f"Made the vault at {result.store}.")
    if result.key_file:
        output.done(f"Made its key {result.key_file}.")
        output.remind(
            f"KEEP A COPY OF THE KEY {result.key_file} AWAY FROM THIS MACHINE AND FROM THE VAULT.\n"
            "Without it nobody, not even you, can read the backups. Add a passphrase as a second way in: keepwell key add"
        )
    else:
        output.remind(
            f"KEEP THE PASSPHRASE ({result.passphrase}) WRITTEN DOWN AWAY FROM THIS MACHINE.\n"
            "Without it nobody, not even you, can read the backups. Add a key file as a second way in: "
            "keepwell key add --to-file FILE"
        )
    output.done("Next: keepwell doctor, then keepwell backup.")
