"""After a restore of everything: do the files exist that the restored databases refer to?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from keepwell.core.streams import Context
from keepwell.operations.choosing import lookup_in
from keepwell.operations.places import Place
from keepwell.policy.load import LoadedPolicy
from keepwell.proof import references
from keepwell.proof.checks import CheckOutcome
from keepwell.vault.vault import BackupReader

if TYPE_CHECKING:
    from keepwell.operations.restore import Restored

_NOT_ASKED = {
    "physical": "its server does not run yet: `keepwell verify` looks, with a server of its own",
    "postgres": "SQL text answers no queries: `keepwell verify` looks, with a server of its own",
}


def look(
    loaded: LoadedPolicy,
    reader: BackupReader,
    targets: Mapping[str, Place],
    done: Mapping[str, Restored],
    context: Context,
) -> tuple[CheckOutcome, ...]:
    """What the policy's `references` of each restored database answer. A database that cannot be asked is told of. Raises
    Interrupted, StoreError.
    """
    environment = loaded.policy.environments.get(reader.backup.id.environment)
    outcomes = []
    for name, place in targets.items():
        wanted = getattr(environment.sources.get(name), "references", ()) if environment else ()
        if not wanted or done[name].error:
            continue
        kind = str(reader.facts(name)["type"])
        if kind == "physical" or place.target is None:
            context.progress.warn(f"{name}: what it refers to was not looked for, since {_NOT_ASKED[kind]}")
            continue
        context.progress.note(f"Looking for what {name} refers to")
        for reference in wanted:
            outcome = references.check(reference, kind, place.target, lookup_in(reader, context), context)
            outcomes.append(outcome)
            if not outcome.passed:
                context.progress.warn(f"{name}: {outcome.problem}")
    return tuple(outcomes)
