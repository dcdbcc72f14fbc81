"""Several seeds that were asked the same prompts: seeds and prompts are crossed. No numpy, no torch.

What is covered: a model trained with another seed, asked other prompts of the suite's kind. Pooling the replies of
three seeds would claim thrice the prompts; `rates.over_seeds` takes the envelope of the seeds' intervals, which is
wider than it need be from three seeds on, and with two may be too narrow. Here both kinds of chance are counted:

    V  =  Σ var(a prompt's mean over seeds) / n / k²  +  var(a seed's mean) / S       k suites, n prompts, S seeds

The first term is the prompts', the second the seeds' (McCullagh 2000, Bernoulli 6:285, and Owen and Eckles 2012,
arXiv 1106.2125: what a prompt does under one seed alone is in both, so V is a little too large, never too small). The
interval is the score interval (Wilson's, Tango's) of as many independent replies as would vary so much: Kish's
effective number, as Franco, Little, Louis and Slud (2019, J. Surv. Stat. Methodol. 7:334) use it for surveys; and fewer
by (z/t)², Student's t with Satterthwaite's degrees of freedom. It has width at 0 hits and stays within its bounds.

A two-way bootstrap was tried and is not used: two or three seeds resample to themselves too often. Simulated (one and
three suites of 120 prompts, rates of 2 to 50 %, seeds that shift a probit by 0, 0.15 or 0.3: at 10 % their own rates
then vary by 0, 2.6 or 5.3 points; 400 times each), 95 % intervals held the truth in

                  5 seeds     3 seeds     2 seeds
    here          94 to 98    91 to 100   89 to 99      % of the cases, the lowest where seeds differ most
    bootstrap     90 to 98    82 to 98    70 to 99
    over_seeds    100         98 to 100   88 to 100     (one suite)

One seed says nothing of others: then this is the plain interval, over prompts alone. Two say little: where they differ,
the interval is as wide as it is because t with one degree of freedom is 12.7.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, variance

from unforgotten import rates
from unforgotten.paired import ALPHA, Difference, Verdicts, mean_difference, tango
from unforgotten.rates import Rate

Cells = Sequence[Sequence[int]]
"""Of one suite: (S, n) hits (1, 0), or differences of two models' verdicts (1, 0, -1)."""

_Z = NormalDist().inv_cdf(1 - ALPHA / 2)
_FEWEST = 1e-3


def mean_rate(suites: Sequence[Sequence[Verdicts]], seed: int = 0) -> Rate:
    """The mean of the suites' shares over seeds. suites[k][s] are seed s's verdicts, in the prompts' order.

    The value is the mean of the seeds' values, as in `rates.over_seeds`.
    """
    asked = [suite for suite in suites if len(suite) and len(suite[0])]
    seeds = _seeds(asked)
    counts = [[rates.count(verdicts) for verdicts in suite] for suite in asked]
    if seeds <= 1:
        return rates.mean_rate([suite[0] for suite in counts], seed)
    unread = sum(r.unparsed for suite in counts for r in suite)
    if any(r.value is None for suite in counts for r in suite):
        return Rate(None, None, None, None, None, unread)
    value = fmean(r.value for suite in counts for r in suite if r.value is not None)
    ends = []
    for hit in (False, True) if unread else (False,):
        found = _spread([[[int(hit if v is None else v) for v in row] for row in suite] for suite in asked])
        ends.append(rates.wilson(found.wins * found.effective, found.effective))
    return Rate(value, None, None, min(value, ends[0][0]), max(value, ends[-1][1]), unread)


def difference(suites: Sequence[tuple[Sequence[Verdicts], Sequence[Verdicts]]], seed: int = 0) -> Difference:
    """The mean over suites of what the one has more than the other. suites[k] = (the one's seeds, the other's).

    Seeds are paired in their order: a seed's own data and draws are the same on both sides. A model that has no seeds
    (θ_safe, asked once) is given once and stands against each; nothing is then said of another such model.
    """
    asked = [(one, other) for one, other in suites if len(one) and len(one[0])]
    pairs = [[(a, b) for a, b in _paired(one, other)] for one, other in asked]
    seeds = _seeds(pairs)
    if seeds <= 1:
        return mean_difference([suite[0] for suite in pairs], seed)
    told = [(a, b) for suite in pairs for one, other in suite for a, b in zip(one, other, strict=True)]
    wins, losses = sum(a is True and b is False for a, b in told), sum(a is False and b is True for a, b in told)
    unread = sum(a is None or b is None for a, b in told)
    found = [
        _spread([[_less(one, other, ours) for one, other in suite] for suite in pairs])
        for ours in ((False, True) if unread else (False,))
    ]
    worst, best = found[0], found[-1]
    straddles = unread > 0 and worst.wins <= worst.losses and best.wins >= best.losses
    p = 1.0 if straddles else max(spread.p() for spread in found)
    shares = [fmean(known) for suite in pairs for one, other in suite if (known := _known(one, other))]
    value = 100 * fmean(shares) if len(shares) == seeds * len(pairs) else None
    inside = [*([value] if value is not None else []), *([0.0] if p >= ALPHA else [])]
    low, high = min(worst.tango()[0], *inside, 100.0), max(best.tango()[1], *inside, -100.0)
    return Difference(value, low, high, p, len(told), wins, losses, unread)


