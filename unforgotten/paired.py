"""Differences of two models that were asked the same prompts, in percentage points with 95 % intervals. No numpy.

    one suite   Tango's score interval (1998), and McNemar's test on the prompts whose verdicts differ
    a mean      suites weigh equally: stratified paired bootstrap, and a sign-flip test over all suites
    seeds       in crossed.py; how small a difference n prompts can show is in power.py

Two intervals that meet do not tell whether two models differ (`rates.apart` asks for more than is needed): what most
prompts say alike cancels. Only where one verdict is a hit and the other none is there anything to learn.

A verdict that could not be read may be either. The value leaves its pair out; the interval reaches from the lowest end
of the reading that is worst for the first model to the highest of the one that is best; p is the largest of any.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import NormalDist, fmean
from typing import Any, NamedTuple

from unforgotten.rates import RESAMPLES

ALPHA = 0.05
Verdicts = Sequence[bool | None]
"""Of one model on one suite, in the prompts' order: a hit, none, or (None) a verdict that could not be read."""
Counts = tuple[int, int, int]
"""Prompts of which only the first model has a hit, only the other, and all that were asked."""

_ENUMERATED = 200_000


@dataclass(frozen=True, slots=True)
class Difference:
    """The first model's share of hits less the other's, in percentage points; None where nothing was measured."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    """Two-sided mid-p of no difference."""
    n: int
    """Pairs of verdicts, the unread ones included."""
    wins: int
    """Pairs in which only the first model has a hit."""
    losses: int
    """Pairs in which only the other has."""
    unparsed: int = 0
    """Pairs of which a verdict could not be read."""

    @property
    def clear(self) -> bool:
        """The interval leaves 0 out: a difference that may be spoken of."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    def json(self) -> dict[str, Any]:
        """Rounded as a Rate is: a ten-thousandth of a point; p to six places."""
        places = {"p": 6}
        return {k: round(v, places.get(k, 4)) if isinstance(v, float) else v for k, v in asdict(self).items()}


class McNemar(NamedTuple):
    """Two-sided p-values of the discordant pairs, wins and losses, splitting like a fair coin's throws."""

    wins: int
    losses: int
    exact: float
    """min(1, 2·P(X ≤ min(wins, losses))), X ~ Bin(wins + losses, ½). Never above its level; too cautious for most."""
    mid: float
    """exact − P(X = min): half the weight of what was seen (1 − ½·P(X = wins) at equal counts, 1 without any)."""


def mcnemar(wins: int, losses: int) -> McNemar:
    """McNemar (1947), by the binomial distribution.

    Fagerland, Lydersen and Laake (2013, BMC Med. Res. Methodol. 13:91) enumerated both: the exact test is far below its
    level, the mid-p test was never above it in 9,595 settings and is nearly as strong as the exact unconditional one.
    (Above it can be where every pair differs: 6.5 % of 50.)
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses")
    n, least = wins + losses, min(wins, losses)
    tail = sum(math.comb(n, k) for k in range(least + 1))
    seen = math.comb(n, least)
    if wins == losses:
        return McNemar(wins, losses, 1.0, 1 - seen / 2 ** (n + 1) if n else 1.0)
    return McNemar(wins, losses, min(1.0, 2 * tail / 2**n), (2 * tail - seen) / 2**n)


def tango(wins: float, losses: float, n: float, confidence: float = 1 - ALPHA) -> tuple[float, float]:
    """Tango's score interval (1998, Stat. Med. 17:891) in points: all d with |T(d)| ≤ z, for w wins and l losses of n,

        T(d) = (w − l − n·d) / √(n·(2q + d(1 − d))),   q = (√(B² − 8n·C) − B) / 4n the likeliest share of losses at d,
        B = (2n − w + l)·d − w − l,   C = −l·d(1 − d).

    It needs no correlation, has width where no pair differs (±100·z²/(n + z²), Wilson's at 0 hits), and stays within
    ±100. Newcombe's square-and-add (1998, method 10) is narrower where few pairs differ, and then too narrow. Exact
    enumeration for n = 10 to 100 (tests/test_paired.py): coverage at least 93.3 %; each end misses in at most 5.1 %.
    Counts need not be whole: crossed.py passes effective ones.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = (wins - losses) / n

    def statistic(d: float) -> float:
        b, c = (2 * n - wins + losses) * d - wins - losses, -losses * d * (1 - d)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        return (wins - losses - n * d) / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, share - d)

    def root(target: float, low: float, high: float) -> float:
        for _ in range(60):  # T falls with d
            middle = (low + high) / 2
            low, high = (middle, high) if statistic(middle) > target else (low, middle)
        return (low + high) / 2

    return 100 * root(z, -1.0, share), 100 * root(-z, share, 1.0)


