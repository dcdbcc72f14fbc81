"""κ and its interval, worked out by hand and by another route; and the replies on which two judges differ."""

from __future__ import annotations

import json
import math
import random

import pytest

from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.agreement import Agreement, agreement, disagreements

Cells = tuple[int, int, int, int]
"""Replies on which both say yes, only the first, only the second, neither."""


def judged(both: int, first: int, second: int, neither: int) -> tuple[list[bool | None], list[bool | None]]:
    pairs = [(True, True)] * both + [(True, False)] * first + [(False, True)] * second + [(False, False)] * neither
    random.Random(0).shuffle(pairs)
    return [a for a, _ in pairs], [b for _, b in pairs]


def test_an_example_by_hand() -> None:
    """20 and 15 alike of 50: a = 0.7; yes at 0.5 and 0.6, so e = 0.5·0.6 + 0.5·0.4 = 0.5; κ = 0.4.

    Σᵢ  0.4 (1 − 1.1·0.6)² + 0.3 (1 − 0.9·0.6)² = 0.04624 + 0.06348
    Σᵢⱼ 0.36 (0.1 (0.6 + 0.5)² + 0.2 (0.4 + 0.5)²) = 0.10188          less (0.4 − 0.5·0.6)² = 0.01
    s² = 0.2016 / (50 · 0.25) = 0.016128, s = 0.126996
    """
    actual = agreement(*judged(20, 5, 10, 15))
    assert actual.kappa == pytest.approx(0.4) and actual.agree == pytest.approx(70.0)
    assert actual.low == pytest.approx(0.4 - 1.959964 * math.sqrt(0.016128), abs=1e-6)
    assert actual.high == pytest.approx(0.4 + 1.959964 * math.sqrt(0.016128), abs=1e-6)
    assert (actual.n, actual.unread) == (50, 0)


def by_differences(cells: Cells) -> tuple[float, float]:
    """κ and s, the latter from κ's slopes in the four cells and the multinomial covariance of their shares."""
    n = sum(cells)
    p = [cell / n for cell in cells]

    def kappa(q: list[float]) -> float:
        a, b, c, d = q
        chance = (a + b) * (a + c) + (c + d) * (b + d)
        return ((a + d) - chance) / (1 - chance)

    slopes = []
    for i in range(4):
        up, down = ([q + sign * 1e-6 * (i == j) for j, q in enumerate(p)] for sign in (1, -1))
        slopes.append((kappa(up) - kappa(down)) / 2e-6)
    mean = sum(s * q for s, q in zip(slopes, p, strict=True))
    return kappa(p), math.sqrt(sum(q * (s - mean) ** 2 for s, q in zip(slopes, p, strict=True)) / n)


@pytest.mark.parametrize("cells", [(20, 5, 10, 15), (40, 9, 6, 45), (3, 20, 25, 2), (5, 3, 2, 190), (60, 1, 30, 9)])
def test_the_closed_form_is_the_delta_method(cells: Cells) -> None:
    actual, (kappa, s) = agreement(*judged(*cells)), by_differences(cells)
    assert actual.kappa == pytest.approx(kappa, abs=1e-9)
    assert actual.low is not None and actual.high is not None
    assert actual.low == pytest.approx(max(-1.0, kappa - 1.959964 * s), abs=1e-6)
    assert actual.high == pytest.approx(min(1.0, kappa + 1.959964 * s), abs=1e-6)


def test_full_agreement_is_not_certain() -> None:
    """s is 0 there; Wilson's interval of 20 of 20 begins at 83.9 %, and (0.839 − 0.5) / 0.5 = 0.678."""
    actual = agreement(*judged(10, 0, 0, 10))
    assert (actual.kappa, actual.high, actual.agree) == (1.0, 1.0, 100.0)
    assert actual.low == pytest.approx(2 * rates.wilson(20, 20)[0] / 100 - 1) and 0.67 < (actual.low or 0) < 0.68


def test_opposite_judges_and_independent_ones() -> None:
    actual = agreement(*judged(0, 10, 10, 0))
    assert actual.kappa == -1.0 == actual.low and -1 < (actual.high or 0) < 0
    assert agreement(*judged(25, 25, 25, 25)).kappa == pytest.approx(0.0)


def test_where_chance_explains_everything_there_is_no_kappa() -> None:
    assert agreement(*judged(0, 0, 0, 9)) == Agreement(None, None, None, 100.0, 9, 0)
    assert agreement(*judged(7, 0, 0, 0)) == Agreement(None, None, None, 100.0, 7, 0)
    assert agreement([], []) == Agreement(None, None, None, None, 0, 0)
    assert agreement([None, True], [True, None]) == Agreement(None, None, None, None, 0, 2)


@pytest.mark.parametrize("cells", [(9, 1, 0, 0), (9, 0, 1, 0), (0, 5, 0, 0), (0, 1, 0, 9), (0, 0, 1, 9), (0, 0, 7, 0)])
def test_kappa_of_a_constant_judge_is_undefined(cells: Cells) -> None:
    """Its formula gives 0, however often the two agree: it would say "no better than chance" of 9 in 10."""
    actual = agreement(*judged(*cells))
    assert (actual.kappa, actual.low, actual.high) == (None, None, None)
    assert actual.agree == pytest.approx(100 * (cells[0] + cells[3]) / sum(cells)) and actual.n == sum(cells)
    # What is constant among the replies that both could read counts, and no other.
    one, other = judged(*cells)
    assert agreement([*one, True, False], [*other, None, None]).kappa is None
    assert json.loads(json.dumps(actual.json(), allow_nan=False))["kappa"] is None


def test_a_rare_answer_lowers_kappa_though_they_agree_as_before() -> None:
    even, rare = agreement(*judged(45, 5, 5, 45)), agreement(*judged(0, 5, 5, 90))
    assert even.agree == rare.agree == 90.0
    assert (even.kappa or 0) == pytest.approx(0.8) and (rare.kappa or 0) < 0


def test_unread_replies_are_left_out_and_counted() -> None:
    one, other = judged(20, 5, 10, 15)
    more = agreement([*one, None, True, None], [*other, True, None, None])
    assert (more.kappa, more.n, more.unread) == (agreement(one, other).kappa, 50, 3)
    with pytest.raises(ValueError):
        agreement(one, other[1:])


def test_the_interval_covers_what_it_says() -> None:
    """2,000 samples of 60 replies from shares whose κ is 0.5: 95 % of the intervals hold it, and not all."""
    cells, rng = [0.35, 0.1, 0.15, 0.4], random.Random(1)
    a, b, c, d = cells
    chance = (a + b) * (a + c) + (c + d) * (b + d)
    kappa = (a + d - chance) / (1 - chance)
    held = 0
    for _ in range(2000):
        drawn = rng.choices(range(4), cells, k=60)
        actual = agreement([x < 2 for x in drawn], [x in (0, 2) for x in drawn])
        assert actual.low is not None and actual.high is not None
        held += actual.low <= kappa <= actual.high
    assert 0.93 <= held / 2000 <= 0.98


def test_the_replies_on_which_they_differ_are_named() -> None:
    one, other = [True, True, None, False, False], [True, False, True, None, True]
    assert disagreements(one, other) == [1, 4] and disagreements([], []) == []


def test_it_is_json() -> None:
    assert agreement(*judged(20, 5, 10, 15)).json() == {
        "kappa": 0.4,
        "low": 0.1511,
        "high": 0.6489,
        "agree": 70.0,
        "n": 50,
        "unread": 0,
    }
