"""`keepwell version`: what runs here, for a report of a fault."""

from __future__ import annotations

import platform
from importlib import metadata

import typer

from keepwell import __version__
from keepwell.cli.session import Session
from keepwell.vault.config import FORMAT

_LIBRARIES = ("blake3", "cryptography", "obstore", "psycopg", "pyfastcdc", "pydantic")


def run(ctx: typer.Context) -> None:
    """Print the versions of keepwell and of what it stands on."""
    session: Session = ctx.obj
    output = session.output
    libraries = {name: metadata.version(name) for name in _LIBRARIES}
    output.document(
        {"keepwell": __version__, "format": FORMAT, "python": platform.python_version(), "libraries": libraries}
    )
    output.say(f"keepwell {__version__} (vault format {FORMAT}, Python {platform.python_version()})")
    output.say("  " + ", ".join(f"{name} {number}" for name, number in libraries.items()))
