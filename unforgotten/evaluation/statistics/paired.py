"""Differences of two models that were asked the same prompts, in percentage points with 95 % intervals. No numpy.

    one suite   Tango's score interval (1998), and McNemar's exact test on the prompts whose verdicts differ
    a mean      suites weigh equally: stratified paired bootstrap
    seeds       seeds.pooled of the seeds' differences; how small a difference n prompts can show is in power.py

Two intervals that meet do not tell whether two models differ (`rates.apart` asks for more than is needed): what most
prompts say alike cancels. Only where one verdict is a hit and the other none is there anything to learn.

An interval of confidence 0.9 has two one-sided 95 % bounds as its ends: that is how non-inferiority is tested.

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
from statistics import NormalDist, fmean, pvariance
from typing import Any

from unforgotten.evaluation.statistics import seeds
from unforgotten.evaluation.statistics.rates import RESAMPLES, binomial

ALPHA = 0.05
Verdicts = Sequence[bool | None]
"""(n,) of one model on one suite, in the prompts' order: a hit, none, or (None) a verdict that could not be read."""
Counts = tuple[int, int, int]
"""Prompts of which only the first model has a hit, only the other, and all that were asked."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first model's share of hits less the other's, in percentage points; None where nothing was measured."""

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    """McNemar's exact two-sided p of no difference; None for a mean of suites or seeds, which the interval decides."""
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
        """A difference that may be spoken of: the interval leaves 0 out, and McNemar's test agrees where there is one.

        The test is the more cautious of the two: 5 wins to 0 leave 0 out of the interval at p = 0.0625.
        """
        if self.low is None or self.high is None:
            return False
        return (self.low > 0 or self.high < 0) and (self.p is None or self.p < ALPHA)

    def json(self) -> dict[str, Any]:
        """Rounded as a Rate is: a ten-thousandth of a point; p to six places."""
        places = {"p": 6}
        return {k: round(v, places.get(k, 4)) if isinstance(v, float) else v for k, v in asdict(self).items()}


def mcnemar(wins: int, losses: int) -> float:
    """McNemar's exact two-sided p: min(1, 2·P(X ≤ min(wins, losses))), X ~ Bin(wins + losses, ½) (1947).

    Never above its level. Raises ValueError for a negative count.
    """
    if wins < 0 or losses < 0:
        raise ValueError(f"{wins} wins and {losses} losses")
    n = wins + losses
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(wins, losses) + 1)) / 2**n)


def variance(wins: int, losses: int, n: int, d: float) -> float:
    """Of the share (wins − losses)/n, were the true difference d: 2q + d(1 − d) over n, q the likeliest share of
    losses at d (Tango 1998, eq. 5 to 7)."""
    b, c = (2 * n - wins + losses) * d - wins - losses, -losses * d * (1 - d)
    q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
    return max(0.0, 2 * q + d * (1 - d)) / n


