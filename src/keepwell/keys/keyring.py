"""The secrets that an opened slot gives, by role."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from keepwell.core.errors import KeyCannotRead
from keepwell.keys import crypto

Role: TypeAlias = Literal["reader", "writer"]


@dataclass(frozen=True, repr=False)
class Keyring:
    """What may be done in one vault: everything with the writer secret, reading with the private key besides."""

    vault: bytes
    """The vault id, 16 bytes."""
    public: bytes
    writer: bytes
    private: bytes | None = None
    slot: str = ""
    """The slot that was opened."""

    @property
    def role(self) -> Role:
        return "reader" if self.private else "writer"

    @cached_property
    def index_key(self) -> bytes:
        return crypto.derive(self.writer, self.vault, "index")

    @cached_property
    def piece_key(self) -> bytes:
        return crypto.derive(self.writer, self.vault, "piece")

    @cached_property
    def mac_key(self) -> bytes:
        return crypto.derive(self.writer, self.vault, "mac")

    @cached_property
    def seed(self) -> int:
        """63 bits: the chunker takes no more."""
        return int.from_bytes(crypto.derive(self.writer, self.vault, "seed", 8), "little") >> 1

    def envelope(self, name: str, plain: bytes) -> bytes:
        return crypto.seal_envelope(self.index_key, self.vault, name, plain)

    def open(self, name: str, sealed: bytes | memoryview) -> bytes:
        return crypto.open_envelope(self.index_key, self.vault, name, sealed)

    def mac(self, name: str, content: bytes) -> str:
        return crypto.mac(self.mac_key, name, content)

    def seal(self, purpose: str, bound_to: bytes, plain: bytes) -> bytes:
        return crypto.seal(self.public, self._info(purpose, bound_to), plain)

    def unseal(self, purpose: str, bound_to: bytes, sealed: bytes | memoryview, *, what: str) -> bytes:
        """Raises KeyCannotRead for a writer, Damaged where the bytes were altered."""
        if self.private is None:
            raise KeyCannotRead(
                f"{what} cannot be decrypted: slot {self.slot} holds a writer key, which can back up but not read data",
                hint="Run this where the reader key is, or name it with --key-file; `keepwell key list` shows the roles.",
            )
        return crypto.unseal(self.private, self._info(purpose, bound_to), sealed, what=what)

    def _info(self, purpose: str, bound_to: bytes) -> bytes:
        return b"keepwell/1/" + purpose.encode() + self.vault + bound_to
