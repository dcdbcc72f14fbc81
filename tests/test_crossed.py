"""Seeds and prompts crossed: numbers by hand, tables of Student's t, and simulation of fixed seed."""

from __future__ import annotations

import math
import random
from statistics import NormalDist

import pytest

from unforgotten import crossed, paired, rates
from unforgotten.crossed import student, student_quantile

Z = 1.959963984540054


def seeds_of(*rows: str) -> list[list[bool | None]]:
    """One suite from rows such as `1100?`."""
    return [[None if c == "?" else c == "1" for c in row] for row in rows]


@pytest.mark.parametrize(
    ("freedom", "t"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (120, 1.9799)]
)
def test_student_is_the_tables(freedom: float, t: float) -> None:
    assert student_quantile(0.05, freedom) == pytest.approx(t, abs=1e-4)
    assert student(t, freedom) == pytest.approx(0.05, abs=1e-5)


def test_student_at_one_degree_of_freedom_is_cauchys_and_at_many_the_normals() -> None:
    for t in (0.0, 0.3, 1.0, 7.0):
        assert student(t, 1) == pytest.approx(1 - 2 * math.atan(t) / math.pi)
        assert student(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t))
        assert student(t, math.inf) == pytest.approx(student(t, 1e5), abs=1e-4)
    assert student_quantile(0.05, math.inf) == pytest.approx(Z)
    assert student_quantile(0.05, 1.5) < student_quantile(0.05, 1)


def test_one_seed_is_the_plain_interval() -> None:
    one, two = seeds_of("1100100000"), seeds_of("1110000000")
    assert crossed.mean_rate([one]) == rates.mean_rate([rates.count(one[0])])
    assert crossed.mean_rate([one, two]) == rates.mean_rate([rates.count(one[0]), rates.count(two[0])])
    assert crossed.difference([(one, two)]) == paired.difference(one[0], two[0])
    assert crossed.mean_rate([]).value is None and crossed.difference([]).value is None


def test_a_rate_by_hand() -> None:
    # Prompts' means 1, ½, ½, 0: variance 1/6. Seeds' means ¾, ¼: variance 1/8.
    found = crossed.mean_rate([seeds_of("1110", "1000")])
    assert found.value == 50 and found.hits is None and found.n is None
    prompts, seeds = 1 / 6 / 4, 1 / 8 / 2
    freedom = (prompts + seeds) ** 2 / (seeds**2 / 1 + prompts**2 / 3)
    plain = 4 * (0.25 / (1 / 6)) * prompts / (prompts + seeds)  # 1.5 of 2 seeds' worth, less what the seeds vary
    n = plain * (Z / student_quantile(0.05, freedom)) ** 2
    assert (found.low, found.high) == pytest.approx(rates.wilson(n / 2, n))


def test_seeds_that_do_alike_count_once_and_seeds_apart_count_each() -> None:
    chance = random.Random(3)
    row = [chance.random() < 0.2 for _ in range(200)]
    alike = crossed.mean_rate([[row, row, row]])
    plain = rates.count(row)
    assert alike.value == plain.value
    assert 0 <= (plain.low or 0) - (alike.low or 0) < 0.2 and 0 <= (alike.high or 0) - (plain.high or 0) < 0.2
    free = crossed.mean_rate([[[chance.random() < 0.2 for _ in range(200)] for _ in range(3)]])
    width, hits = (free.high or 0) - (free.low or 0), (free.value or 0) / 100
    once, thrice = rates.wilson(hits * 200, 200), rates.wilson(hits * 600, 600)
    assert width < 0.9 * (once[1] - once[0])  # more replies tell more
    assert width > thrice[1] - thrice[0]  # but never as much as 600 prompts would


def test_seeds_that_differ_widen_it_beyond_any_one_of_them() -> None:
    rows = [[i < hits for i in range(100)] for hits in (5, 20, 50)]
    found = crossed.mean_rate([rows])
    assert found.value == pytest.approx(25) and (found.low or 0) < 5 and (found.high or 0) > 60
    assert crossed.mean_rate([rows]) == found  # nothing is drawn


def test_no_hit_has_width_and_all_stay_within_bounds() -> None:
    none = seeds_of("0" * 50, "0" * 50, "0" * 50)
    found = crossed.mean_rate([none])
    assert (found.value, found.low) == (0, 0) and found.high == pytest.approx(rates.wilson(0, 50)[1])
    all_or_none = crossed.mean_rate([seeds_of("1" * 10, "0" * 10)])
    assert all_or_none.value == 50 and (all_or_none.low or 0) < 1 and 99 < (all_or_none.high or 0) <= 100
    both = crossed.difference([(seeds_of("1" * 9, "1" * 9), seeds_of("0" * 9, "0" * 9))])
    assert both.value == both.high == 100 and (both.low or 0) > 40 and (both.p or 1) < 0.01


