"""How small a difference n prompts can show, if two models answer the same ones. Pure Python.

McNemar's test sees the prompts whose verdicts differ. How many will is not known beforehand: it hangs on the
correlation of the two models' hits over prompts. At 0 pairs gain nothing over different prompts. Frontier models'
scores on popular benchmarks correlate at 0.3 to 0.7 (Miller 2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from statistics import NormalDist

from unforgotten.evaluation.statistics.paired import ALPHA


def detectable(n: int, base_rate: float, power: float = 0.8, correlation: float = 0.0) -> float | None:
    """The smallest rise, in points, from base_rate (percent) that n prompts show with this power; None: not any.

    correlation: of the two models' hits over prompts; 0, the default, promises least. For a fall give 100 − base_rate.
    Against McNemar's exact test, enumerated for n = 30 to 520 and base rates of 0 to 50 %: too small by 1 to 6 % of
    itself. Raises ValueError where an argument is out of its bounds.
    """
    base = base_rate / 100
    if n < 1 or not 0 <= base <= 1 or not ALPHA < power < 1 or not -1 <= correlation <= 1:
        raise ValueError(f"{n} prompts, base rate {base_rate} %, power {power}, correlation {correlation}")
    low, high = 0.0, 1 - base

    def needed(rise: float) -> float:
        return pairs_needed(*discordant(base, base + rise, correlation), power)

    if high <= 0 or needed(high) > n:
        return None
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (low, middle) if needed(middle) <= n else (middle, high)
    return 100 * high


def discordant(one: float, other: float, correlation: float) -> tuple[float, float]:
    """Shares of prompts that only the other, and only the one, has hits on: (wins, losses), losses = p(1 − q) − φ√(…).

    No share can be below 0, so that rates far apart are never correlated by much.
    """
    alike = correlation * math.sqrt(one * (1 - one) * other * (1 - other))
    losses = min(max(0.0, one * (1 - other) - alike), one, 1 - other)
    return losses + other - one, losses


def pairs_needed(wins: float, losses: float, power: float) -> float:
    """Pairs needed (Connor 1987, Biometrics 43:207):  ((z_α/2 √(w + l) + z_β √(w + l − d²)) / d)²,  d = w − l."""
    d, differs = wins - losses, wins + losses
    if d <= 0:
        return math.inf
    z, zb = NormalDist().inv_cdf(1 - ALPHA / 2), NormalDist().inv_cdf(power)
    # A rise that leaves no room for losses needs six wins at least: 5 to 0 are p = 0.0625.
    return max(6.0, ((z * math.sqrt(differs) + zb * math.sqrt(max(0.0, differs - d * d))) / d) ** 2)
