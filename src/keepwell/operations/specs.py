"""From a source of the policy to what its package captures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from keepwell.core.errors import SourceError
from keepwell.core.secrets import Secret
from keepwell.core.streams import Facts
from keepwell.policy.load import LoadedPolicy
from keepwell.policy.models import BucketSource, FilesSource, GitSource, PostgresSource, Source, SqliteSource


def kind_name(source: Source) -> str:
    """The package that captures the source, as `registry.kind_of` takes it."""
    return "physical" if isinstance(source, PostgresSource) and source.method == "physical" else source.type


def spec_of(loaded: LoadedPolicy, name: str, source: Source) -> Any:
    """What to capture. Raises SourceError where the URL of a database cannot be had."""
    if isinstance(source, PostgresSource):
        url = source.url.resolve(loaded.base, what=f"the URL of source {name}", error=SourceError)
        if source.method == "physical":
            from keepwell.sources import physical

            return physical.Spec(url, source.on_damaged_page, source.checkpoint, source.read_from)
        from keepwell.sources import postgres

        return postgres.Spec(url)
    if isinstance(source, SqliteSource):
        from keepwell.sources import sqlite

        return sqlite.Spec(source.path)
    if isinstance(source, BucketSource):
        from keepwell.operations.buckets import objects_of
        from keepwell.sources import bucket

        return bucket.Spec(objects_of(loaded, source), source.include, source.exclude, source.allow_empty)
    if isinstance(source, GitSource):
        return git_spec(loaded.base, name, source)
    from keepwell.sources import files

    assert isinstance(source, FilesSource)
    return files.Spec(source.path, source.exclude)


def git_spec(base: Path, name: str, source: GitSource) -> Any:
    """`base` is the policy's folder. Raises SourceError where the password cannot be had."""
    from keepwell.sources import git

    secret = None
    if source.password is not None:
        secret = source.password.resolve(base, what=f"the password of source {name}", error=SourceError)
    return git.Spec(source.path, source.url or "", source.username or "", secret, source.ssh_key, source.known_hosts)


def spec_for_proof(facts: Facts) -> Any:
    """The same without a place: a restored source is captured where it was restored to.

    A machine that proves backups needs neither the policy's secrets nor its paths.
    """
    if facts["type"] == "postgres":
        from keepwell.sources import postgres

        return postgres.Spec(Secret(""))
    if facts["type"] == "sqlite":
        from keepwell.sources import sqlite

        return sqlite.Spec(Path())
    if facts["type"] == "git":
        from keepwell.sources import git

        return git.Spec(Path())
    if facts["type"] == "bucket":
        return None  # what was restored says all that there is to know
    if facts["type"] == "physical":
        return None  # compared file by file, before a server has changed anything
    from keepwell.sources import files

    return files.Spec(Path())