def test_a_difference_pairs_prompts_and_seeds() -> None:
    one, other = seeds_of("111000", "110000"), seeds_of("100000", "100001")
    found = crossed.difference([(one, other)])
    assert found.value == pytest.approx(100 * (2 / 6 + 0 / 6) / 2)
    assert (found.n, found.wins, found.losses, found.unparsed) == (12, 3, 1, 0)
    turned = crossed.difference([(other, one)])
    assert turned.value == -(found.value or 0) and turned.p == found.p
    assert (turned.low, turned.high) == pytest.approx((-(found.high or 0), -(found.low or 0)))
    # A model without seeds stands against each.
    assert crossed.difference([(one, other[:1])]) == crossed.difference([(one, [other[0], other[0]])])
    with pytest.raises(ValueError, match="2 seeds against 3"):
        crossed.difference([(one, [*other, other[0]])])
    with pytest.raises(ValueError, match="different numbers of seeds"):
        crossed.mean_rate([one, one[:1]])


def test_p_and_interval_never_say_different_things() -> None:
    chance, clear = random.Random(11), 0
    for _ in range(60):
        size, seeds, shift = chance.choice((20, 60)), chance.choice((2, 3)), chance.choice((0.0, 0.2, 0.5))
        one = [[chance.random() < 0.3 + shift for _ in range(size)] for _ in range(seeds)]
        other = [[chance.random() < 0.3 for _ in range(size)] for _ in range(seeds)]
        found = crossed.difference([(one, other), (other, other)])
        assert found.clear == ((found.p or 0) < 0.05)
        clear += found.clear
    assert 5 < clear < 55


def test_the_mean_weighs_suites_equally_and_seeds_are_shared_by_them() -> None:
    big, small = seeds_of("1" * 30 + "0" * 70, "1" * 40 + "0" * 60), seeds_of("1" + "0" * 9, "1" * 2 + "0" * 8)
    assert crossed.mean_rate([big, small]).value == pytest.approx((35 + 15) / 2)
    # What one seed does in every suite does not average out over suites.
    rows = [[i < hits for i in range(100)] for hits in (5, 20, 50)]
    once, thrice = crossed.mean_rate([rows]), crossed.mean_rate([rows] * 3)
    assert (thrice.high or 0) - (thrice.low or 0) > 0.8 * ((once.high or 0) - (once.low or 0))


def test_unread_verdicts_cover_both_readings() -> None:
    rate = crossed.mean_rate([seeds_of("11?0000000", "1100000000")])
    low, high = (crossed.mean_rate([seeds_of(row, "1100000000")]) for row in ("1100000000", "1110000000"))
    assert rate.unparsed == 1 and (rate.low, rate.high) == (low.low, high.high)
    assert rate.value == pytest.approx(100 * (2 / 9 + 2 / 10) / 2)
    assert crossed.mean_rate([seeds_of("??", "11")]).value is None
    plain = seeds_of("1000000000", "1000000000")
    found = crossed.difference([(seeds_of("11?0000000", "1100000000"), plain)])
    assert found.unparsed == 1 and (found.low or 0) <= (found.value or 0) <= (found.high or 0)
    against = crossed.difference([(seeds_of("?000000000", "0?00000000"), seeds_of("0" * 10, "0" * 9 + "1"))])
    assert against.p == 1 and not against.clear


def test_crossed_seeds_cover_the_truth_about_as_often_as_it_says() -> None:
    chance, normal = random.Random(2), NormalDist()
    for seeds, sigma, worst in ((3, 0.0, 0.07), (3, 0.3, 0.11), (2, 0.15, 0.11)):
        missed, trials, middle = 0, 80, normal.inv_cdf(0.1) * math.sqrt(1 + sigma**2)
        for _ in range(trials):
            prompts = [chance.gauss(0, math.sqrt(0.6)) for _ in range(60)]
            rows: list[list[bool | None]] = []
            for _ in range(seeds):
                shift = middle + sigma * chance.gauss(0, 1)
                rows.append([shift + easy + chance.gauss(0, math.sqrt(0.4)) > 0 for easy in prompts])
            found = crossed.mean_rate([rows])
            missed += not (found.low or 0) <= 10 <= (found.high or 0)
        assert missed / trials <= worst, (seeds, sigma)
