"""Intervals against published values, exact distributions and simulation."""

from __future__ import annotations

import itertools
import json
import math
import random
import time

import pytest

from unforgotten.evaluation.statistics.rates import (
    apart,
    count,
    mean_rate,
    over_seeds,
    pass_at_k,
    rate,
    wilson,
)
from unforgotten.evaluation.statistics.seeds import pooled
from unforgotten.runs.result_types import Rate


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # GSM8K and HumanEval in 2512.10150's tables, and its three harm suites pooled.
        (110, 500, 18.6, 25.8),
        (124, 500, 21.2, 28.8),
        (31, 164, 13.6, 25.6),
        (28, 1220, 1.6, 3.3),
        (22, 1220, 1.2, 2.7),
        # Newcombe 1998, table I, method 3.
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
    ],
)
def test_wilson_gives_published_intervals(hits: int, n: int, low: float, high: float) -> None:
    places = 2 if (hits, n) in {(81, 263), (15, 148), (0, 20), (1, 29)} else 1
    assert [round(x, places) for x in wilson(hits, n)] == [low, high]


@pytest.mark.parametrize("n", [1, 3, 7, 100, 520])
def test_wilson_stays_between_0_and_100_and_is_symmetric(n: int) -> None:
    for hits in range(n + 1):
        low, high = wilson(hits, n)
        assert 0 <= low <= 100 * hits / n <= high <= 100
        other = wilson(n - hits, n)
        assert math.isclose(low, 100 - other[1], abs_tol=1e-9) and math.isclose(high, 100 - other[0], abs_tol=1e-9)
    assert wilson(0, n)[0] == 0 and wilson(n, n)[1] == 100


def test_unreadable_verdicts_widen_the_interval_both_ways() -> None:
    actual = count([True] * 10 + [False] * 80 + [None] * 10)
    assert actual == Rate(100 * 10 / 90, 10, 100, wilson(10, 100)[0], wilson(20, 100)[1], 10)
    assert count([None, None]).value is None
    assert (count([None, None]).low, count([None, None]).high) == (0.0, 100.0)
    assert count([]) == Rate(None, 0, 0, None, None, 0)
    with pytest.raises(ValueError, match="3 hits and 2 unparsed of 4"):
        rate(3, 4, 2)


def test_a_rate_survives_json() -> None:
    actual = count([True, False, None])
    assert set(actual.json()) == {"value", "hits", "n", "low", "high", "unparsed"}
    again = Rate(**json.loads(json.dumps(actual.json())))
    assert again.hits == 1 and again.n == 3 and math.isclose(again.low or 0, actual.low or 0, abs_tol=1e-4)


def test_the_mean_weighs_suites_equally_and_its_interval_is_the_bootstraps() -> None:
    suites = [rate(260, 520), rate(20, 100)]
    actual = mean_rate(suites)
    assert actual.value == pytest.approx(35.0) and actual.hits is None and actual.n is None
    # The variance of the mean is that of its parts: 1.96 standard errors, to a tenth of a point or so.
    error = 100 * math.sqrt(0.25 / 520 + 0.16 / 100) / 2
    assert actual.low == pytest.approx(35 - 1.96 * error, abs=0.6)
    assert actual.high == pytest.approx(35 + 1.96 * error, abs=0.6)
    assert actual == mean_rate(suites) and actual != mean_rate(suites, seed=1)


def test_the_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    rng, inside, trials = random.Random(0), 0, 150
    for _ in range(trials):
        suites = [rate(sum(rng.random() < p for _ in range(60)), 60) for p in (0.3, 0.6)]
        actual = mean_rate(suites, seed=0)
        inside += (actual.low or 0) <= 45 <= (actual.high or 0)
    assert 0.88 <= inside / trials <= 1.0


def test_no_hits_at_all_is_not_certainty() -> None:
    actual = mean_rate([rate(0, 100), rate(0, 100), rate(0, 100)])
    high = wilson(0, 100)[1]
    assert actual.value == actual.low == 0
    assert actual.high == pytest.approx(high / math.sqrt(3))  # square and add, by hand: √(3·h²)/3
    assert mean_rate([rate(100, 100), rate(100, 100)]).low == pytest.approx(100 - high / math.sqrt(2))
    mixed = mean_rate([rate(0, 500), rate(2, 400)])
    assert (mixed.high or 0) > 50 * 2 / 400 and mixed.low == 0


def test_a_mean_of_unread_verdicts_covers_both_readings_and_of_nothing_is_nothing() -> None:
    actual = mean_rate([rate(10, 100, unparsed=20), rate(10, 100)])
    assert actual.unparsed == 20 and (actual.low or 0) < 10 and (actual.high or 0) > 20
    assert mean_rate([]).value is None
    assert mean_rate([rate(0, 2, unparsed=2), rate(1, 2)]).value is None
    assert mean_rate([rate(3, 10)]) == Rate(30.0, None, None, *wilson(3, 10), 0)


