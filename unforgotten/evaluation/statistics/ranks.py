"""Do two numbers rise together? Spearman's rank correlation, with a bootstrap interval. No numpy, no torch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import fmean

RESAMPLES = 2000
FEWEST = 6
"""Pairs without which nothing is told: of five, one in sixty orders is perfect by chance."""


def spearman(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's correlation of the ranks, ties sharing their mean rank; None where one of them never changes."""
    a, b = ranks(xs), ranks(ys)
    x, y = fmean(a), fmean(b)
    spread = math.sqrt(sum((i - x) ** 2 for i in a) * sum((j - y) ** 2 for j in b))
    return sum((i - x) * (j - y) for i, j in zip(a, b, strict=True)) / spread if spread > 0 else None


def ranks(values: Sequence[float]) -> list[float]:
    """From 1; equal values share the mean of their places."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranked = [0.0] * len(values)
    at = 0
    while at < len(order):
        end = at
        while end < len(order) and values[order[end]] == values[order[at]]:
            end += 1
        for i in order[at:end]:
            ranked[i] = (at + 1 + end) / 2
        at = end
    return ranked


def correlation(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float, float] | None:
    """Spearman's ρ with a 95 % interval, by bootstrap over the pairs; None where there are too few to tell."""
    value = spearman(xs, ys) if len(xs) >= FEWEST else None
    if value is None:
        return None
    chance = random.Random("bootstrap of pairs")
    drawn = []
    for _ in range(RESAMPLES):
        picked = chance.choices(range(len(xs)), k=len(xs))
        if (one := spearman([xs[i] for i in picked], [ys[i] for i in picked])) is not None:
            drawn.append(one)
    drawn.sort()
    return value, drawn[int(0.025 * len(drawn))], drawn[int(0.975 * len(drawn)) - 1]
