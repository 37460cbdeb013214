"""`keepwell store protect`."""

from __future__ import annotations

from typing import Annotated

import typer

from keepwell.cli.session import Session


def run(
    ctx: typer.Context,
    copy: Annotated[
        str | None, typer.Option(metavar="NAME", help="The bucket of this copy.  [default: the vault's own]")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="Only say what would be set.")] = False,
) -> None:
    """Set what the strategy demands of an S3 bucket: encryption at rest, versioning, no public access, TLS, lifecycle.

    Where the policy says lock, object lock too. Nothing that is there already is taken away. Needs an administrator's
    credentials, in the usual variables (AWS_ACCESS_KEY_ID, …), and the extra aws. What keepwell doctor finds about the
    bucket afterwards is shown.
    """
    from keepwell.operations.protection import protect

    session: Session = ctx.obj
    with session.context() as context:
        result = protect(session.load(), context, copy=copy, dry_run=dry_run)
    output = session.output
    output.document(result.json())
    for what in result.changed:
        output.say(f"{'Would be set' if dry_run else 'Set'}: {what}")
    for _, what, mend in result.left:
        output.warn(what)
        if mend:
            output.say(f"    → {mend}")
    if not result.changed:
        output.done(f"{result.store} is as it should be: nothing to set.")
