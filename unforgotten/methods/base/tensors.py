"""Maths that several methods share, as pure functions on tensors.

B rows, T tokens, N positions, d hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def ranks_in_turn(counts: Tensor) -> Tensor:
    """(B, T) booleans of response positions -> (N,): 0 for the first response token of each turn, 1 for the next …"""
    import torch

    at = torch.arange(counts.shape[1], device=counts.device).expand(counts.shape)  # (B, T)
    outside = torch.where(counts, torch.full_like(at, -1), at).cummax(1).values  # the last position outside the turn
    return (at - outside - 1)[counts]


def first_weights(counts: Tensor, first: int, weight: float) -> Tensor:
    """(B, T) booleans of response positions -> (N,): `weight` for the first tokens of each turn, 1 for the others."""
    import torch

    return torch.where(ranks_in_turn(counts) < first, weight, 1.0)


def overlap(dot: Tensor, norm_squared: Tensor) -> Tensor:
    """How much of g_safe to take out of g: g·g_safe / ‖g_safe‖² where that is negative, else 0."""
    return (dot.double() / norm_squared.double().clamp_min(1e-300)).clamp_max(0)


def squared_gap(h: Tensor, stored: Tensor, relative: bool = False) -> Tensor:
    """(h − h′)² of each number, (N, d), from h and stored, h′; relative: divided by ‖h′‖² of its position."""
    gap = (h - stored).square()
    return gap / stored.square().sum(1, keepdim=True) if relative else gap
