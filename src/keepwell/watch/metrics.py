"""What was seen, as Prometheus reads it. Names, units and meanings: docs/reference/metrics.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.registry import Collector

from keepwell import __version__
from keepwell.policy.schedule import next_due
from keepwell.watch.look import Look
from keepwell.watch.seen import EnvironmentSeen

__all__ = ["CONTENT_TYPE", "render"]


def render(look: Look) -> bytes:
    """The text format, of kind `CONTENT_TYPE`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(look))
    return generate_latest(registry)


class _Metrics(Collector):
    def __init__(self, look: Look) -> None:
        self._look = look

    def collect(self) -> Iterator[Metric]:
        look, seen = self._look, self._look.seen
        yield InfoMetricFamily("keepwell_build", "The program.", {"version": __version__, "project": seen.project})
        yield GaugeMetricFamily("keepwell_look_timestamp_seconds", "When the watch last looked.", seen.now.timestamp())
        yield GaugeMetricFamily(
            "keepwell_vault_up", "Whether the vault could be read at the last look.", int(seen.vault_known)
        )
        yield from self._store()
        yield from self._environments(seen.environments if seen.vault_known else ())
        yield from self._runs()
        yield from self._around()
        alerts = GaugeMetricFamily(
            "keepwell_alert_open",
            "Open alerts: 1 each, 0 where somebody has acknowledged it.",
            labels=["rule", "subject", "environment", "severity"],
        )
        for alert in look.open:
            value = 0 if alert.acknowledged_at else 1
            alerts.add_metric([alert.rule, alert.subject, alert.environment or "", alert.severity], value)
        yield alerts
        failing = GaugeMetricFamily(
            "keepwell_channel_failures", "Attempts in a row that a channel did not take.", labels=["channel"]
        )
        for channel in seen.channels:
            failing.add_metric([channel.name], channel.tries)
        yield failing

    def _store(self) -> Iterator[Metric]:
        store = self._look.seen.store
        for name, text, value in (
            ("keepwell_store_used_bytes", "What the store holds.", store.used),
            ("keepwell_store_capacity_bytes", "What the store may hold.", store.capacity),
            ("keepwell_clock_offset_seconds", "This machine's clock against the store's.", store.clock_apart),
        ):
            if value is not None:
                yield GaugeMetricFamily(name, text, value)

    def _environments(self, environments: tuple[EnvironmentSeen, ...]) -> Iterator[Metric]:
        def gauge(name: str, text: str, *more: str) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"keepwell_{name}", text, labels=["environment", *more])

        newest = gauge("backup_newest_timestamp_seconds", "When the newest complete backup was taken.")
        proven = gauge("backup_proven_timestamp_seconds", "When the newest proven backup was taken.")
        proof = gauge("proof_timestamp_seconds", "When a backup was last proven.")
        recovery = gauge("recovery_seconds", "How long the newest proof took: the measured time to recover.")
        target = gauge("recovery_objective_seconds", "The time to recover that the policy sets as maximum.")
        due = gauge("backup_due_timestamp_seconds", "When the next backup is due.")
        late = gauge("backup_deadline_timestamp_seconds", "When the next complete backup must be there.")
        took = gauge("backup_duration_seconds", "How long the newest complete backup took.")
        size = gauge("backup_size_bytes", "Bytes read of a source in the newest complete backup.", "source")
        stored = gauge("backup_stored_bytes", "Bytes that the newest complete backup added to the store.")
        count = gauge("backups", "Backups in the vault.", "tier", "status")
        damaged = gauge("backups_damaged", "Backups whose own description was altered.")
        for env in environments:
            at = [env.name]
            damaged.add_metric(at, len(env.damaged))
            target.add_metric(at, env.rto_max.total_seconds())
            if point := env.newest:
                newest.add_metric(at, point.time.timestamp())
                took.add_metric(at, point.seconds)
                stored.add_metric(at, point.stored)
                for source, bytes_read in point.sources.items():
                    size.add_metric([env.name, source], bytes_read)
            if env.proven:
                proven.add_metric(at, env.proven.time.timestamp())
            if env.proof_time:
                proof.add_metric(at, env.proof_time.timestamp())
            if env.recovery is not None:
                recovery.add_metric(at, env.recovery)
            if env.schedule:
                due.add_metric(at, next_due(env.schedule, self._look.seen.now, env.timezone).timestamp())
                last = env.newest.time if env.newest else self._look.seen.made
                if last is not None:
                    late.add_metric(at, (next_due(env.schedule, last, env.timezone) + env.grace).timestamp())
            kinds = Counter((p.tier, "complete" if p.complete else "incomplete") for p in env.backups)
            for (tier, status), number in sorted(kinds.items()):
                count.add_metric([env.name, tier, status], number)
        yield from (newest, proven, proof, recovery, target, due, late, took, size, stored, count, damaged)

    def _runs(self) -> Iterator[Metric]:
        labels = ["verb", "environment"]
        started = GaugeMetricFamily(
            "keepwell_run_started_timestamp_seconds", "When the newest run began.", labels=labels
        )
        took = GaugeMetricFamily("keepwell_run_duration_seconds", "How long the newest run took.", labels=labels)
        well = GaugeMetricFamily("keepwell_run_success", "Whether the newest run did what it should.", labels=labels)
        running = GaugeMetricFamily("keepwell_run_running", "Whether one is running.", labels=labels)
        for run in self._look.seen.runs:
            at = [run.verb, run.environment or ""]
            started.add_metric(at, run.started.timestamp())
            running.add_metric(at, int(run.outcome == "running"))
            if run.outcome != "running":
                well.add_metric(at, int(run.outcome == "done"))
            if run.ended:
                took.add_metric(at, (run.ended - run.started).total_seconds())
        yield from (started, took, well, running)

    def _around(self) -> Iterator[Metric]:
        seen = self._look.seen
        lacks = GaugeMetricFamily("keepwell_copy_missing_backups", "Backups that a copy lacks.", labels=["copy"])
        for copy in seen.copies:
            lacks.add_metric([copy.name], copy.count)
        log = GaugeMetricFamily(
            "keepwell_wal_archived_timestamp_seconds",
            "Up to when the log of a database is archived.",
            labels=["environment", "source"],
        )
        for wal in seen.wal:
            if wal.newest:
                log.add_metric([wal.environment, wal.source], wal.newest.timestamp())
        provider = GaugeMetricFamily(
            "keepwell_provider_backup_timestamp_seconds",
            "The newest backup that the provider itself has.",
            labels=["environment", "source", "provider"],
        )
        for own in seen.providers:
            if own.newest:
                provider.add_metric([own.environment, own.source, own.provider], own.newest.timestamp())
        yield from (lacks, log, provider)
