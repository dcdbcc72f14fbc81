"""What lies near what, among vectors of length one: near duplicates, and a text's nearest neighbours. N texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


BLOCK = 1024
"""Lines compared at once: N² products are never in memory together."""


def distinct(vectors: Tensor, threshold: float) -> list[int]:
    """The texts kept when, in order, each kept one removes those after it whose cosine reaches the threshold."""

    import torch

    gone = torch.zeros(len(vectors), dtype=torch.bool)
    chosen: list[int] = []
    for at in range(0, len(vectors), BLOCK):
        alike = vectors[at : at + BLOCK] @ vectors.T >= threshold  # (block, N)
        for line, near in enumerate(alike):
            if gone[at + line]:
                continue
            chosen.append(at + line)
            near[: at + line + 1] = False
            gone |= near
    return chosen


def neighbours(vectors: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosines and numbers (N, k) of each text's k nearest others, or of all others where there are fewer."""

    import torch

    k = min(k, len(vectors) - 1)
    sims, places = [], []
    for at in range(0, len(vectors), BLOCK):
        each = vectors[at : at + BLOCK] @ vectors.T  # (block, N)
        each[torch.arange(len(each)), at + torch.arange(len(each))] = -2.0
        nearest = each.topk(k, 1)
        sims.append(nearest.values)
        places.append(nearest.indices)
    return torch.cat(sims), torch.cat(places)


def shares(vectors: Tensor, marked: Tensor, k: int) -> Tensor:
    """(N,) share of marked ones among each text's k nearest others, weighted by cosine; 0 where none is alike."""
    sims, places = neighbours(vectors, k)
    weight = sims.clamp(min=0)  # (N, k)
    return (weight * marked[places].float()).sum(1) / weight.sum(1).clamp(min=1e-9)
