"""One look: gather, examine, change the states, tell. `keepwell serve` does it every minute, a watched run at its end."""

from __future__ import annotations

import dataclasses
import datetime as dt
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from keepwell.core.clock import from_iso, iso
from keepwell.core.errors import KeepwellError, ObjectMissing, StoreError
from keepwell.core.streams import Context
from keepwell.operations.heads import Heads, folder_of
from keepwell.operations.opening import open_store_of, open_vault
from keepwell.policy.load import LoadedPolicy
from keepwell.stores import Store
from keepwell.vault import config
from keepwell.vault.cache import ObjectCache, cache_folder
from keepwell.vault.vault import Vault
from keepwell.watch import gather, rules
from keepwell.watch.book import Book, Pages, place
from keepwell.watch.heartbeat import beat
from keepwell.watch.notify import Delivery, deliver, failing, manner_of, post_events
from keepwell.watch.seen import Seen, StoreSeen
from keepwell.watch.state import Alert, Event, Silence, advance

_AWAY = dt.timedelta(hours=1)
_COPIES_EVERY, _WAL_EVERY = dt.timedelta(minutes=15), dt.timedelta(minutes=5)
_PROVIDERS_EVERY = dt.timedelta(minutes=15)
_OF_RUNS = frozenset({"run-failed", "run-long", "channel-failed"})


