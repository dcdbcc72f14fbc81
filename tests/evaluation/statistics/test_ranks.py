"""Rank correlation against pandas, and its interval against what resampling would find."""

from __future__ import annotations

import random

import pytest

from unforgotten.evaluation.statistics.ranks import correlation, ranks, spearman


def test_ranks_and_correlation_are_those_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    chance = random.Random(4)
    for n in (3, 8, 30):
        xs = [chance.randint(0, 6) for _ in range(n)]  # with ties
        ys = [chance.gauss(0, 1) + 0.3 * x for x in xs]
        table = pandas.DataFrame({"x": xs, "y": ys})
        assert ranks(xs) == table["x"].rank().tolist()
        assert spearman(xs, ys) == pytest.approx(table["x"].rank().corr(table["y"].rank()), abs=1e-12)


def test_ends_and_what_cannot_be_told() -> None:
    assert correlation(range(10), [x**3 for x in range(10)]) == (1.0, 1.0, 1.0)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    assert spearman([1, 1, 1], [1, 2, 3]) is None and correlation([1.0] * 9, range(9)) is None
    assert correlation([1, 2, 3], [1, 2, 3]) is None, "three pairs tell nothing"


def test_the_interval_of_unrelated_numbers_holds_nothing_about_as_often_as_it_says() -> None:
    chance = random.Random(0)
    held = 0
    for _ in range(40):
        actual = correlation([chance.random() for _ in range(20)], [chance.random() for _ in range(20)])
        assert actual is not None
        held += actual[1] <= 0 <= actual[2]
    assert held >= 34  # 38 are expected; below 34 in about one of a hundred
