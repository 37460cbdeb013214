"""The one tree of errors. Each names what happened, to what, and (`hint`) what to do next.

KeepwellError                 exit 1
 +- UsageError                exit 2   the command line asks for something that does not exist
 |   +- BackupNotFound                 no such backup, environment or source in the vault
 +- SourceError               exit 1   a source cannot be read, or a target not written
 |   +- ProgramMissing                 a client program (pg_dump, ...) of the right version is not there
 +- TargetNotEmpty            exit 1   a restore would overwrite something
 +- ProofFailed               exit 4   a restored backup is not what was backed up
 +- PolicyError               exit 5   keepwell.toml is wrong
 +- StoreError                exit 6   the store is unreachable or refused
 |   +- ObjectExists                   put-if-absent found the name taken
 |   +- ObjectMissing                  no object of that name
 |   +- StoreFull                      no space or quota left
 |   +- StoreDenied                    no right to do this
 |   +- UnsafeStore                    the store overwrites: conditional puts are not honoured
 +- VaultKeyError             exit 7   key missing, wrong, or of the wrong role
 |   +- KeyMissing
 |   +- KeyWrong
 |   +- KeyCannotRead                  a writer key was asked to decrypt
 +- Busy                      exit 8   another run is in the way; try again
 +- Damaged                   exit 1   bytes in the vault are missing, altered or cut short
 +- UnsupportedFormat         exit 1   the vault needs a newer keepwell
 +- Interrupted               exit 130
"""

from __future__ import annotations

from typing import ClassVar


class KeepwellError(Exception):
    """Base of all errors that a user may see. `hint` says what to do next; both are one or more sentences."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(KeepwellError):
    exit_code = 2


class BackupNotFound(UsageError):
    pass


class SourceError(KeepwellError):
    pass


class ProgramMissing(SourceError):
    pass


class TargetNotEmpty(KeepwellError):
    pass


class ProofFailed(KeepwellError):
    exit_code = 4


class PolicyError(KeepwellError):
    exit_code = 5


class StoreError(KeepwellError):
    exit_code = 6


class ObjectExists(StoreError):
    pass


class ObjectMissing(StoreError):
    pass


class StoreFull(StoreError):
    pass


class StoreDenied(StoreError):
    pass


class UnsafeStore(StoreError):
    pass


class VaultKeyError(KeepwellError):
    exit_code = 7


class KeyMissing(VaultKeyError):
    pass


class KeyWrong(VaultKeyError):
    pass


class KeyCannotRead(VaultKeyError):
    pass


class Busy(KeepwellError):
    exit_code = 8


class Damaged(KeepwellError):
    pass


class UnsupportedFormat(KeepwellError):
    pass


class Interrupted(KeepwellError):
    exit_code = 130
