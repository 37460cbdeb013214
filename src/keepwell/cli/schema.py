"""`keepwell schema`."""

from __future__ import annotations

import json
import sys

import typer

from keepwell.cli.session import Session


def run(ctx: typer.Context) -> None:
    """Print the JSON Schema of keepwell.toml.

    Editors that know TOML schemas use it to complete and check; with and without --json the output is the same.
    """
    from keepwell.policy.schema import json_schema

    session: Session = ctx.obj
    if session.output.as_json:
        session.output.document(json_schema())
    else:
        sys.stdout.write(json.dumps(json_schema(), indent=2) + "\n")
