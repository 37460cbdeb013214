"""The rows of the sample: the same seed and numbers give the same rows, whatever the database.

A row is a tuple of texts in PostgreSQL's input syntax (`NULL` stands for no value), because bulk text is the fastest
way into a server. Rows come in batches of up to 5,000. Time is the sample's own: it begins with 2025, and the first
day ends on the evening of 2026-11-21, so that two runs are equal on whatever day they happen.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from keepwell.demo import texts, words
from keepwell.demo.texts import Numbers, picks

Row: TypeAlias = tuple[str, ...]
Batch: TypeAlias = list[Row]

NULL = "\x00"
BATCH = 5000
SECOND = 1_000_000
DAY = 86_400 * SECOND
BEGIN = int(dt.datetime(2025, 1, 1, tzinfo=dt.UTC).timestamp()) * SECOND
END = int(dt.datetime(2026, 11, 21, 20, tzinfo=dt.UTC).timestamp()) * SECOND
ACTIVITIES_PER_LEAD = 4
LEADS_PER_USER = 200
LEADS_PER_DEAL = 10
MOST_CONTRACTS = 200
FIRST_CONTRACT = 800_000  # identifiers of the large objects are chosen, not given by the server: the same each time

ROLES = ("admin", "manager", "agent", "agent", "agent", "viewer")
STATUSES = ("new", "new", "contacted", "contacted", "qualified", "proposal", "negotiation", "lost", "lost")
SOURCES = ("website", "referral", "event", "import", "cold_call", "partner")
KINDS = ("call", "email", "email", "meeting", "note")
CURRENCIES = ("EUR", "EUR", "USD", "GBP", "SEK", "CHF")


@dataclass(frozen=True)
class Table:
    """Columns in the order of the rows, and which of them other databases than PostgreSQL store differently."""

    name: str
    columns: tuple[str, ...]
    binary: frozenset[str] = frozenset()
    boolean: frozenset[str] = frozenset()
    array: frozenset[str] = frozenset()
    large_object: frozenset[str] = frozenset()


USERS = Table(
    "users",
    ("id", "email", "name", "role", "password_hash", "avatar", "settings", "active", "created_at", "updated_at"),
    binary=frozenset({"avatar"}),
    boolean=frozenset({"active"}),
)
LEADS = Table(
    "leads",
    (
        *("id", "reference", "first_name", "last_name", "email", "phone", "company", "source", "status", "score"),
        *("value", "owner_id", "custom", "tags", "notes", "created_at", "updated_at"),
    ),
    array=frozenset({"tags"}),
)
ACTIVITIES = Table(
    "activities",
    ("id", "lead_id", "user_id", "kind", "subject", "body", "duration_s", "metadata", "happened_at"),
)
CLOSED_DEALS = Table(
    "closed_deals",
    ("id", "lead_id", "amount", "currency", "signed_by", "signature", "contract", "terms", "closed_at"),
    binary=frozenset({"signature"}),
    large_object=frozenset({"contract"}),
)


@dataclass(frozen=True)
class Span:
    """Consecutive ids, `first` to `last`, spread evenly over the time from `begin` to `end` (microseconds)."""

    first: int
    last: int
    begin: int = BEGIN
    end: int = END

    @property
    def count(self) -> int:
        return max(0, self.last - self.first + 1)

    def batches(self) -> Iterator[Numbers]:
        for at in range(self.first, self.last + 1, BATCH):
            yield np.arange(at, min(at + BATCH, self.last + 1))

    def times(self, ids: Numbers, rng: np.random.Generator) -> Numbers:
        """A moment for each id, rising with the ids."""
        step = (self.end - self.begin) / max(self.count, 1)
        times: Numbers = (self.begin + (ids - self.first + rng.random(len(ids))) * step).astype(np.int64)
        return times


def users(seed: int, span: Span) -> Iterator[Batch]:
    for ids in span.batches():
        rng, size = _rng(seed, 1, ids), len(ids)
        created = span.times(ids, rng)
        first, last = picks(rng, size, words.FIRST_NAMES), picks(rng, size, words.LAST_NAMES)
        weights = (rng.integers(200, 600, size=size) * (rng.random(size) < 0.5)).tolist()
        yield list(
            zip(
                map(str, ids.tolist()),
                # The id makes the address the only one of its kind.
                [
                    f"{i}.{address}"
                    for i, address in zip(ids.tolist(), texts.addresses(rng, size, first, last), strict=True)
                ],
                [f"{f} {n}" for f, n in zip(first, last, strict=True)],
                picks(rng, size, ROLES),
                [
                    f"$argon2id$v=19$m=65536,t=3,p=4${salt}${digest}"
                    for salt, digest in zip(texts.tokens(rng, size, 16), texts.tokens(rng, size, 32), strict=True)
                ],
                ["\\xffd8ffe0" + rng.bytes(weight).hex() if weight else NULL for weight in weights],
                [
                    f'{{"theme": "{theme}", "locale": "{locale}", "api_key": "{key}"}}'
                    for theme, locale, key in zip(
                        picks(rng, size, ("dark", "light")),
                        picks(rng, size, texts.LOCALES),
                        texts.tokens(rng, size, 24),
                        strict=True,
                    )
                ],
                ["t" if lucky < 0.93 else "f" for lucky in rng.random(size).tolist()],
                texts.times(created),
                texts.times(created + rng.integers(30 * DAY, size=size)),
                strict=True,
            )
        )


def leads(seed: int, span: Span, owners: int) -> Iterator[Batch]:
    """`owners`: how many users there are to own a lead."""
    for ids in span.batches():
        rng, size = _rng(seed, 2, ids), len(ids)
        created = span.times(ids, rng)
        first, last = picks(rng, size, words.FIRST_NAMES), picks(rng, size, words.LAST_NAMES)
        yield list(
            zip(
                map(str, ids.tolist()),
                [f"LD-{i:07d}" for i in ids.tolist()],
                first,
                last,
                texts.addresses(rng, size, first, last),
                texts.phones(rng, size),
                texts.companies(rng, size),
                picks(rng, size, SOURCES),
                [
                    "won" if won else status
                    for won, status in zip(_won(ids).tolist(), picks(rng, size, STATUSES), strict=True)
                ],
                map(str, rng.integers(101, size=size).tolist()),
                [f"{value:.2f}" for value in np.exp(rng.normal(8.5, 1.1, size)).tolist()],
                map(str, rng.integers(1, owners + 1, size=size).tolist()),
                texts.visits(rng, size, NULL),
                texts.tags(rng, size),
                texts.notes(rng, size, 3),
                texts.times(created),
                texts.times(np.minimum(created + rng.exponential(9 * DAY, size).astype(np.int64), span.end)),
                strict=True,
            )
        )


def activities(seed: int, span: Span, newest_lead: int, callers: int) -> Iterator[Batch]:
    """What the users (`callers` of them) did for the leads up to `newest_lead`, mostly while these were new."""
    for ids in span.batches():
        rng, size = _rng(seed, 3, ids), len(ids)
        behind = rng.exponential(max(newest_lead * 0.01, 3), size).astype(np.int64)
        durations = rng.integers(3600, size=size).tolist()
        yield list(
            zip(
                map(str, ids.tolist()),
                map(str, np.clip(ids * newest_lead // span.last - behind, 1, newest_lead).tolist()),
                map(str, rng.integers(1, callers + 1, size=size).tolist()),
                picks(rng, size, KINDS),
                texts.subjects(rng, size),
                texts.notes(rng, size, 2),
                [str(seconds) if seconds > 600 else NULL for seconds in durations],
                texts.traces(rng, size),
                texts.times(span.times(ids, rng)),
                strict=True,
            )
        )


def closed_deals(seed: int, of_leads: Span, contracts: int) -> Iterator[Batch]:
    """One deal for each lead of the span that was won; the deals 1 to `contracts` have a scanned contract."""
    for ids in of_leads.batches():
        rng = _rng(seed, 4, ids)
        won = ids[_won(ids)]
        size = len(won)
        numbers = ((won - 1) // LEADS_PER_DEAL + 1).tolist()
        closed = of_leads.times(won, rng) + rng.integers(60 * DAY, size=size)
        yield list(
            zip(
                map(str, numbers),
                map(str, won.tolist()),
                [f"{100 + amount:.2f}" for amount in np.exp(rng.normal(9, 1, size)).tolist()],
                picks(rng, size, CURRENCIES),
                [
                    f"{f} {n}"
                    for f, n in zip(
                        picks(rng, size, words.FIRST_NAMES), picks(rng, size, words.LAST_NAMES), strict=True
                    )
                ],
                ["\\x" + signature for signature in texts.hexes(rng, size, 64)],
                [str(FIRST_CONTRACT + number) if number <= contracts else NULL for number in numbers],
                [
                    f'{{"months": {months}, "discount": {discount:.3f}, "purchase_order": "{order}"}}'
                    for months, discount, order in zip(
                        (12 * rng.integers(1, 5, size=size)).tolist(),
                        rng.random(size).tolist(),
                        texts.tokens(rng, size, 9),
                        strict=True,
                    )
                ],
                texts.times(np.minimum(closed, of_leads.end)),
                strict=True,
            )
        )


def lead_changes(seed: int, ids: Numbers, moment: int) -> Iterator[Batch]:
    """`(id, status, score, notes, updated_at)` of leads that were worked on in the hour before `moment`."""
    for at in range(0, len(ids), BATCH):
        part = ids[at : at + BATCH]
        rng, size = _rng(seed, 5, part), len(part)
        yield list(
            zip(
                map(str, part.tolist()),
                picks(rng, size, STATUSES),
                map(str, rng.integers(101, size=size).tolist()),
                texts.notes(rng, size, 4),
                texts.times(moment - rng.integers(3600 * SECOND, size=size)),
                strict=True,
            )
        )


def activity_changes(seed: int, ids: Numbers) -> Iterator[Batch]:
    """`(id, subject, body)` of activities that somebody edited."""
    for at in range(0, len(ids), BATCH):
        part = ids[at : at + BATCH]
        rng, size = _rng(seed, 6, part), len(part)
        yield list(zip(map(str, part.tolist()), texts.subjects(rng, size), texts.notes(rng, size, 3), strict=True))


def contract(seed: int, identifier: int) -> bytes:
    """The bytes of one signed contract, as a scanner makes them: they do not compress."""
    rng = np.random.default_rng([seed, 7, identifier])
    return b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + rng.bytes(int(rng.integers(4_000, 60_000))) + b"\n%%EOF\n"


def microseconds(moment: dt.datetime) -> int:
    """Since 1970, as everything here counts time."""
    return (moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def _rng(seed: int, table: int, ids: Numbers) -> np.random.Generator:
    return np.random.default_rng([seed, table, int(ids[0])])


def _won(ids: Numbers) -> Numbers:
    """True for exactly one lead of each ten: `leads` and `closed_deals` agree on which without asking each other."""
    ten = (ids - 1) // LEADS_PER_DEAL
    chosen = (ten * 2_654_435_761 >> 13) % LEADS_PER_DEAL
    won: Numbers = (ids - 1) % LEADS_PER_DEAL == chosen
    return won