def test_three_suites_of_500_take_a_blink() -> None:
    started = time.process_time()
    mean_rate([rate(12, 500), rate(250, 500), rate(490, 500)])
    assert time.process_time() - started < 0.3


def test_seeds_are_averaged_with_an_interval_that_stays_within_bounds() -> None:
    actual = over_seeds([rate(10, 100), rate(20, 100), rate(12, 100)])
    assert actual.value == pytest.approx(14.0) and actual.hits is None
    assert (actual.low or 0) < wilson(14, 100)[0] and (actual.high or 0) > wilson(14, 100)[
        1
    ]  # numbers in test_seeds.py
    assert over_seeds([rate(10, 100), count([])]) == rate(10, 100)
    assert over_seeds([]).value is None
    apart_ = over_seeds([rate(0, 100), rate(100, 100, unparsed=0)])
    assert (apart_.low, apart_.high) == (0.0, 100.0)
    assert over_seeds([rate(1, 10, unparsed=2), rate(1, 10)]).unparsed == 2


@pytest.mark.parametrize(
    "seeds_",
    [
        [rate(0, 8, 8), rate(1, 20), rate(2, 20)],  # one seed of which nothing was read
        [rate(0, 6, 6), rate(0, 6, 6), rate(3, 6)],
        [rate(0, 5, 5), rate(0, 5, 5)],
        [rate(1, 8, 3), rate(2, 8, 4), rate(5, 8)],
        [rate(0, 9, 9), rate(9, 9)],
    ],
)
def test_the_interval_over_seeds_holds_every_reading_of_what_was_not_read(seeds_: list[Rate]) -> None:
    """By brute force: each unread verdict of each seed as a hit and as a miss."""
    actual = over_seeds(seeds_)
    counts = [range((r.hits or 0), (r.hits or 0) + r.unparsed + 1) for r in seeds_]
    for reading in itertools.product(*counts):
        whole = [rate(hits, r.n or 0) for hits, r in zip(reading, seeds_, strict=True)]
        value, low, high = pooled([(r.value or 0.0, r.low or 0.0, r.high or 0.0) for r in whole])
        assert actual.low is not None and actual.high is not None
        assert actual.low <= max(0.0, low) + 1e-9 and actual.high >= min(100.0, high) - 1e-9, reading
        assert actual.low <= value <= actual.high
    assert actual.unparsed == sum(r.unparsed for r in seeds_)
    read = [r.value for r in seeds_ if r.value is not None]
    assert actual.value == (pytest.approx(sum(read) / len(read)) if read else None)


def test_a_seed_of_which_nothing_was_read_widens_the_interval_and_does_not_vanish() -> None:
    two, three = [rate(10, 100), rate(12, 100)], [rate(10, 100), rate(12, 100), rate(0, 100, 100)]
    narrow, wide = over_seeds(two), over_seeds(three)
    assert wide.value == narrow.value == pytest.approx(11.0) and wide.unparsed == 100
    assert (wide.low or 0) < (narrow.low or 0) and (wide.high or 0) > (narrow.high or 0)
    # Nothing was asked: that says nothing of what would have come.
    assert over_seeds([*two, count([])]) == narrow
    # Means of suites, of one of which nothing was read: they have ends and no value.
    mean = mean_rate([rate(5, 50), rate(0, 50, 50)])
    assert mean.value is None and mean.low is not None and mean.high is not None
    assert mean.low <= 5.0 and mean.high >= 55.0, "0 or 50 of 50 in the second suite"
    assert (over_seeds([mean, *two]).high or 0) > (narrow.high or 0)
    many = over_seeds([rate(0, 10, 10)] * 12)
    assert (many.value, many.low, many.high) == (None, 0.0, 100.0)


def test_apart_means_that_the_intervals_do_not_meet() -> None:
    assert apart(rate(10, 100), rate(60, 100)) and apart(rate(60, 100), rate(10, 100))
    assert not apart(rate(10, 100), rate(14, 100))
    assert not apart(rate(10, 100), count([]))


def test_pass_at_k_by_hand() -> None:
    # 5 samples of which 2 are correct. Of the 10 pairs 3 hold none of them, of the 10 triples 1, of the 5 fours 0.
    assert [pass_at_k(5, 2, k) for k in (1, 2, 3, 4, 5)] == pytest.approx([0.4, 0.7, 0.9, 1.0, 1.0])
    assert pass_at_k(1, 1, 1) == 1.0 and pass_at_k(1, 0, 1) == 0.0
    assert pass_at_k(200, 0, 100) == 0.0
    # By the product of the paper's own code: 1 − Π (1 − k/i) for i from n − c + 1 to n.
    n, c, k = 200, 13, 10
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.prod(1 - k / i for i in range(n - c + 1, n + 1)))
    # The plain estimate 1 − (1 − c/n)^k would be too low.
    assert pass_at_k(5, 2, 3) > 1 - (1 - 2 / 5) ** 3
    for wrong in [(5, 6, 1), (5, -1, 1), (5, 2, 6), (5, 2, 0)]:
        with pytest.raises(ValueError):
            pass_at_k(*wrong)
