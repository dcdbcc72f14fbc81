"""How likely θ_safe is to refuse a prompt, on the scale of the memory: what row_weights and own_replies share.

u(x) = log mean_o exp( mean_t log p_safe(o_t | x, o_<t) )     over openings o of the memory's own refusals
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base.run import EncodedRow

TOKENS, OPENINGS = 8, 4
"""Tokens of each opening, and openings at most. [our choice]"""
SEPARATION = 0.75
"""Least chance that a refusal scores above a look-alike. [our choice]"""
LEAST = 5
"""Fewer refusals or look-alikes have no median to speak of."""


def mean_exp(logp: Tensor) -> Tensor:
    """(n, openings) -> (n,): u, the log of the mean probability over openings."""
    return logp.logsumexp(1) - math.log(logp.shape[1])


def likeness(u: Tensor, refusals: Tensor, lookalikes: Tensor) -> Tensor:
    """Where u (n,) stands between the memory's groups: −1 at the look-alikes' median, +1 at the refusals'."""
    low, high = lookalikes.quantile(0.5), refusals.quantile(0.5)
    return (2 * u - low - high) / (high - low)


def told_apart(refusals: Tensor, lookalikes: Tensor) -> float:
    """P(u of a refusal > u of a look-alike), a tie for one half: 1 where θ_safe tells them apart."""
    gaps = refusals[:, None] - lookalikes[None]
    return float((gaps > 0).double().mean() + (gaps == 0).double().mean() / 2)


def separated(refusals: Tensor, lookalikes: Tensor, least: float) -> bool:
    """Whether θ_safe tells the two apart: P at least `least`, and the refusals' median above the look-alikes'."""
    return told_apart(refusals, lookalikes) >= least and bool(refusals.quantile(0.5) > lookalikes.quantile(0.5))


def turn_starts(labels: Sequence[int]) -> list[int]:
    """Places of the first response token of each turn; a response before any prompt begins at its second token."""
    return [t for t in range(1, len(labels)) if labels[t] != -100 and (t == 1 or labels[t - 1] == -100)]


def last_answer(row: EncodedRow) -> list[int]:
    """The ids of the last turn's response, with the token that ends it."""
    return [t for t in row["labels"][turn_starts(row["labels"])[-1] :] if t != -100]


def openings(refusals: Sequence[EncodedRow], tokens: int, most: int) -> list[tuple[int, ...]]:
    """The first `tokens` response tokens of refusals: up to `most` openings that the rows have most in common with.

    Each is the one that adds most to Σ over rows of the longest beginning shared with an opening taken so far.
    """
    said = [last_answer(row) for row in refusals]
    counts = Counter(tuple(reply[:tokens]) for reply in said)
    heads = [head for head, _ in counts.most_common(200)]  # the rest are rare, and the choice is quadratic
    covered, taken = dict.fromkeys(heads, 0), list[tuple[int, ...]]()
    while len(taken) < min(most, len(heads)):
        gains = {h: sum(counts[g] * max(0, _shared(g, h) - covered[g]) for g in heads) for h in heads}
        best = max(gains, key=gains.__getitem__)
        if not gains[best]:
            break
        taken.append(best)
        covered = {g: max(covered[g], _shared(g, best)) for g in heads}
    return taken


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with."""
    same = [x == y for x, y in zip(a, b, strict=False)]
    return next((n for n, equal in enumerate(same) if not equal), len(same))
