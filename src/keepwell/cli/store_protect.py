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
    import contextlib

    from keepwell.operations.protection import protect
    from keepwell.operations.record import recorded

    session: Session = ctx.obj
    loaded = session.load()
    with session.context() as context, contextlib.ExitStack() as stack:
        # A bucket is protected before there is a vault in it, and by administrators who have no key of the vault.
        record = (
            None
            if dry_run
            else stack.enter_context(recorded(loaded, context, "store protect", strict=False, log=False))
        )
        result = protect(loaded, context, copy=copy, dry_run=dry_run)
        if record is not None:
            record.ended("done", details={"store": result.store, "changed": list(result.changed)})
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