@dataclass(frozen=True)
class Look:
    """What one look found, and what became of it."""

    seen: Seen
    alerts: Mapping[str, Alert]
    """All that are known, those that are over among them."""
    events: tuple[Event, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    silences: tuple[Silence, ...] = ()
    problems: tuple[str, ...] = ()
    """What the look itself could not do (a heartbeat that was not taken)."""

    @property
    def open(self) -> list[Alert]:
        """Failures first, then the oldest first."""
        found = [alert for alert in self.alerts.values() if alert.is_open]
        return sorted(found, key=lambda a: (a.severity != "failure", a.since, a.key))

    @property
    def pressing(self) -> list[Alert]:
        """Open, and neither acknowledged nor silenced: what a foreign monitor should show."""
        return [
            alert
            for alert in self.open
            if alert.acknowledged_at is None and not any(s.covers(alert, self.seen.now) for s in self.silences)
        ]


@dataclass
class Watcher:
    """Keeps the keys of the vault between looks, so that each costs a listing and no more. One look at a time."""

    loaded: LoadedPolicy
    _vault: Vault | None = field(default=None, repr=False)

    @property
    def book(self) -> Book:
        return Book(place(self.loaded))

    def look(self, context: Context, *, steady: bool = False, tell: bool = True) -> Look:
        """Gathers, examines, changes the states and tells.

        `steady`: looks come at short intervals (serve), so a long pause since the last one means that nobody watched.
        `tell` False: only looks; no state changes and nobody is told. What is wrong with the vault is in the answer;
        raises BookError.
        """
        now = context.clock.now()
        seen = self._see(context, now, write=tell, steady=steady)
        if not tell:
            return self._only_look(seen)
        events: list[Event] = []
        with self.book.turn() as pages:
            turn = advance(
                pages.alerts(),
                rules.examine(dataclasses.replace(seen, channels=failing(pages))),
                now,
                blind=rules.blind(seen),
                silences=pages.silences(now),
                manner=manner_of(self.loaded.policy),
            )
            pages.put_alerts(turn.alerts)
            post_events(pages, turn.events, seen, self.loaded.policy)
            if seen.vault_known:
                for env in seen.environments:
                    pages.write(f"safe:{env.name}", gather.safe_note(env))
            if steady:
                pages.write("looked", iso(now))
                if seen.away:
                    pages.write("away", [iso(seen.away[0]), iso(seen.away[1])])
            events = turn.events
        deliveries = deliver(self.book, self.loaded, context.clock)
        result = Look(seen, turn.alerts, tuple(events), tuple(deliveries))
        return dataclasses.replace(result, problems=self._sign_of_life(result, now))

    def glance(self, context: Context, error: BaseException | None = None, *, works: bool = False) -> Look:
        """After a run: only at runs, without opening the vault. `error` is what the run failed with; `works`: it did not."""
        now = context.clock.now()
        with self.book.turn() as pages:
            store = StoreSeen(
                error=(type(error).__name__, error.message, error.hint) if isinstance(error, StoreError) else None
            )
            seen = self._known(pages, now, store)
            looked = _OF_RUNS | ({"store-unreachable"} if store.error or works else set())
            turn = advance(
                pages.alerts(),
                [symptom for symptom in rules.examine(seen) if symptom.rule in looked],
                now,
                blind=frozenset(rules.RULES) - looked,
                silences=pages.silences(now),
                manner=manner_of(self.loaded.policy),
            )
            pages.put_alerts(turn.alerts)
            post_events(pages, turn.events, seen, self.loaded.policy)
        deliveries = deliver(self.book, self.loaded, context.clock)
        return Look(seen, turn.alerts, tuple(turn.events), tuple(deliveries))

    def _only_look(self, seen: Seen) -> Look:
        with self.book.look() as pages:
            turn = advance(pages.alerts(), rules.examine(seen), seen.now, blind=rules.blind(seen))
            return Look(seen, turn.alerts, tuple(turn.events), silences=tuple(pages.silences(seen.now)))

    def _see(self, context: Context, now: dt.datetime, *, write: bool, steady: bool) -> Seen:
        # Here, since they take a tenth of a second, and a glance needs neither.
        from keepwell.watch.outside import copies_of, copies_seen, wal_of, wal_seen
        from keepwell.watch.providers import providers_of, providers_seen

        store: Store | None = None
        try:
            vault = self._open()
            store = vault.store
            slow = self._slow(vault, context, now, write=write)
            copies = self._seldom(
                "copies",
                _COPIES_EVERY,
                now,
                lambda before: copies_of(self.loaded, vault, now, before or {}),
                write=write,
            )
            wal = self._seldom("wal", _WAL_EVERY, now, lambda _: wal_of(self.loaded, vault, now), write=write)
            own = self._seldom(
                "providers", _PROVIDERS_EVERY, now, lambda _: providers_of(self.loaded, now), write=write
            )
            with self.book.look() as pages:
                known = self._known(pages, now, gather.store_of(self.loaded, vault, slow))
                seen = dataclasses.replace(
                    known,
                    environments=gather.environments_of(self.loaded, vault, pages),
                    keys=gather.keys_of(slow, pages),
                    made=from_iso(vault.config.created),
                    vault_known=True,
                    away=_away(pages, now) if steady else None,
                )
            return dataclasses.replace(
                seen,
                copies=copies_seen(copies["value"] or {}),
                wal=wal_seen(wal["value"] or []),
                providers=providers_seen(own["value"] or []),
            )
        except KeepwellError as error:
            self._vault = None
            with self.book.look() as pages:
                told = (type(error).__name__, error.message, error.hint)
                return self._known(pages, now, StoreSeen(self.loaded.policy.vault.store, told))
        finally:
            if store is not None:
                store.close()

    def _known(self, pages: Pages, now: dt.datetime, store: StoreSeen) -> Seen:
        """What the policy and the book say, without the vault."""
        policy = self.loaded.policy
        watch = policy.watch
        return Seen(
            now,
            policy.project,
            tuple(gather.bare_environment(self.loaded, n, e, pages) for n, e in policy.environments.items()),
            store,
            runs=gather.runs_of(pages, platform.node()),
            copy_within=watch.copy_within,
            wal_within=watch.wal_within,
            key_within=watch.key_within,
            channels=failing(pages),
            reviewed=gather.reviewed_of(self.loaded, pages),
            review_within=watch.review_within,
            off=frozenset(watch.off),
            vault_known=False,
        )

    def _open(self) -> Vault:
        """The vault over a store that is opened anew: one held open would not notice a disk that was taken away, and would
        keep it from being unmounted. The keys are kept: to open them by a passphrase takes a second.
        """
        known = self._vault
        if known is None:
            self._vault = open_vault(self.loaded)
        else:
            store = open_store_of(self.loaded)
            try:
                same = store.get(config.NAME) == known.config.raw
            except ObjectMissing:
                same = False
            if same:
                self._vault = Vault(store, known.config, known.keyring, ObjectCache(cache_folder(known.config.vault)))
            else:
                store.close()
                self._vault = open_vault(self.loaded)
        return self._vault

    def _slow(self, vault: Vault, context: Context, now: dt.datetime, *, write: bool) -> gather.Slow:
        kept = self._seldom(
            f"slow:{vault.id}",
            gather.SLOW_EVERY,
            now,
            lambda _: gather.slow_of(vault, context, Heads(folder_of(self.loaded))).json(),
            write=write,
        )
        return gather.Slow.from_json(kept["value"])

    def _seldom(
        self, name: str, every: dt.timedelta, now: dt.datetime, make: Callable[[Any], Any], *, write: bool
    ) -> dict[str, Any]:
        """What is made anew only so often, and at once where the clock jumped; `make` is given what there was before."""
        with self.book.look() as pages:
            known: dict[str, Any] | None = pages.note(name)
        if known is not None and dt.timedelta(0) <= now - from_iso(known["at"]) < every:
            return known
        made = {"at": iso(now), "value": make(known["value"] if known else None)}
        if write:
            with self.book.turn() as pages:
                pages.write(name, made)
        return made

    def _sign_of_life(self, result: Look, now: dt.datetime) -> tuple[str, ...]:
        """Health-gated: it is well only while no failure is open that nobody has acknowledged."""
        bad = [a for a in result.open if a.severity == "failure" and a.acknowledged_at is None]
        body = "\n".join(alert.text for alert in bad) or "all is well"
        ref = self.loaded.policy.watch.heartbeat
        error = beat(self.loaded, self.book, ref, "fail" if bad else "done", body, of="watch", now=now)
        return (error,) if error else ()


def _away(pages: Pages, now: dt.datetime) -> tuple[dt.datetime, dt.datetime] | None:
    """From when to when nobody looked, if that was long and is not long ago."""
    last = pages.note("looked")
    if last is not None and now - from_iso(last) > _AWAY:
        return from_iso(last), now
    known = pages.note("away")
    return (from_iso(known[0]), from_iso(known[1])) if known else None
