"""Two judges on the same replies: Cohen's κ with its 95 % interval, and where they differ. No numpy, no torch.

    κ = (a − e) / (1 − e)      a: share of replies on which they agree
                               e: the share that chance would give two judges with their rates, Σ pᵢ. p.ᵢ

The interval is κ ± 1.96 s with the large-sample s of Fleiss, Cohen and Everitt (1969),

    n (1 − e)² s² = Σᵢ pᵢᵢ (1 − (pᵢ. + p.ᵢ)(1 − κ))² + (1 − κ)² Σᵢ≠ⱼ pᵢⱼ (p.ᵢ + pⱼ.)² − (κ − e (1 − κ))²

which is 0 where they agree throughout, or never: there the interval is Wilson's of a, with e held fixed. κ falls as one
answer becomes rare, though the judges agree as before: read it beside a.

κ is undefined where a judge gives every reply the same answer. Then a = e whatever the other says, so that κ would be 0
of a judge that is nearly always right and of one that never is (Feinstein and Cicchetti 1990, J Clin Epidemiol 43:543).

A reply that either judge could not read, or does not judge, is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

from unforgotten.evaluation.statistics.rates import wilson


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two judges agree. κ and its interval are None where they are undefined."""

    kappa: float | None
    low: float | None
    high: float | None
    agree: float | None
    """Share of replies on which they agree, in percent."""
    n: int
    """Replies that both could read."""
    unread: int
    """Replies that at least one could not."""

    def json(self) -> dict[str, Any]:
        """As results.json has it, rounded to four places."""
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in asdict(self).items()}


def agreement(one: Sequence[bool | None], other: Sequence[bool | None]) -> Agreement:
    """Of two judges' truths on the same replies, None where one could not be read.

    κ is None for no replies, and where either judge says the same of every reply that both could read.
    """
    pairs = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    n, unread = len(pairs), len(one) - len(pairs)
    if not n:
        return Agreement(None, None, None, None, 0, unread)
    p = {(a, b): pairs.count((a, b)) / n for a in (True, False) for b in (True, False)}
    same = sum(a == b for a, b in pairs)
    agree = same / n
    mine = {x: sum(a is x for a, _ in pairs) / n for x in (True, False)}
    theirs = {x: sum(b is x for _, b in pairs) / n for x in (True, False)}
    chance = sum(mine[x] * theirs[x] for x in (True, False))
    if 1.0 in mine.values() or 1.0 in theirs.values():
        return Agreement(None, None, None, 100 * agree, n, unread)
    kappa = (agree - chance) / (1 - chance)
    on = sum(p[x, x] * (1 - (mine[x] + theirs[x]) * (1 - kappa)) ** 2 for x in (True, False))
    off = sum(p[a, b] * (theirs[a] + mine[b]) ** 2 for a, b in p if a != b) * (1 - kappa) ** 2
    variance = max(0.0, on + off - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    reach = NormalDist().inv_cdf(0.975) * math.sqrt(variance)
    low, high = kappa - reach, kappa + reach
    if same in (0, n):
        low, high = ((share / 100 - chance) / (1 - chance) for share in wilson(same, n))
    return Agreement(kappa, max(-1.0, low), min(1.0, high), 100 * agree, n, unread)


def disagreements(one: Sequence[bool | None], other: Sequence[bool | None]) -> list[int]:
    """The places at which the two judges say the opposite, for somebody to read those replies."""
    pairs = zip(one, other, strict=True)
    return [place for place, (a, b) in enumerate(pairs) if a is not None and b is not None and a != b]