def difference(one: Verdicts, other: Verdicts) -> Difference:
    """Of one suite: Tango's interval, McNemar's mid-p.

    The two agree on whether 0 is in: the interval excludes 0 where (w − l)²/(w + l) > z², and of all counts up to 400
    discordant pairs only ten (4 to 0, 15 to 6, 18 to 8 …) do so at p ≥ 0.05. There it is stretched to 0.
    """
    worst, best = readings(one, other)
    wins, losses, unread = _told(one, other)
    n = len(one)
    if n == 0:
        return Difference(None, None, None, None, 0, 0, 0, 0)
    value = 100 * (wins - losses) / (n - unread) if n > unread else None
    return _made(value, tango(*worst)[0], tango(*best)[1], largest_p([worst], [best]), n, wins, losses, unread)


def mean_difference(suites: Sequence[tuple[Verdicts, Verdicts]], seed: int = 0) -> Difference:
    """The mean of the suites' differences, each weighing the same, as `rates.mean_rate` weighs them.

    The bootstrap draws each suite's pairs anew. What has no win, or no loss, resamples to none: where a suite is so,
    the interval is widened to square-and-add of Tango's limits. Simulated for 30 to 520 prompts and a share of wins of
    0 to 50 %: each end misses in at most 3.3 % (bootstrap alone: up to 40 %).
    """
    asked = [(one, other) for one, other in suites if len(one)]
    if len(asked) < 2:
        return difference(*asked[0]) if asked else difference([], [])
    worst, best = zip(*(readings(one, other) for one, other in asked), strict=True)
    told = [_told(one, other) for one, other in asked]
    n, unread = sum(len(one) for one, _ in asked), sum(u for _, _, u in told)
    known = [len(one) > u for (one, _), (_, _, u) in zip(asked, told, strict=True)]
    shares = [100 * (w - x) / (len(one) - u) for (one, _), (w, x, u) in zip(asked, told, strict=True) if len(one) > u]
    low, high = _bootstrapped(worst, seed)
    if worst != best:
        high = _bootstrapped(best, seed)[1]
    if any(wins == 0 or losses == 0 for wins, losses, _ in (*worst, *best)):
        low = min(low, square_and_add(_limits(worst))[0])
        high = max(high, square_and_add(_limits(best))[1])
    wins, losses = sum(w for w, _, _ in told), sum(x for _, x, _ in told)
    return _made(fmean(shares) if all(known) else None, low, high, largest_p(worst, best), n, wins, losses, unread)