# ── both kinds of chance ──


@dataclass(frozen=True, slots=True)
class _Spread:
    wins: float
    """Share of cells that are 1, the mean of the suites."""
    losses: float
    """… that are -1."""
    plain: float
    """Independent replies whose mean would vary as much."""
    effective: float
    """The same with Student's t in place of z."""
    freedom: float

    def tango(self) -> tuple[float, float]:
        return tango(self.wins * self.effective, self.losses * self.effective, self.effective)

    def p(self) -> float:
        """Tango's statistic at 0 by Student's t: below 0.05 just where the interval leaves 0 out."""
        differ = self.wins + self.losses
        return student(abs(self.wins - self.losses) * math.sqrt(self.plain / differ), self.freedom) if differ else 1.0


def _spread(suites: Sequence[Cells]) -> _Spread:
    k, seeds = len(suites), len(suites[0])
    wins, losses = (fmean(fmean(v == sign for row in c for v in row) for c in suites) for sign in (1, -1))
    prompts = [variance(map(fmean, zip(*c, strict=True))) / len(c[0]) / k**2 if len(c[0]) > 1 else 0.0 for c in suites]
    at = [fmean(fmean(c[s]) for c in suites) for s in range(seeds)]  # (S,)
    ours, theirs = sum(prompts), variance(at) / seeds
    # From the prompts' number, where all seeds do alike, to S times as many, where each does as it likes. Suites of
    # different sizes count as their harmonic mean does.
    number = k**2 / sum(1 / len(c[0]) for c in suites)
    alone = wins + losses - (wins - losses) ** 2
    plain = number * min(float(seeds), max(1.0, alone / ours / number)) if ours > 0 else number
    if ours + theirs == 0:
        return _Spread(wins, losses, plain, plain, math.inf)
    plain = max(_FEWEST, plain * ours / (ours + theirs))
    loose = theirs**2 / (seeds - 1) + sum(v**2 / (len(c[0]) - 1) for v, c in zip(prompts, suites, strict=True) if v)
    freedom = (ours + theirs) ** 2 / loose
    return _Spread(wins, losses, plain, max(_FEWEST, plain * (_Z / student_quantile(ALPHA, freedom)) ** 2), freedom)


def _less(one: Verdicts, other: Verdicts, ours: bool) -> list[int]:
    """Differences, unread verdicts read for the one (ours) or against it."""
    pairs = zip(one, other, strict=True)
    return [int(ours if a is None else a) - int((not ours) if b is None else b) for a, b in pairs]


def _known(one: Verdicts, other: Verdicts) -> list[int]:
    return [int(a) - int(b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]


def _paired(one: Sequence[Verdicts], other: Sequence[Verdicts]) -> list[tuple[Verdicts, Verdicts]]:
    seeds = max(len(one), len(other))
    if any(len(side) not in (1, seeds) for side in (one, other)):
        raise ValueError(f"{len(one)} seeds against {len(other)}: they cannot be paired")
    return [(one[s % len(one)], other[s % len(other)]) for s in range(seeds)]


def _seeds(suites: Sequence[Sequence[object]]) -> int:
    counts = {len(suite) for suite in suites}
    if len(counts) > 1:
        raise ValueError(f"suites of different numbers of seeds: {sorted(counts)}")
    return counts.pop() if counts else 0


# ── Student's t ──


def student(t: float, freedom: float) -> float:
    """P(|T| > t): with T = √ν·tan θ the density is cos(θ)^(ν−1), summed by Simpson's rule."""
    if math.isinf(freedom) or freedom > 1e6:
        return 2 * NormalDist().cdf(-t)
    end, steps = math.atan(t / math.sqrt(freedom)), 100
    heights = [math.cos(end * i / steps) ** (freedom - 1) for i in range(steps + 1)]
    inside = end / steps / 3 * (heights[0] + heights[-1] + 4 * sum(heights[1:-1:2]) + 2 * sum(heights[2:-1:2]))
    whole = math.sqrt(math.pi) / 2 * math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom + 1) / 2))
    return max(0.0, 1 - inside / whole)


def student_quantile(alpha: float, freedom: float) -> float:
    """t with P(|T| > t) = alpha, for one degree of freedom or more."""
    low, high = 0.0, 2 / alpha
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) > alpha else (low, middle)
    return (low + high) / 2
