"""`keepwell wal receive`: the receiver for one source of the policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from keepwell.core.clock import iso
from keepwell.core.errors import SourceError
from keepwell.core.streams import Context, Json
from keepwell.core.wal import show_lsn
from keepwell.operations.opening import open_vault
from keepwell.operations.wal_contracts import Plan, Received
from keepwell.operations.wal_delivery import Threads
from keepwell.operations.wal_receiver import Receiver
from keepwell.operations.wal_sources import physical_source
from keepwell.policy.load import LoadedPolicy


@dataclass(frozen=True)
class ReceiveRequest:
    source: str | None = None
    environment: str | None = None
    """What is not said must be the only one."""
    once: bool = False
    """End when everything is stored that the server had at the beginning."""
    until: int | None = None
    """End when the log up to this position is stored."""
    accept_gap: bool = False
    """Go on where the server no longer has log that the vault lacks."""
    every: float = 10.0
    """Seconds after which the beginning of a segment is stored."""


@dataclass
class ReceiveResult:
    environment: str
    source: str
    slot: str
    received: Received
    ended: str = ""

    def json(self) -> dict[str, Json]:
        received = self.received
        return {
            "environment": self.environment,
            "source": self.source,
            "slot": self.slot,
            "system": received.system,
            "timeline": received.timeline,
            "position": show_lsn(received.position),
            "bytes": received.bytes,
            "pieces": received.pieces,
            "connections": received.connections,
            "switches": received.switches,
            "gaps": [
                {"timeline": timeline, "from": show_lsn(start), "to": show_lsn(end)}
                for timeline, start, end in received.gaps
            ],
            "ended": self.ended,
            "seconds": round(received.seconds, 3),
        }


def receive(
    loaded: LoadedPolicy, request: ReceiveRequest, context: Context, started: Callable[[], object] = lambda: None
) -> ReceiveResult:
    """Runs until it is told to end (`context.cancelled`, KeyboardInterrupt) or the request is fulfilled.

    `started` is called when the log flows: not where another one receives it.
    Raises UsageError, the VaultKeyError and StoreError families, and what `Receiver.run` raises.
    """
    from keepwell.sources.physical import slot as slots
    from keepwell.sources.physical.replication import Replication

    environment, name = physical_source(loaded, request.environment, request.source)
    source = loaded.policy.environments[environment].sources[name]
    secret = getattr(source, "url")  # noqa: B009 - of the physical kind, which `physical_source` has made sure of
    url = secret.resolve(loaded.base, what=f"the URL of source {name}", error=SourceError)
    slot = getattr(source, "slot", None) or slots.slot_name(environment, name)
    vault = open_vault(loaded)
    plan = Plan(
        slot,
        f"{environment}/{name}",
        once=request.once,
        until=request.until,
        accept_gap=request.accept_gap,
        every=request.every,
    )
    receiver = Receiver(
        plan,
        lambda: Replication.connect(url, application=slot),
        lambda system: vault.wal(environment, name, system),
        Threads,
        context,
        slot_state=lambda: slots.slot_state(url, slot),
        started=started,
    )
    received = receiver.run()
    return ReceiveResult(environment, name, slot, received, iso(context.clock.now()))
