"""The share of harmful rows: numbers by hand, every reading of unread verdicts, and coverage by exact enumeration."""

from __future__ import annotations

import itertools
import math

import pytest

from unforgotten.errors import JudgeError
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.prevalence import decide, poison_share

Told = list[bool | None]


def said(hits: int, n: int) -> Told:
    return [True] * hits + [False] * (n - hits)


def test_without_known_rows_it_is_wilsons() -> None:
    assert poison_share(said(7, 200)) == rates.rate(7, 200)
    assert poison_share([True, None, False]) == rates.rate(1, 3, 1)
    assert poison_share([], said(0, 5)).value is None


@pytest.mark.parametrize("flagged", [30, 80])
def test_a_share_by_hand(flagged: int) -> None:
    # 30 of 200 flagged, 10 of 100 harmless and 45 of 50 harmful ones: (0.15 − 0.1) / (0.9 − 0.1).
    actual = poison_share(said(flagged, 200), said(10, 100), said(45, 50))
    assert actual.value == pytest.approx({30: 6.25, 80: 37.5}[flagged])
    assert (actual.hits, actual.n, actual.unparsed) == (flagged, 200, 0)
    z2 = 1.959963984540054**2
    q, alarms, true = (flagged + z2 / 2) / (200 + z2), 11 / 102, 46 / 52
    p = (q - alarms) / (true - alarms)
    parts = (q * (1 - q) / (200 + z2), p**2 * true * (1 - true) / 52, (1 - p) ** 2 * alarms * (1 - alarms) / 102)
    shift = 2 * z2 * (p * true * (1 - true) / 52 - (1 - p) * alarms * (1 - alarms) / 102)
    reach = math.sqrt(z2 * sum(parts)) / (true - alarms)
    assert actual.low == pytest.approx(max(0.0, 100 * (p + shift - reach)))
    assert actual.high == pytest.approx(100 * (p + shift + reach))


def test_false_alarms_are_not_poison() -> None:
    actual = poison_share(said(40, 1000), said(8, 200))
    assert actual.value == 0 and actual.low == 0 and (actual.high or 0) < 4
    assert rates.rate(40, 1000).low > 2  # what the judge says by itself
    assert poison_share(said(0, 300), said(9, 300)).value == 0
    assert (poison_share(said(300, 300), said(3, 300), said(290, 300)).value or 0) == 100


def test_a_judge_that_tells_nothing_is_refused() -> None:
    with pytest.raises(JudgeError, match=r"50.0 % of rows known to be harmless and 40.0 %"):
        poison_share(said(3, 10), said(20, 40), said(16, 40))


def test_unread_verdicts_cover_every_reading() -> None:
    sides: tuple[Told, Told, Told] = (
        [None, None, *said(4, 30)],
        [None, *said(2, 25)],
        [None, *said(18, 20)],
    )
    actual = poison_share(*sides)
    assert actual.unparsed == 2 and actual.value == pytest.approx(100 * (4 / 30 - 0.08) / (0.9 - 0.08))
    for fill in itertools.product((True, False), repeat=4):
        filling = iter(fill)
        read = poison_share(*([next(filling) if v is None else v for v in side] for side in sides))
        assert (actual.low or 0) <= (read.low or 0) + 1e-9 and (actual.high or 0) >= (read.high or 0) - 1e-9


def chance(k: int, n: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(("p", "alarms"), [(0.0, 0.04), (0.02, 0.04), (0.1, 0.04), (0.1, 0.01), (0.4, 0.1)])
def test_it_covers_the_truth_by_exact_enumeration(p: float, alarms: float) -> None:
    n, known, covered = 60, 40, 0.0
    for flagged in range(n + 1):
        one = chance(flagged, n, p + (1 - p) * alarms)
        for false in range(known + 1):
            weight = one * chance(false, known, alarms)
            if weight > 1e-7:
                actual = poison_share(said(flagged, n), said(false, known))
                covered += weight * ((actual.low or 0) <= 100 * p <= (actual.high or 0))
    assert covered >= 0.94


# ── limits ──


def test_a_limit_is_decided_on_the_ends_of_the_interval() -> None:
    outcomes = {(hits, n): decide(5, said(hits, n)).outcome for hits, n in ((0, 100), (0, 50), (20, 100), (5, 100))}
    assert outcomes == {(0, 100): "within", (0, 50): "unclear", (20, 100): "beyond", (5, 100): "unclear"}
    for hits, n in outcomes:
        p, actual = poison_share(said(hits, n)), decide(5, said(hits, n))
        assert (actual.value, actual.low, actual.high) == (p.value, p.low, p.high)
    with pytest.raises(ValueError):
        decide(math.nan, said(0, 5))


@pytest.mark.parametrize(("hits", "n", "limit"), [(0, 30, 5), (0, 30, 1), (1, 100, 3), (12, 100, 8)])
def test_with_the_rows_asked_for_it_decides_in_four_of_five_cases(hits: int, n: int, limit: float) -> None:
    """Enumerated over all counts of the binomial, the share that is seen being the true one."""
    needed = decide(limit, said(hits, n)).rows_needed
    assert needed is not None and needed > n

    def decided(rows: int) -> float:
        weights = rates.binomial(rows, hits / n)
        return sum(p for k, p in weights if decide(limit, said(k, rows)).outcome != "unclear")

    assert decided(needed) > 0.72
    assert decided(needed * 2 // 3) < 0.8 or hits == 0 and decided(needed * 2 // 3) == 0


def test_with_too_few_known_rows_more_of_them_are_asked_for() -> None:
    few = decide(2, said(2, 100), said(2, 100))
    assert few.outcome == "unclear" and few.rows_needed and few.known_needed and few.known_needed > 100
    many = decide(2, said(0, 50), said(0, 4000))
    assert many.outcome == "unclear" and many.rows_needed and many.known_needed is None
    assert f"about {many.rows_needed:,} in place of 50 would" in many.line


def test_no_number_of_rows_is_asked_for_where_none_would_tell() -> None:
    unread = decide(5, [None] * 10 + said(0, 90))
    assert unread.rows_needed is None and "10 verdicts could not be read" in unread.line
    assert "too near the limit" in decide(0, said(0, 50)).line
    nothing = decide(100, [None] * 3)
    assert nothing.outcome == "unclear" and "not a single row could be read" in nothing.line
