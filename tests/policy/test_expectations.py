import datetime as dt
from decimal import Decimal

import pytest

from keepwell.policy.expect import parse


@pytest.mark.parametrize(
    ("text", "holds", "fails"),
    [
        ("= 0", [0, 0.0, Decimal(0), "0", "0.00"], [1, -1, None, "none", ""]),
        ("== 0", [0], [1]),
        ("=0", [0], [1]),
        ("!= 0", [1, -0.5, "text"], [0, "0", None]),
        ("<> 0", [1], [0]),
        ("> 10", [11, 10.5, "11", Decimal("10.01")], [10, 9, "9", None, "text"]),
        (">= 1", [1, 2], [0, None]),
        ("< 5", [4, -100], [5, 6]),
        ("<= 5", [5], [5.1]),
        ("= -1.5e3", [-1500], [1500]),
        ("between 1 and 5", [1, 3, 5, "5"], [0, 6, None, "text"]),
        ("BETWEEN -1 AND 1", [0], [2]),
        ("= 'done'", ["done"], ["Done", "", None, 1]),
        ("!= 'it''s'", ["its"], ["it's", None]),
        (">= '2026-01-01'", ["2026-01-02", dt.date(2026, 1, 2)], ["2025-12-31", None]),
        ("= ''", [""], [" ", None]),
        ("= true", [True, 1, "t", "true"], [False, 0, "f", None]),
        ("!= true", [False, 0], [True]),
        ("= false", [False, 0, "f"], [True, "x"]),
        ("= null", [None], [0, ""]),
        ("!= null", [0, ""], [None]),
        ("= 12345678901234567890", [12345678901234567890], [12345678901234567891]),
    ],
)
def test_an_expectation_holds_for_what_it_says_and_for_nothing_else(text, holds, fails):
    expectation = parse(text)
    assert [value for value in holds if not expectation.holds(value)] == []
    assert [value for value in fails if expectation.holds(value)] == []


def test_not_a_number_is_no_number():
    assert not parse("= 0").holds(float("nan"))
    assert not parse("> 0").holds(float("nan"))
    assert parse("> 0").holds(float("inf"))


@pytest.mark.parametrize(
    "text", ["", "0", "is 0", "= x", "= 1 or 1", "~ 3", "between 1", "= 'a'b'", "= 1; drop", "> 1,000"]
)
def test_what_is_no_expectation_is_refused_with_the_forms(text):
    with pytest.raises(ValueError, match='is not an expectation; write for example "= 0"'):
        parse(text)


def test_an_expectation_that_can_never_hold_is_refused():
    with pytest.raises(ValueError, match="can never hold"):
        parse("between 5 and 1")


@pytest.mark.parametrize("text", ["> true", "<= null"])
def test_an_order_of_what_has_none_is_refused(text):
    with pytest.raises(ValueError, match="can only be compared with = and !="):
        parse(text)


def test_an_expectation_shows_as_it_was_written():
    assert str(parse("  >=   1 ")) == ">=   1"
