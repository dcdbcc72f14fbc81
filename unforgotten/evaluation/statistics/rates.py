"""Rates in percent, never without their 95 % interval. No numpy, no torch.

    one suite     Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001 on why not the usual one)
    a mean        suites weigh equally; stratified bootstrap over prompts
    several seeds the mean of the seeds, with an interval for other prompts and other seeds (seeds.py)

A verdict that could not be read is neither hit nor miss: it is left out of the value, and the interval reaches from
"all of them are misses" to "all of them are hits".
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate, product
from statistics import NormalDist, fmean

from unforgotten.evaluation.statistics import seeds
from unforgotten.runs.result_types import Rate

RESAMPLES = 2000
"""Draws of the bootstrap: its percentiles are then good to about a tenth of the interval's width."""


def count(verdicts: Iterable[bool | None]) -> Rate:
    """The share of True; None is a verdict that could not be read."""
    listed = list(verdicts)
    unparsed = sum(v is None for v in listed)
    return rate(sum(v is True for v in listed), len(listed), unparsed)


def rate(hits: int, n: int, unparsed: int = 0) -> Rate:
    """hits of the n − unparsed readable verdicts; the interval holds for any reading of the rest."""
    if not 0 <= hits + unparsed <= n or hits < 0 or unparsed < 0:
        raise ValueError(f"{hits} hits and {unparsed} unparsed of {n}")
    if n == 0:
        return Rate(None, 0, 0, None, None, 0)
    value = 100 * hits / (n - unparsed) if n > unparsed else None
    return Rate(value, hits, n, wilson(hits, n)[0], wilson(hits + unparsed, n)[1], unparsed)