def tango(wins: int, losses: int, n: int, confidence: float = 1 - ALPHA) -> tuple[float, float]:
    """Tango's score interval (1998, Stat. Med. 17:891) in points: all d with |share − d| ≤ z √variance(d).

    It needs no correlation, has width where no pair differs (±100·z²/(n + z²), Wilson's at 0 hits), and stays within
    ±100. Newcombe's square-and-add (1998, method 10) is narrower where few pairs differ, and then too narrow. Exact
    enumeration for n = 10 to 100 (tests/test_paired.py): coverage at least 93.3 %; each end misses in at most 5.1 %.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = (wins - losses) / n

    def edge(inside: float, outside: float) -> float:
        for _ in range(50):
            middle = (inside + outside) / 2
            if abs(share - middle) <= z * math.sqrt(variance(wins, losses, n, middle)):
                inside = middle
            else:
                outside = middle
        return outside

    return 100 * edge(share, -1.0), 100 * edge(share, 1.0)


def difference(one: Verdicts, other: Verdicts, confidence: float = 1 - ALPHA) -> Difference:
    """Of one suite: Tango's interval, McNemar's exact p. Raises ValueError unless there are as many of both."""
    worst, best = readings(one, other)
    wins, losses, unread = _read_counts(one, other)
    n = len(one)
    if n == 0:
        return Difference(None, None, None, None, 0, 0, 0, 0)
    value = 100 * (wins - losses) / (n - unread) if n > unread else None
    w, x = _nearest(worst, best)
    return _made(
        value, tango(*worst, confidence)[0], tango(*best, confidence)[1], mcnemar(w, x), n, (wins, losses, unread)
    )


def mean_difference(
    suites: Sequence[tuple[Verdicts, Verdicts]], seed: int = 0, confidence: float = 1 - ALPHA
) -> Difference:
    """The mean of the suites' differences, each weighing the same, as `rates.mean_rate` weighs them.

    The bootstrap draws each suite's pairs anew. What has no win, or no loss, resamples to none: where a suite is so,
    the interval is widened to square-and-add of Tango's limits (Zou and Donner 2008, Stat. Med. 27:1693). Simulated for
    two and three suites of 30 to 520 prompts and a share of wins of 0 to 50 %: each end misses in at most 3.8 %.
    """
    asked = [(one, other) for one, other in suites if len(one)]
    if len(asked) < 2:
        return difference(*asked[0], confidence) if asked else difference([], [])
    worst, best = zip(*(readings(one, other) for one, other in asked), strict=True)
    counts = [_read_counts(one, other) for one, other in asked]
    sizes = [len(one) for one, _ in asked]
    known = [100 * (w - x) / (n - u) for n, (w, x, u) in zip(sizes, counts, strict=True) if n > u]
    low, high = _bootstrapped(worst, seed, confidence)
    if worst != best:
        high = _bootstrapped(best, seed, confidence)[1]
    if any(wins == 0 or losses == 0 for wins, losses, _ in (*worst, *best)):
        low, high = min(low, _added(worst, confidence)[0]), max(high, _added(best, confidence)[1])
    totals = [sum(column) for column in zip(*counts, strict=True)]
    value = fmean(known) if len(known) == len(asked) else None
    return _made(value, low, high, None, sum(sizes), (totals[0], totals[1], totals[2]))


def over_seeds(differences: Sequence[Difference], confidence: float = 1 - ALPHA, repeated: float = 1.0) -> Difference:
    """The mean of the seeds' differences, with an interval for other prompts and another seed: `seeds.pooled`.

    A seed is paired with the same seed of the other model, whose data and draws it shares; a model that has no seeds
    (θ_safe, asked once) stands against each, and nothing is then said of another such model. confidence: that of the
    seeds' own intervals. repeated: what `repeated` says of these seeds; 1 promises least.
    """
    known = [
        (d.value, d.low, d.high)
        for d in differences
        if d.value is not None and d.low is not None and d.high is not None
    ]
    if len(differences) == 1:
        return differences[0]
    n, unread = sum(d.n for d in differences), sum(d.unparsed for d in differences)
    counts = sum(d.wins for d in differences), sum(d.losses for d in differences), unread
    if not known or len(known) < len(differences):
        return Difference(None, None, None, None, n, *counts)
    value, low, high = seeds.pooled(known, confidence, repeated)
    return Difference(value, max(-100.0, low), min(100.0, high), None, n, *counts)


def repeated(each: Sequence[Sequence[tuple[Verdicts, Verdicts]]]) -> float:
    """The share of the prompts' variance that a mean over seeds keeps: 1 where seeds agree on each prompt, 1/S where
    they have nothing in common. each: of every seed its suites, the same prompts in the same order.

        Σ_k Var_i(mean_s d_ski) / n_k  over  mean_s Σ_k Var_i(d_ski) / n_k,    d = 1, 0 or −1 of suite k, prompt i

    1 where a verdict could not be read, or where no pair differs. Simulated with one-sided 95 % bounds, for 2 to 4
    seeds of 128 to 360 prompts (300 trials each): a method at its limit passes in 1 to 4 % of cases where seeds differ
    by chance alone, in 4 to 8 % where they shift a probit by 0.15; without this share, in 0 to 1 and 1 to 5 %. A method
    as good as its reference passes more often: 73 % in place of 24 for 4 seeds, 200 prompts and a limit of 2 points.
    """
    sizes = {tuple(len(one) for one, _ in suites) for suites in each}
    if len(each) < 2 or len(sizes) != 1:
        return 1.0
    means = spread = 0.0
    for of_suite in zip(*each, strict=True):
        by_seed = [list(zip(one, other, strict=True)) for one, other in of_suite]
        if any(a is None or b is None for pairs in by_seed for a, b in pairs):
            return 1.0
        d = [[float(bool(a)) - float(bool(b)) for a, b in pairs] for pairs in by_seed]  # (S, n)
        if n := len(d[0]):
            means += pvariance([fmean(of_prompt) for of_prompt in zip(*d, strict=True)]) / n
            spread += fmean(pvariance(own) for own in d) / n
    return min(1.0, means / spread) if spread > 0 else 1.0


def readings(one: Verdicts, other: Verdicts) -> tuple[Counts, Counts]:
    """Counts where every unread verdict is read against the first model, and where it is read for it.

    Tango's ends rise with a win and fall with a loss, so these two bound every other reading. Raises ValueError where
    the two were not asked as many prompts.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} verdicts against {len(other)}: not the same prompts")
    counts = []
    for ours in (False, True):
        pairs = [(ours if a is None else a, (not ours) if b is None else b) for a, b in zip(one, other, strict=True)]
        counts.append((sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs)))
    return counts[0], counts[1]


