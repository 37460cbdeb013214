"""What the commands of `key` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from keepwell.cli.output import Output
from keepwell.core.errors import UsageError

if TYPE_CHECKING:
    from keepwell.keys.keyring import Role
    from keepwell.operations.keys import KeyInfo


def checked_role(text: str) -> Role:
    if text not in {"reader", "writer"}:
        raise UsageError(f"there is no role {text!r}", hint="Write --role reader or --role writer.")
    return cast("Role", text)


def report_added(output: Output, added: KeyInfo) -> None:
    output.document(added.json())
    kind = "passphrase" if added.slot.kind == "passphrase" else f"key file {added.file}"
    output.done(f"Added a {added.slot.role} slot {added.slot.id}: {kind}.")
    if added.file is not None and added.slot.role == "reader":
        output.remind("Keep a copy of this key file away from this machine and from the vault.")


def about(info: KeyInfo) -> dict[str, str]:
    """For the audit log: which slot, and what it is for."""
    found = {"slot": info.slot.id, "role": info.slot.role, "kind": info.slot.kind, "label": info.slot.label}
    return found | ({"file": str(info.file)} if info.file else {})
