"""Seeds pooled: numbers by hand, printed tables of Student's t, and simulation of fixed seed."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.seeds import pooled, student_quantile

Z = 1.959963984540054


@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (120, 1.9799), (1e9, Z)],
)
def test_student_is_the_tables(freedom: float, t: float) -> None:
    assert student_quantile(freedom) == pytest.approx(t, abs=1e-4)


@pytest.mark.parametrize(("freedom", "t"), [(1, 6.3138), (2, 2.9200), (3, 2.3534), (10, 1.8125), (30, 1.6973)])
def test_a_one_sided_bound_has_students_t_of_its_own(freedom: float, t: float) -> None:
    assert student_quantile(freedom, 0.9) == pytest.approx(t, abs=1e-4)


def test_students_t_between_whole_degrees_of_freedom() -> None:
    # R: qt(.975, c(1.5, 2.5)).
    assert student_quantile(1.5) == pytest.approx(6.0, abs=0.2)
    assert student_quantile(3) < student_quantile(2.5) < student_quantile(2)


def test_one_seed_is_its_own_interval_and_none_is_an_error() -> None:
    assert pooled([(10, 7, 16)]) == (10, 7, 16)
    with pytest.raises(ValueError, match="no seeds"):
        pooled([])


def test_two_seeds_by_hand() -> None:
    # Values 10 and 14: s = 2√2, b = 2. Below both reach 3.92 = 2 z, so a = 2 and ν = 1·(1 + 1)² = 4: t = 2.7764.
    # Above both reach 7.84, so a = 4 and ν = (1 + 4)² = 25: t = 2.0595.
    reach = 2 * Z
    actual = pooled([(10, 10 - reach, 10 + 2 * reach), (14, 14 - reach, 14 + 2 * reach)])
    assert actual == pytest.approx((12, 12 - 2.7764 * math.sqrt(8), 12 + 2.0595 * math.sqrt(20)), abs=1e-3)


def test_two_seeds_by_hand_with_one_sided_bounds() -> None:
    # As above, with z = 1.6449: t of 4 degrees is 2.1318, of 25 degrees 1.7081.
    reach = 2 * 1.6448536
    actual = pooled([(10, 10 - reach, 10 + 2 * reach), (14, 14 - reach, 14 + 2 * reach)], 0.9)
    assert actual == pytest.approx((12, 12 - 2.1318 * math.sqrt(8), 12 + 1.7081 * math.sqrt(20)), abs=1e-3)


def test_seeds_that_do_alike_leave_the_prompts_chance_and_seeds_apart_say_little() -> None:
    assert pooled([(10, 7, 16)] * 3) == pytest.approx((10, 7, 16))
    # No chance of prompts: the t interval of two values, 12.7 standard errors.
    assert pooled([(10, 10, 10), (12, 12, 12)]) == pytest.approx((11, 11 - 12.7062, 11 + 12.7062), abs=1e-3)


@pytest.mark.parametrize(("seeds", "sigma", "most"), [(3, 0.0, 0.05), (3, 0.3, 0.12), (2, 0.15, 0.12)])
def test_pooled_seeds_cover_the_truth_about_as_often_as_they_say(seeds: int, sigma: float, most: float) -> None:
    chance, missed, trials = random.Random(2), 0, 100
    middle = NormalDist().inv_cdf(0.1) * math.sqrt(1 + sigma**2)
    for _ in range(trials):
        prompts = [chance.gauss(0, math.sqrt(0.6)) for _ in range(60)]
        parts = []
        for _ in range(seeds):
            shift = middle + sigma * chance.gauss(0, 1)
            hits = sum(shift + easy + chance.gauss(0, math.sqrt(0.4)) > 0 for easy in prompts)
            parts.append((100 * hits / 60, *rates.wilson(hits, 60)))
        _, low, high = pooled(parts)
        missed += not low <= 10 <= high
    assert missed / trials <= most
