"""What n prompts can show, against published sizes and enumeration of McNemar's exact test."""

from __future__ import annotations

import math

import pytest

from unforgotten.evaluation.statistics.paired import mcnemar
from unforgotten.evaluation.statistics.power import detectable, discordant, pairs_needed


def test_published_sizes() -> None:
    # Open power and sample size calculator, after Connor 1987: 23 pairs.
    assert math.ceil(pairs_needed(0.45, 0.05, 0.8)) == 23
    assert pairs_needed(0.1, 0.1, 0.8) == math.inf


def chance(n: int, k: int, p: float) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


def power_of(n: int, wins: float, losses: float) -> float:
    """P(exact p < 0.05 and more wins than losses), over all numbers of discordant pairs and all their splits."""
    differs, actual = wins + losses, 0.0
    for m in range(n + 1):
        if (weight := chance(n, m, differs)) > 1e-9:
            said = (k for k in range(m, m // 2, -1) if mcnemar(k, m - k) < 0.05)
            actual += weight * sum(chance(m, k, wins / differs) for k in said)
    return actual


@pytest.mark.parametrize(
    ("n", "base", "correlation"),
    [(30, 0, 0.0), (60, 10, 0.0), (60, 50, 0.5), (120, 0, 0.0), (120, 2, 0.0), (120, 30, 0.5), (200, 10, 0.5)],
)
def test_what_is_detectable_is_so_in_four_cases_of_five(n: int, base: float, correlation: float) -> None:
    rise = detectable(n, base, correlation=correlation)
    assert rise is not None
    shares = [discordant(base / 100, (base + r) / 100, correlation) for r in (0.99 * rise, 1.06 * rise)]
    assert power_of(n, *shares[0]) < 0.8 <= power_of(n, *shares[1])


def test_more_prompts_and_alike_verdicts_show_less() -> None:
    sizes = [detectable(n, 10) or 0 for n in (50, 100, 400, 3000)]
    assert sizes == sorted(sizes, reverse=True)
    alike = [detectable(200, 30, correlation=c) or 0 for c in (0.0, 0.3, 0.7)]
    assert alike == sorted(alike, reverse=True)


def test_what_cannot_be_shown_is_none() -> None:
    assert detectable(5, 0) is None and (detectable(6, 0) or 0) > 80
    assert detectable(50, 100) is None and detectable(10, 95) is None
    for wrong in ({"n": 0}, {"base_rate": 101}, {"power": 0.01}, {"correlation": 2.0}):
        with pytest.raises(ValueError, match="prompts, base rate"):
            detectable(**({"n": 10, "base_rate": 5.0} | wrong))  # type: ignore[arg-type]


def test_correlation_is_the_verdicts_own() -> None:
    # 40 prompts, hits on 20 and 24, 18 of both: φ = (18/40 − 0.5·0.6) / √(0.25·0.24).
    phi = (0.45 - 0.3) / math.sqrt(0.25 * 0.24)
    assert discordant(0.5, 0.6, phi) == pytest.approx((6 / 40, 2 / 40))
    assert discordant(0.02, 0.3, 1.0) == pytest.approx((0.28, 0.0))
    assert discordant(0.2, 0.3, -1.0) == pytest.approx((0.3, 0.2))
