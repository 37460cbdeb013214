"""Putting back owners and privileges: what the roles here do not allow is reported, not dropped in silence."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from keepwell.sources.postgres.connection import Connection, one_line
from keepwell.sources.postgres.script import is_setting, statement_end

if TYPE_CHECKING:
    import psycopg

_NAME = r'(?:"(?:[^"]|"")*"|[^\s".,;()]+)'
_POLICY = re.compile(
    rf"(CREATE POLICY {_NAME} ON {_NAME}\.{_NAME}(?: AS RESTRICTIVE)?(?: FOR \w+)?) TO ({_NAME}(?:, {_NAME})*)(.*)",
    re.DOTALL,
)
_ROLE_MISSING = re.compile(r'role "(.*?)" does not exist', re.DOTALL)
_MOST_SHOWN = 3
# What a server answers where a role is missing or may not do this: undefined object, insufficient privilege,
# invalid grantor, invalid grant, dependent privileges, invalid role, invalid value (of session_authorization).
_FORGIVEN = {"42704", "42501", "0L000", "0LP01", "2B000", "2BP01", "0P000", "22023"}


class Rights:
    """Runs statements about owners, privileges and policies one by one, and keeps what was refused."""

    def __init__(self, connection: Connection, codec: str = "utf-8") -> None:
        self._connection = connection
        self._codec = codec
        self._refused: dict[str, list[str]] = {}
        self._skipping = False

    def run_all(self, text: bytes) -> None:
        """The statements of a text of pg_restore; settings and comments are passed over."""
        for statement in statements(text):
            self.run(statement)

    def run(self, statement: bytes) -> None:
        """One statement. Raises psycopg.Error for anything that has nothing to do with roles and rights."""
        import psycopg

        if statement.startswith(b"RESET SESSION AUTHORIZATION"):
            if self._skipping:
                self._skipping = False
                return
        elif self._skipping:
            self._refuse(self._why, statement)
            return
        try:
            self._connection.execute(statement)
        except psycopg.Error as error:
            if error.sqlstate not in _FORGIVEN:
                raise
            self._why = _reason(error)
            if statement.startswith(b"SET SESSION AUTHORIZATION"):
                self._skipping = True
            elif not self._without_missing_roles(statement):
                self._refuse(self._why, statement)

    def refused(self, why: str, statement: str) -> None:
        """Somebody else ran this statement, and it was refused."""
        self._refuse(why, statement.encode())

    def warnings(self) -> list[str]:
        """One text for each reason, with the first statements."""
        texts = []
        for why, statements_ in self._refused.items():
            shown = "; ".join(statements_[:_MOST_SHOWN])
            more = f"; and {len(statements_) - _MOST_SHOWN} more" if len(statements_) > _MOST_SHOWN else ""
            texts.append(f"{why}; not carried out: {shown}{more}")
        return texts

    def _refuse(self, why: str, statement: bytes) -> None:
        text = one_line(statement.decode(self._codec, errors="replace")).rstrip(";")
        self._refused.setdefault(why, []).append(text)

    def _without_missing_roles(self, statement: bytes) -> bool:
        """A policy for several roles is made for those that exist. False: it cannot be, or it is no policy."""
        found = _POLICY.fullmatch(statement.decode(self._codec, errors="surrogateescape"))
        if not found:
            return False
        wanted = re.findall(_NAME, found[2])
        there = {row[0] for row in self._connection.execute("SELECT quote_ident(rolname) FROM pg_roles").fetchall()}
        left = [role for role in wanted if role in there]
        if not left:
            return False
        text = f"{found[1]} TO {', '.join(left)}{found[3]}"
        self._connection.execute(text.encode(self._codec, errors="surrogateescape"))
        gone = ", ".join(role for role in wanted if role not in there)
        self._refuse(self._why, f"the part of {found[1]} for {gone}".encode())
        return True

    _why = ""


def statements(text: bytes) -> Iterable[bytes]:
    """The statements of a text of simple ones (no function bodies), without settings and comments."""
    at = 0
    while at < len(text):
        end = statement_end(text, at, len(text)) or len(text)
        piece, at = text[at:end], end
        if not is_setting(piece) or piece.startswith(b"SET SESSION AUTHORIZATION"):
            yield piece


def _reason(error: psycopg.Error) -> str:
    said = error.diag.message_primary or one_line(str(error))
    if found := _ROLE_MISSING.search(said):
        return f'the role "{found[1]}" does not exist here'
    return said
