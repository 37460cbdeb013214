"""What the commands of `keepwell alerts` share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keepwell.cli.output import Output
from keepwell.cli.words import span
from keepwell.core.clock import iso

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Sequence

    from keepwell.watch.state import Alert

STYLES = {"failure": "red", "warning": "yellow"}


def document(alert: Alert) -> dict[str, Any]:
    """As docs/reference/json.md has it."""
    return {
        "alert": alert.key,
        "rule": alert.rule,
        "environment": alert.environment,
        "severity": alert.severity,
        "stage": alert.stage,
        "text": alert.text,
        "hint": alert.hint,
        "since": iso(alert.since),
        "told": iso(alert.opened) if alert.opened and alert.announced else None,
        "acknowledged": alert.acknowledged or None,
        "over": iso(alert.over) if alert.over else None,
    }


def tell(output: Output, alerts: Sequence[Alert], now: dt.datetime) -> None:
    for alert in alerts:
        stage = "" if alert.is_open else f" ({alert.stage})"
        head = f"{alert.severity}{stage}"
        output.say(f"{output.style(head, STYLES[alert.severity])}  {output.style(alert.key, 'bold')}")
        output.say(f"  {alert.text}")
        output.say(f"  since {iso(alert.since)}, {span(now - alert.since)} ago")
        if alert.over:
            output.say(f"  over since {iso(alert.over)}")
            continue
        if alert.acknowledged:
            output.say(f"  acknowledged by {alert.acknowledged}")
        output.say(f"  → {alert.hint}")
