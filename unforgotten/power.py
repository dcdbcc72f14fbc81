"""How small a difference n prompts can show. Pure Python.

    the same prompts   McNemar's mid-p test (paired.mcnemar), power enumerated; with many pairs, Connor's formula
    different prompts  the two-sample z test of proportions, Fleiss's formula

What pairs gain hangs on how alike the two models' verdicts are, which nobody knows beforehand: the correlation of hits
over prompts. At 0 pairs gain nothing over different prompts. Frontier models' scores on popular benchmarks correlate at
0.3 to 0.7 (Miller 2024, arXiv 2411.00640); two methods' harmful replies in the embedded world at about 0.1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

from unforgotten.paired import ALPHA, mcnemar

ENUMERATED = 100
"""Discordant pairs expected up to which the power is enumerated. Beyond, the formula is within 1 %; at 7 it asks for a
sixth more than is needed."""


def detectable(
    n: int, base_rate: float, power: float = 0.8, alpha: float = ALPHA, correlation: float | None = 0.0
) -> float | None:
    """The smallest rise, in points, from base_rate (percent) that n prompts show with this power; None: not any.

    correlation: of the two models' hits over the same prompts; None where they are asked different ones, n each. For a
    fall give 100 - base_rate.
    """
    base = base_rate / 100
    if n < 1 or not 0 <= base <= 1 or not 0 < alpha < power < 1 or not -1 <= (correlation or 0) <= 1:
        raise ValueError(
            f"{n} prompts, base rate {base_rate} %, power {power}, level {alpha}, correlation {correlation}"
        )

    top = 1 - base
    if correlation is None:
        found = _smallest(lambda rise: prompts_needed(base, base + rise, power, alpha) <= n, top)
        return None if found is None else 100 * found

    def shares(rise: float) -> tuple[float, float]:
        return discordant(base, base + rise, correlation)

    found = _smallest(lambda rise: pairs_needed(*shares(rise), power, alpha) <= n, top)
    if found is None or n * sum(shares(found)) <= ENUMERATED:

        def enough(rise: float) -> bool:
            return power_paired(n, *shares(rise), alpha) >= power

        near = min(top, 1.5 * found) if found else top
        found = _smallest(enough, near if enough(near) else top)
    return None if found is None else 100 * found


def _smallest(enough: Callable[[float], bool], top: float) -> float | None:
    low, high = 0.0, top
    if top <= 0 or not enough(top):
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def discordant(one: float, other: float, correlation: float) -> tuple[float, float]:
    """Shares of prompts that only the other, and only the one, has hits on: (wins, losses), losses = p(1 − q) − φ√(…).

    No share can be below 0, so that rates far apart are never correlated by much.
    """
    alike = correlation * math.sqrt(one * (1 - one) * other * (1 - other))
    losses = min(max(0.0, one * (1 - other) - alike), one, 1 - other)
    return losses + other - one, losses


def power_paired(n: int, wins: float, losses: float, alpha: float = ALPHA) -> float:
    """P(mid-p < alpha, and more wins than losses), enumerated over all numbers of discordant pairs and their splits."""
    differs = wins + losses
    if differs <= 0:
        return 0.0
    share, found = min(1.0, wins / differs), 0.0
    reach = 8 * math.sqrt(n * differs * max(0.0, 1 - differs)) + 8
    for m in range(max(0, math.floor(n * differs - reach)), min(n, math.ceil(n * differs + reach)) + 1):
        least = _critical(m, alpha)
        if least is not None:
            found += _chance(n, m, min(1.0, differs)) * _at_least(m, least, share)
    return found


@functools.lru_cache(maxsize=4096)
def _critical(discordant: int, alpha: float) -> int | None:
    """The fewest wins among so many discordant pairs at which mid-p is below alpha."""
    low, high = discordant // 2, discordant + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if mcnemar(middle, discordant - middle).mid < alpha else (middle, high)
    return high if high <= discordant else None


def _at_least(n: int, least: int, p: float) -> float:
    """P(X ≥ least) for X ~ Bin(n, p), until what is left is nothing."""
    found = 0.0
    for k in range(least, n + 1):
        found += (chance := _chance(n, k, p))
        if chance < 1e-12 and k > n * p:
            break
    return found


def _chance(n: int, k: int, p: float) -> float:
    if p in (0.0, 1.0):
        return float(k == n * p)
    ways = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p))


def pairs_needed(wins: float, losses: float, power: float, alpha: float) -> float:
    """Pairs needed (Connor 1987, Biometrics 43:207):  ((z_α/2 √(w + l) + z_β √(w + l − d²)) / d)²,  d = w − l."""
    d, differs = wins - losses, wins + losses
    if d <= 0:
        return math.inf
    z, zb = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    return ((z * math.sqrt(differs) + zb * math.sqrt(max(0.0, differs - d * d))) / d) ** 2


def prompts_needed(one: float, other: float, power: float, alpha: float) -> float:
    """Prompts a side (Fleiss 1981):  (z_α/2 √(2p̄(1 − p̄)) + z_β √(p(1 − p) + q(1 − q)))² / (q − p)²."""
    if other <= one:
        return math.inf
    z, zb = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    mean = (one + other) / 2
    own = one * (1 - one) + other * (1 - other)
    return ((z * math.sqrt(2 * mean * (1 - mean)) + zb * math.sqrt(own)) / (other - one)) ** 2
