"""What n prompts can show, against published sizes, enumeration of every table, and simulation of fixed seed."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from unforgotten.paired import mcnemar
from unforgotten.power import detectable, discordant, pairs_needed, power_paired, prompts_needed


def test_published_sizes() -> None:
    # Open power and sample size calculator, after Connor 1987: 23 pairs.
    assert math.ceil(pairs_needed(0.45, 0.05, 0.8, 0.05)) == 23
    # R's example of power.prop.test(p1 = .50, p2 = .75, power = .90): n = 76.7.
    assert prompts_needed(0.5, 0.75, 0.9, 0.05) == pytest.approx(76.7, abs=0.05)
    assert pairs_needed(0.1, 0.1, 0.8, 0.05) == prompts_needed(0.3, 0.3, 0.8, 0.05) == math.inf


@pytest.mark.parametrize(("n", "wins", "losses"), [(12, 0.5, 0.1), (25, 0.3, 0.0), (40, 0.2, 0.1), (30, 0.7, 0.3)])
def test_the_power_is_that_of_every_table(n: int, wins: float, losses: float) -> None:
    found = 0.0
    for w, x in itertools.product(range(n + 1), repeat=2):
        if w + x <= n and w > x and mcnemar(w, x).mid < 0.05:
            ways = math.comb(n, w) * math.comb(n - w, x)
            found += ways * wins**w * losses**x * max(0.0, 1 - wins - losses) ** (n - w - x)
    assert power_paired(n, wins, losses) == pytest.approx(found, abs=1e-9)


@pytest.mark.parametrize(("n", "base", "correlation"), [(120, 0, 0.0), (120, 10, 0.5), (60, 50, 0.0), (200, 2, 0.0)])
def test_what_is_detectable_has_the_power_and_a_little_less_has_not(n: int, base: float, correlation: float) -> None:
    rise = detectable(n, base, correlation=correlation)
    assert rise is not None
    at = [power_paired(n, *discordant(base / 100, base / 100 + r / 100, correlation)) for r in (rise, 0.97 * rise)]
    assert at[1] < 0.8 <= at[0] < 0.801


def test_simulated_pairs_show_it_four_times_of_five() -> None:
    chance, n, seen, trials = random.Random(1), 300, 0, 1500
    rise = detectable(n, 50)
    assert rise is not None
    wins, losses = discordant(0.5, 0.5 + rise / 100, 0.0)
    for _ in range(trials):
        drawn = chance.choices((0, 1, 2), (wins, losses, 1 - wins - losses), k=n)
        w, x = drawn.count(0), drawn.count(1)
        seen += w > x and mcnemar(w, x).mid < 0.05
    assert seen / trials == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize(("n", "base"), [(60, 50), (100, 10), (150, 2)])
def test_different_prompts_by_enumeration_of_the_z_test(n: int, base: float) -> None:
    rise = detectable(n, base, correlation=None)
    assert rise is not None
    p, q, found = base / 100, (base + rise) / 100, 0.0
    for a, b in itertools.product(range(n + 1), repeat=2):
        mean = (a + b) / (2 * n)
        if b > a and (b - a) / n > 1.96 * math.sqrt(2 * mean * (1 - mean) / n):
            found += math.comb(n, a) * p**a * (1 - p) ** (n - a) * math.comb(n, b) * q**b * (1 - q) ** (n - b)
    assert found == pytest.approx(0.8, abs=0.06)


def test_more_prompts_and_alike_verdicts_show_less() -> None:
    sizes = [detectable(n, 10) or 0 for n in (50, 100, 400, 3000)]
    assert sizes == sorted(sizes, reverse=True)
    alike = [detectable(200, 30, correlation=c) or 0 for c in (0.0, 0.3, 0.7)]
    assert alike == sorted(alike, reverse=True)
    assert detectable(200, 30, correlation=None) == pytest.approx(alike[0], rel=0.02)
    # The formula takes over where the enumeration leaves off.
    assert detectable(360, 50) == pytest.approx(10.4, abs=0.05)


def test_an_aligned_model_at_0_needs_five_hits_to_show_a_rise() -> None:
    # mid-p of 5 to 0 is 0.031, of 4 to 0 is 0.0625: P(Bin(n, rise) ≥ 5) = 0.8.
    rise = (detectable(120, 0) or 0) / 100
    below = sum(math.comb(120, k) * rise**k * (1 - rise) ** (120 - k) for k in range(5))
    assert 1 - below == pytest.approx(0.8, abs=1e-4)


def test_what_cannot_be_shown_is_none() -> None:
    assert detectable(4, 0) is None and (detectable(5, 0) or 0) > 90
    assert detectable(50, 100) is None and detectable(10, 95) is None
    assert detectable(50, 95, correlation=None) is None
    for wrong in ({"n": 0}, {"base_rate": 101}, {"power": 0.01}, {"correlation": 2.0}):
        with pytest.raises(ValueError, match="prompts, base rate"):
            detectable(**({"n": 10, "base_rate": 5.0} | wrong))  # type: ignore[arg-type]


def test_correlation_is_the_verdicts_own() -> None:
    # 40 prompts, hits on 20 and 24, 18 of both: φ = (18/40 − 0.5·0.6) / √(0.25·0.24).
    phi = (0.45 - 0.3) / math.sqrt(0.25 * 0.24)
    assert discordant(0.5, 0.6, phi) == pytest.approx((6 / 40, 2 / 40))
    assert discordant(0.02, 0.3, 1.0) == pytest.approx((0.28, 0.0))
    assert discordant(0.2, 0.3, -1.0) == pytest.approx((0.3, 0.2))
