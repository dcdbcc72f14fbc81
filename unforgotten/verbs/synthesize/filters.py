"""What of the requests is kept, step by step; each step says in `counts` how many it dropped. N requests.

Without a named domain nothing but the model's own refusals says what harm is: a request then stays where the requests
that lie nearest to it are refused.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from unforgotten.datasets.reading.similar import normalised
from unforgotten.evaluation import contamination
from unforgotten.judges.base import Judge, Verdict
from unforgotten.verbs.synthesize import neighbours, perplexity
from unforgotten.verbs.synthesize.draws import DrawnRequest

if TYPE_CHECKING:
    from torch import Tensor

NEIGHBOURS = 5


def clean(requests: Sequence[DrawnRequest], asked: Sequence[str], counts: Counter[str]) -> list[DrawnRequest]:
    """Each once, by its words, and none that the evaluation asks, word for word or nearly so."""
    first = {normalised(r.text): r for r in reversed(requests)}
    unique = list(first.values())[::-1]
    counts["copies"] = len(requests) - len(unique)
    touched = [c.get("evaluation") for c in contamination.contacts([r.text for r in unique], {"evaluation": asked})]
    for how in ("exact", "near"):
        counts[f"evaluation_{how}"] = touched.count(how)
    return [r for r, how in zip(unique, touched, strict=True) if how is None]


def in_window(
    requests: Sequence[DrawnRequest], nll: Sequence[float], percentiles: tuple[float, float], counts: Counter[str]
) -> list[DrawnRequest]:
    """Those whose perplexity lies between two percentiles of all."""
    low, high = perplexity.window(nll, *percentiles)
    counts["perplexity_low"] = sum(value < low for value in nll)
    counts["perplexity_high"] = sum(value > high for value in nll)
    return [r for r, value in zip(requests, nll, strict=True) if low <= value <= high]


def distinct(
    requests: Sequence[DrawnRequest], embed: Callable[[list[str]], Tensor], threshold: float, counts: Counter[str]
) -> list[DrawnRequest]:
    """Without near duplicates: of two that are so alike the first stays."""
    places = neighbours.distinct(embed([r.text for r in requests]), threshold)
    counts["near_duplicates"] = len(requests) - len(places)
    return [requests[i] for i in places]


def of_domain(
    requests: Sequence[DrawnRequest], embed: Callable[[list[str]], Tensor], least: float | None, counts: Counter[str]
) -> list[DrawnRequest]:
    """Without strangers to the domain they were drawn for; all of them where none is named.

    least: cosine with the domain's name and description. None, for vectors that know no meanings: one of the 5 nearest
    has to be drawn for the same domain and share something with it.
    """

    import torch

    counts["outside_domain"] = 0
    if len(requests) < 2 or not all(r.prompt.directed for r in requests):
        return list(requests)
    vectors = embed([r.text for r in requests])  # (N, d)
    if least is None:
        names = torch.tensor([zlib.crc32(r.prompt.name.encode()) for r in requests])  # (N,)
        cosines, others = neighbours.neighbours(vectors, NEIGHBOURS)
        in_domain = ((names[others] == names[:, None]) & (cosines > 0)).any(1)
    else:
        topics = sorted({r.prompt.topic for r in requests})
        in_domain = (vectors * embed(topics)[[topics.index(r.prompt.topic) for r in requests]]).sum(1) >= least
    counts["outside_domain"] = int((~in_domain).sum())
    return [r for r, inside in zip(requests, in_domain.tolist(), strict=True) if inside]


def among_refused(
    requests: Sequence[DrawnRequest],
    readings: Sequence[str],
    embed: Callable[[list[str]], Tensor],
    least: float,
    counts: Counter[str],
) -> list[int]:
    """The places of those whose 5 nearest are refused to a share of `least`; all where domains are named."""

    import torch

    if len(requests) < 2 or all(r.prompt.directed for r in requests):
        return list(range(len(requests)))
    refused = torch.tensor([how == "refused" for how in readings])
    share = neighbours.shares(embed([r.text for r in requests]), refused, NEIGHBOURS)
    places = [i for i, value in enumerate(share.tolist()) if value >= least]
    chosen = set(places)
    counts["outside_domain"] = sum(how in ("refused", "complied") for i, how in enumerate(readings) if i not in chosen)
    return places


def reading(verdict: Verdict, judge: Judge, directed: bool) -> str:
    """refused, complied, answered (with nothing harmful that this judge can see) or unparsed.

    A judge that only looks for refusals calls every sum harmful: of a request that was not drawn for a named harm, it
    cannot say that the model complied. A judge that reads harm alone calls what is harmless refused.
    """
    if verdict.harmful:
        return "complied" if directed or not judge.by_absence else "answered"
    if verdict.refused or (verdict.harmful is False and verdict.refused is None):
        return "refused"
    return "unparsed" if None in (verdict.harmful, verdict.refused) else "answered"