def _nearest(worst: Counts, best: Counts) -> tuple[int, int]:
    """Wins and losses of the reading that says least; none of either where some say the one and some the other."""
    if worst[0] >= worst[1]:
        return worst[0], worst[1]
    return (best[0], best[1]) if best[0] <= best[1] else (0, 0)


def _read_counts(one: Verdicts, other: Verdicts) -> Counts:
    """Wins and losses among what could be read, and how many pairs could not."""
    pairs = list(zip(one, other, strict=True))
    wins, losses = sum(a is True and b is False for a, b in pairs), sum(a is False and b is True for a, b in pairs)
    return wins, losses, sum(a is None or b is None for a, b in pairs)


def _made(value: float | None, low: float, high: float, p: float | None, n: int, counts: Counts) -> Difference:
    if value is not None:  # with much unread it may lie outside what any reading gives
        low, high = min(low, value), max(high, value)
    return Difference(value, low, high, p, n, *counts)


def _added(counts: Sequence[Counts], confidence: float) -> tuple[float, float]:
    """Square-and-add of the suites' Tango limits."""
    parts = [(100 * (w - x) / n, *tango(w, x, n, confidence)) for w, x, n in counts]
    middle = fmean(value for value, _, _ in parts)
    below = math.hypot(*(value - low for value, low, _ in parts)) / len(parts)
    above = math.hypot(*(high - value for value, _, high in parts)) / len(parts)
    return middle - below, middle + above


def _bootstrapped(counts: Sequence[Counts], seed: int, confidence: float) -> tuple[float, float]:
    """Two percentiles of resampled means: the 2.5th and the 97.5th for 95 %.

    A suite's wins − losses is tabulated once, and drawn from by inversion.
    """
    chance = random.Random(f"paired bootstrap {seed}")
    tables = [(*_resampled(w, x, n), n) for w, x, n in counts]
    drawn = sorted(
        sum(totals[bisect_left(sums, chance.random() * sums[-1])] / n for totals, sums, n in tables)
        for _ in range(RESAMPLES)
    )
    left_out = round((1 - confidence) / 2 * RESAMPLES)  # draws beyond each end
    low, high = drawn[left_out], drawn[RESAMPLES - left_out - 1]
    return 100 * low / len(counts), 100 * high / len(counts)


def _resampled(wins: int, losses: int, n: int) -> tuple[list[int], list[float]]:
    """Totals of wins − losses among n pairs drawn anew, and the cumulated weight of each."""
    weights: dict[int, float] = {}
    for w, chance in binomial(n, wins / n):
        for x, other in binomial(n - w, losses / (n - wins) if wins < n else 0.0):
            weights[w - x] = weights.get(w - x, 0.0) + chance * other
    totals = sorted(weights)
    return totals, [*accumulate(weights[total] for total in totals)]
