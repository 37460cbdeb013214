"""Random texts in bulk: a list of `size` of them for each call, from one generator, in one order."""

from __future__ import annotations

import base64
import unicodedata
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from keepwell.demo import words

Numbers: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
Rng: TypeAlias = np.random.Generator

CAMPAIGN_MEDIA = ("cpc", "email", "social", "organic", "print")
LOCALES = ("de-DE", "en-GB", "en-US", "es-ES", "fr-FR", "sv-SE", "da-DK", "pt-BR", "it-IT", "ja-JP")


def times(microseconds: Numbers) -> list[str]:
    """`2026-11-21T19:59:58.123456+00:00`: what PostgreSQL and SQLite both read."""
    moments = microseconds.astype("datetime64[us]")
    return [f"{moment}+00:00" for moment in np.datetime_as_string(moments, unit="us").tolist()]


def picks(rng: Rng, size: int, choices: list[str] | tuple[str, ...]) -> list[str]:
    return [choices[k] for k in rng.integers(len(choices), size=size).tolist()]


def tokens(rng: Rng, size: int, length: int) -> list[str]:
    """Random tokens of `length` bytes, as URL-safe base64 without padding."""
    padded = -(-length // 3) * 3
    text = base64.urlsafe_b64encode(rng.bytes(size * padded)).decode()
    width, keep = padded // 3 * 4, -(-length * 4 // 3)
    return [text[k * width : k * width + keep] for k in range(size)]


def hexes(rng: Rng, size: int, length: int) -> list[str]:
    """Random tokens of `length` bytes, in hexadecimal."""
    text = rng.bytes(size * length).hex()
    return [text[k * 2 * length : (k + 1) * 2 * length] for k in range(size)]


@cache
def _plain(name: str) -> str:
    """As it stands in an e-mail address: `Søren` is `sren`, `O'Brien` is `obrien`."""
    ascii_only = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return "".join(c for c in ascii_only if c.isalnum())


def addresses(rng: Rng, size: int, first: list[str], last: list[str]) -> list[str]:
    """E-mail addresses of these people, at domains that belong to nobody (RFC 2606)."""
    return [
        f"{_plain(f)}.{_plain(n)}{number}@{domain}"
        for f, n, number, domain in zip(
            first, last, rng.integers(1, 100, size=size).tolist(), picks(rng, size, words.DOMAINS), strict=True
        )
    ]


def phones(rng: Rng, size: int) -> list[str]:
    return [
        f"+{31 + n % 19} {n // 10_000_000} {n // 10_000 % 1000:03d} {n % 10_000:04d}"
        for n in rng.integers(1_000_000_000, 9_999_999_999, size=size).tolist()
    ]


def companies(rng: Rng, size: int) -> list[str]:
    return [
        f"{head} {tail} {form}"
        for head, tail, form in zip(
            picks(rng, size, words.COMPANY_HEADS),
            picks(rng, size, words.COMPANY_TAILS),
            picks(rng, size, words.COMPANY_FORMS),
            strict=True,
        )
    ]


def tags(rng: Rng, size: int) -> list[str]:
    """PostgreSQL arrays of none to three tags: `{emea,"churn-risk"}` without the need for quotes."""
    counts = rng.integers(4, size=size).tolist()
    chosen = picks(rng, sum(counts), words.TAGS)
    texts, at = [], 0
    for count in counts:
        texts.append("{" + ",".join(chosen[at : at + count]) + "}")
        at += count
    return texts


def subjects(rng: Rng, size: int) -> list[str]:
    return [
        f"{subject} {company}: {topic[6:]}"
        for subject, company, topic in zip(
            picks(rng, size, words.SUBJECTS), companies(rng, size), picks(rng, size, words.TOPICS), strict=True
        )
    ]


def notes(rng: Rng, size: int, most: int) -> list[str]:
    """What salespeople type: one to `most` sentences, some on lines of their own, with names, amounts and dates."""
    counts = rng.integers(1, most + 1, size=size).tolist()
    every = _sentences(rng, sum(counts))
    joints = picks(rng, size, [" ", " ", " ", "\n", "\n- "])
    texts, at = [], 0
    for count, joint in zip(counts, joints, strict=True):
        texts.append(joint.join(every[at : at + count]))
        at += count
    return texts


def _sentences(rng: Rng, size: int) -> list[str]:
    return [
        f"{opening} {name} ({role}, ext. {number % 10_000}) {topic}; {outcome}. "
        f"Next: {step} by {1 + number // 100 % 28} {month}, {money / 100:,.2f} at stake."
        for opening, name, role, topic, outcome, step, month, number, money in zip(
            picks(rng, size, words.OPENINGS),
            picks(rng, size, words.LAST_NAMES),
            picks(rng, size, words.ROLES),
            picks(rng, size, words.TOPICS),
            picks(rng, size, words.OUTCOMES),
            picks(rng, size, words.NEXT_STEPS),
            picks(rng, size, words.MONTHS),
            rng.integers(1_000_000, size=size).tolist(),
            rng.integers(100, 90_000_000, size=size).tolist(),
            strict=True,
        )
    ]


def visits(rng: Rng, size: int, null: str) -> list[str]:
    """JSON that a web form records of a visitor; one in eight leads came without."""
    return [
        f'{{"utm": {{"campaign": "{campaign}", "medium": "{medium}"}}, "visitor": "{visitor}", "locale": "{locale}", '
        f'"ip": "198.51.{number % 256}.{number // 256 % 256}", "pages": {1 + number % 23}, "fit": {fit:.6f}}}'
        if number % 8
        else null
        for campaign, medium, visitor, locale, number, fit in zip(
            picks(rng, size, words.CAMPAIGNS),
            picks(rng, size, CAMPAIGN_MEDIA),
            tokens(rng, size, 18),
            picks(rng, size, LOCALES),
            rng.integers(1_000_000, size=size).tolist(),
            rng.random(size).tolist(),
            strict=True,
        )
    ]


def traces(rng: Rng, size: int) -> list[str]:
    """JSON that a mail or telephone gateway leaves with an activity."""
    return [
        f'{{"message_id": "<{token}@mail.example.com>", "opens": {number % 9}, "bounced": false}}'
        if number & 1
        else f'{{"call": "{token}", "sentiment": {mood:.4f}, "line": {number % 97}}}'
        for token, number, mood in zip(
            hexes(rng, size, 10),
            rng.integers(1_000_000, size=size).tolist(),
            rng.normal(0, 0.4, size).tolist(),
            strict=True,
        )
    ]