def wilson(hits: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval in percent:  (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n).

    Never narrower than it should be at 0 and n, where p ± z √(p(1−p)/n) has no width at all.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = hits / n
    middle = p + z * z / (2 * n)
    reach = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    # At the edges one end is exactly 0 or 1; rounding must not put it a hair outside.
    low = 0.0 if hits == 0 else (middle - reach) / whole
    high = 1.0 if hits == n else (middle + reach) / whole
    return 100 * low, 100 * high


def mean_of(shares: Sequence[float]) -> Rate:
    """The mean of values between 0 and 1, one for each prompt, in percent; 95 % interval by bootstrap over prompts.

    Where all are alike they resample to themselves alone; the interval is then Wilson's of so many prompts.
    """
    if not shares:
        return Rate(None, None, 0, None, None)
    n, mean = len(shares), fmean(shares)
    if min(shares) == max(shares):
        low, high = wilson(round(mean * n), n)
        return Rate(100 * mean, None, n, min(low, 100 * mean), max(high, 100 * mean))
    chance = random.Random("bootstrap of prompts")
    drawn = sorted(fmean(chance.choices(shares, k=n)) for _ in range(RESAMPLES))
    return Rate(100 * mean, None, n, 100 * drawn[int(0.025 * RESAMPLES)], 100 * drawn[int(0.975 * RESAMPLES) - 1])


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that k of n samples, drawn without replacement, hold one of the correct ones (arXiv 2107.03374).

    1 − C(n − correct, k) / C(n, k): unbiased, where 1 − (1 − correct/n)^k is too low. For one sample a problem, pass@1
    is the share that passes.
    """
    if not 0 <= correct <= n or not 1 <= k <= n:
        raise ValueError(f"{correct} correct of {n} samples, k = {k}")
    return 1 - math.comb(n - correct, k) / math.comb(n, k)


def mean_rate(rates: Sequence[Rate], seed: int = 0) -> Rate:
    """The mean of suites, each weighing the same whatever its size; 95 % interval by stratified bootstrap.

    A suite with no hit, or nothing but hits, resamples to itself alone, which would say that we are certain. The
    interval is then widened to that of the square-and-add method (Zou and Donner 2008), which uses the suites' Wilson
    limits and is not fooled so.
    """
    parts = [r for r in rates if r.n]
    if not parts or any(r.hits is None and r.value is None for r in parts):
        return Rate(None, None, None, None, None, sum(r.unparsed for r in parts))
    if len(parts) == 1:
        [only] = parts
        return Rate(only.value, None, None, only.low, only.high, only.unparsed)
    known = [r.value for r in parts if r.value is not None]
    value = fmean(known) if len(known) == len(parts) else None
    chance = random.Random(f"bootstrap {seed}")
    lows = _resampled([(_hits(r), r.n or 0) for r in parts], chance)
    unread = sum(r.unparsed for r in parts)
    highs = _resampled([(_hits(r) + r.unparsed, r.n or 0) for r in parts], chance) if unread else lows
    # [2.5 %, 97.5 %] of RESAMPLES sorted draws.
    low, high = lows[int(0.025 * RESAMPLES)], highs[int(0.975 * RESAMPLES) - 1]
    if any(_hits(r) == 0 or _hits(r) + r.unparsed == r.n for r in parts):
        # A suite of which nothing was read has no value of its own: its ends are those of its two extreme readings.
        least = [100 * _hits(r) / (r.n or 1) if r.value is None else r.value for r in parts]
        most = [100 * (_hits(r) + r.unparsed) / (r.n or 1) if r.value is None else r.value for r in parts]
        below = [v - (r.low or 0.0) for v, r in zip(least, parts, strict=True)]
        above = [(100.0 if r.high is None else r.high) - v for v, r in zip(most, parts, strict=True)]
        low = min(low, fmean(least) - math.hypot(*below) / len(parts))
        high = max(high, fmean(most) + math.hypot(*above) / len(parts))
    return Rate(value, None, None, max(0.0, low), min(100.0, high), unread)


def over_seeds(rates: Sequence[Rate]) -> Rate:
    """The mean of the seeds' values, with a 95 % interval for other prompts and another seed: `seeds.pooled`.

    The seeds answer the same prompts, so counts pooled over them would claim prompts that were never asked. Verdicts
    that could not be read are left out of the value, as in one suite, and the interval holds for any reading of them: a
    seed of which nothing was read may have any rate.
    """
    asked = [r for r in rates if r.value is not None or r.n or r.unparsed]
    unread = sum(r.unparsed for r in asked)
    if len(asked) <= 1:
        return asked[0] if asked else Rate(None, None, None, None, None, unread)
    known = [r.value for r in asked if r.value is not None]
    value = fmean(known) if known else None
    ends = [seeds.pooled(reading) for reading in _readings(asked)]
    low, high = min(low for _, low, _ in ends), max(high for _, _, high in ends)
    if value is not None:
        low, high = min(low, value), max(high, value)
    return Rate(value, None, None, max(0.0, low), min(100.0, high), unread)


Reading = tuple[float, float, float]
"""One seed's value, low and high, in percent, where its unread verdicts are read in one way."""
MOST_READINGS = 256
"""Beyond so many ways to read all seeds, only those are tried that part the seeds in two, read low and read high."""


def _readings(rates: Sequence[Rate]) -> list[list[Reading]]:
    """Ways in which the unread verdicts of all seeds can be read that bound the others; one way where all are read."""
    each = [_extremes(r) for r in rates]
    if math.prod(map(len, each)) <= MOST_READINGS:
        return [list(way) for way in product(*each)]
    return [[own[0] if i < n else own[-1] for i, own in enumerate(each)] for n in range(len(each) + 1)] + [
        [own[len(own) // 2] for own in each]
    ]


def _extremes(rate_: Rate) -> list[Reading]:
    """A seed's lowest reading, its own value where it has one, and its highest reading."""
    low, high = 0.0 if rate_.low is None else rate_.low, 100.0 if rate_.high is None else rate_.high
    own = [] if rate_.value is None else [(rate_.value, low, high)]
    if own and not rate_.unparsed:
        return own
    if rate_.hits is None or not rate_.n:  # a mean of suites: its ends already hold for any reading
        return [(low, low, low), *own, (high, high, high)]
    least, most = (rate(hits, rate_.n) for hits in (rate_.hits, rate_.hits + rate_.unparsed))
    return [_ends(least), *own, _ends(most)]


def _ends(rate_: Rate) -> Reading:
    return rate_.value or 0.0, rate_.low or 0.0, 100.0 if rate_.high is None else rate_.high


def apart(one: Rate, other: Rate) -> bool:
    """The intervals do not meet: a difference that may be spoken of. (Meeting intervals prove no equality.)"""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low > other.high or other.low > one.high


def _hits(rate: Rate) -> int:
    if rate.hits is None:
        raise ValueError("a mean of means has no prompts to resample")
    return rate.hits


def _resampled(suites: list[tuple[int, int]], chance: random.Random) -> list[float]:
    """Means of resampled suites, sorted. To draw n replies out of n with replacement and count the hits is one binomial
    draw, so each suite's distribution is tabulated once and drawn from by inversion."""
    tables = []
    for hits, n in suites:
        counts, chances = zip(*binomial(n, hits / n), strict=True)
        tables.append((counts, list(accumulate(chances)), n))
    means = []
    for _ in range(RESAMPLES):
        drawn = [100 * counts[min(bisect_left(sums, chance.random()), len(sums) - 1)] / n for counts, sums, n in tables]
        means.append(fmean(drawn))
    return sorted(means)


def binomial(n: int, p: float) -> list[tuple[int, float]]:
    """k and P(k hits of n), nine standard deviations about the mean: beyond them there is nothing to draw."""
    if p <= 0.0 or p >= 1.0 or n == 0:
        return [(n if p >= 1.0 else 0, 1.0)]
    reach = 9 * math.sqrt(n * p * (1 - p)) + 9
    ks = range(max(0, math.floor(n * p - reach)), min(n, math.ceil(n * p + reach)) + 1)
    yes, no, all_ = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    return [(k, math.exp(all_ - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * yes + (n - k) * no)) for k in ks]
