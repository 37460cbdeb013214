"""A repository on a server: fetched into a mirror of ours, which is kept, so that only new objects are sent."""

from __future__ import annotations

import dataclasses
import shlex
import shutil
from pathlib import Path
from urllib.parse import urlsplit

from blake3 import blake3

from keepwell.core.errors import SourceError
from keepwell.core.streams import Context
from keepwell.sources.git.program import Git, GitFailed
from keepwell.sources.git.repository import empty_repository
from keepwell.sources.git.spec import Spec

_HELPER = '!printf "username=%s\\npassword=%s\\n" "$KEEPWELL_GIT_USERNAME" "$KEEPWELL_GIT_PASSWORD" #'
"""git asks it for the server of the URL only; the secret is in the environment, which only this user can read."""


def mirror(spec: Spec, folder: Path, context: Context) -> Path:
    """A bare repository below `folder` that has what the server has now, HEAD too. Raises SourceError.

    A mirror that cannot be brought up to date is made anew once.
    """
    path = folder / f"git-{blake3(spec.url.encode()).hexdigest()[:32]}.git"
    try:
        if not (path / "HEAD").exists():
            return _fresh(spec, path, context)
        return _fetch(spec, path, context)
    except GitFailed as error:
        if _is_the_servers(error):
            raise
        context.progress.note(f"{spec.url}: the mirror is made anew: {error.message}")
        return _fresh(spec, path, context)


def heads(spec: Spec, context: Context) -> int:
    """How many refs the server has. Raises SourceError."""
    return len(_git(spec, None, context).run("ls-remote", "-q", "--", spec.url).splitlines())


def _fresh(spec: Spec, path: Path, context: Context) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    named = _git(spec, None, context).run("ls-remote", "-q", "--", spec.url).split()
    empty_repository(path, "sha256" if named and len(named[0]) == 64 else "sha1", context, spec.url)
    return _fetch(spec, path, context)


def _fetch(spec: Spec, path: Path, context: Context) -> Path:
    git = _git(spec, path, context)
    listed = git.run("ls-remote", "-q", "--symref", "--", spec.url, "HEAD").decode("utf-8", "surrogateescape")
    head = at = ""
    for line in listed.splitlines():
        value, _, name = line.partition("\t")
        if name == "HEAD" and value.startswith("ref: "):
            head = value.removeprefix("ref: ")
        elif name == "HEAD":
            at = value
    git.run("fetch", "-q", "--prune", "--force", "--no-write-fetch-head", "--no-tags", spec.url, "+refs/*:refs/*")
    if head:
        git.run("symbolic-ref", "HEAD", head)
    elif at:
        git.run("update-ref", "--no-deref", "HEAD", at)
    # Every fetch leaves a pack; this joins them when there are many.
    dataclasses.replace(git, config={"gc.auto": "6700", "gc.autoDetach": "false"}).run("gc", "-q", "--auto")
    return path


def _git(spec: Spec, path: Path | None, context: Context) -> Git:
    kind = scheme_of(spec.url)
    config = {
        f"protocol.{kind}.allow": "always",
        "http.followRedirects": "initial",
        "http.lowSpeedLimit": "1000",
        "http.lowSpeedTime": "120",
    }
    variables: dict[str, str] = {}
    if kind == "ssh":
        variables["GIT_SSH_COMMAND"] = _ssh(spec)
        variables["GIT_SSH_VARIANT"] = "ssh"
    elif spec.password is not None:
        secret = spec.password.reveal()
        if "\n" in secret or "\n" in spec.username:
            raise SourceError(f"{spec.url}: the password has a line end in it", hint="Mend what the reference gives.")
        config["credential.helper"] = _HELPER
        variables |= {"KEEPWELL_GIT_USERNAME": spec.username or "git", "KEEPWELL_GIT_PASSWORD": secret}
    return Git(path, context, config, variables, spec.url)


def scheme_of(url: str) -> str:
    """`https`, `http` or `ssh`."""
    return urlsplit(url).scheme if "://" in url else "ssh"


def _ssh(spec: Spec) -> str:
    words = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    words += ["-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=8"]
    if spec.known_hosts is not None:
        words += ["-o", f"UserKnownHostsFile={_quoted(spec.known_hosts)}", "-o", "GlobalKnownHostsFile=/dev/null"]
    if spec.ssh_key is not None:
        words += ["-o", "IdentitiesOnly=yes", "-i", str(spec.ssh_key)]
    return shlex.join(words)


def _quoted(path: Path) -> str:
    """Since ssh splits its options at spaces itself."""
    return '"' + str(path).replace("%", "%%") + '"'


def _is_the_servers(error: GitFailed) -> bool:
    signs = (
        "Could not read from remote",
        "unable to access",
        "Authentication failed",
        "could not read Username",
        "not found",
    )
    return any(sign in error.said for sign in signs)