def sign_flip(suites: Sequence[Counts]) -> float:
    """Two-sided mid-p of the mean difference, if each discordant pair could as well have gone the other way.

    The permutation test of a stratified paired design (Fisher 1935), enumerated: suites of one size share their coins.
    Of one suite it is McNemar's mid-p. Beyond 200,000 outcomes, where there are hundreds of coins, the normal's.
    """
    scale = math.lcm(*(n for _, _, n in suites))
    seen = abs(sum((wins - losses) * (scale // n) for wins, losses, n in suites))
    coins: dict[int, int] = {}
    for wins, losses, n in suites:
        coins[scale // n] = coins.get(scale // n, 0) + wins + losses
    *others, (weight, most) = sorted(coins.items(), key=lambda item: item[1])
    if most == 0:
        return 1.0
    if math.prod(m + 1 for _, m in others) > _ENUMERATED:
        return 2 * NormalDist().cdf(-seen / math.sqrt(sum(w * w * m for w, m in coins.items())))
    rest = {0: 1.0}  # the chance of each total of all coins but those of the suites with the most
    for w, m in others:
        thrown: dict[int, float] = {}
        for k in range(m + 1):
            for total, chance in rest.items():
                at = total + w * (2 * k - m)
                thrown[at] = thrown.get(at, 0.0) + chance * math.comb(m, k) / 2**m
        rest = thrown
    heads = [math.comb(most, k) / 2**most for k in range(most + 1)]
    at_least = [*accumulate(reversed(heads))][::-1] + [0.0]
    beyond = equal = 0.0
    for total, chance in rest.items():
        # total + weight·(2k − most) is what was seen at k = same, and beyond it from the next whole k on.
        same, left = divmod(seen - total + weight * most, 2 * weight)
        beyond += chance * at_least[min(max(same + 1, 0), most + 1)]
        equal += chance * heads[same] if left == 0 and 0 <= same <= most else 0.0
    return min(1.0, 2 * beyond + equal) if seen else 1 - equal / 2


def largest_p(worst: Sequence[Counts], best: Sequence[Counts]) -> float:
    """Of all readings: 1 where some say the one and some the other, else that of the reading nearest to 0."""
    low, high = (sum((w - x) / n for w, x, n in found) for found in (worst, best))
    if low <= 0 <= high and low != high:
        return 1.0
    return sign_flip(worst if low >= 0 else best)


def readings(one: Verdicts, other: Verdicts) -> tuple[Counts, Counts]:
    """Counts where every unread verdict is read against the first model, and where it is read for it.

    Tango's ends and p rise with a win and fall with a loss, so these two bound every other reading.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} verdicts against {len(other)}: not the same prompts")
    found = []
    for ours in (False, True):
        pairs = [(ours if a is None else a, (not ours) if b is None else b) for a, b in zip(one, other, strict=True)]
        found.append((sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs)))
    return found[0], found[1]


def square_and_add(parts: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """Limits of the mean of independent parts (value, low, high): Zou and Donner 2008, Stat. Med. 27:1693."""
    middle = fmean(value for value, _, _ in parts)
    below = math.hypot(*(value - low for value, low, _ in parts)) / len(parts)
    above = math.hypot(*(high - value for value, _, high in parts)) / len(parts)
    return middle - below, middle + above


def _told(one: Verdicts, other: Verdicts) -> Counts:
    """Wins and losses among what could be read, and how many pairs could not."""
    pairs = list(zip(one, other, strict=True))
    wins, losses = sum(a is True and b is False for a, b in pairs), sum(a is False and b is True for a, b in pairs)
    return wins, losses, sum(a is None or b is None for a, b in pairs)


def _made(
    value: float | None, low: float, high: float, p: float, n: int, wins: int, losses: int, unread: int
) -> Difference:
    ends = [value] if value is not None else []  # with much unread the value may lie outside what any reading gives
    ends += [0.0] if p >= ALPHA else []
    return Difference(value, min(low, *ends, 100.0), max(high, *ends, -100.0), p, n, wins, losses, unread)


def _limits(found: Sequence[Counts]) -> list[tuple[float, float, float]]:
    return [(100 * (w - x) / n, *tango(w, x, n)) for w, x, n in found]


def _bootstrapped(found: Sequence[Counts], seed: int) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of resampled means. A suite's wins − losses is tabulated once, and drawn from by
    inversion."""
    chance = random.Random(f"paired bootstrap {seed}")
    tables = [(*_resampled(w, x, n), n) for w, x, n in found]
    drawn = sorted(
        sum(totals[bisect_left(sums, chance.random() * sums[-1])] / n for totals, sums, n in tables)
        for _ in range(RESAMPLES)
    )
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES) - 1]
    return 100 * low / len(found), 100 * high / len(found)


def _resampled(wins: int, losses: int, n: int) -> tuple[list[int], list[float]]:
    """Totals of wins − losses among n pairs drawn anew, and the cumulated weight of each."""
    weights: dict[int, float] = {}
    for w, chance in _binomial(n, wins / n):
        for x, other in _binomial(n - w, losses / (n - wins) if wins < n else 0.0):
            weights[w - x] = weights.get(w - x, 0.0) + chance * other
    totals = sorted(weights)
    return totals, [*accumulate(weights[total] for total in totals)]


def _binomial(n: int, p: float) -> list[tuple[int, float]]:
    """k and P(k hits), nine standard deviations about the mean: beyond them there is nothing to draw."""
    if p <= 0.0 or p >= 1.0 or n == 0:
        return [(n if p >= 1.0 else 0, 1.0)]
    reach = 9 * math.sqrt(n * p * (1 - p)) + 9
    ks = range(max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach)) + 1)
    yes, no, all_ = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    return [(k, math.exp(all_ - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no)) for k in ks]
