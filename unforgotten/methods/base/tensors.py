"""Maths that several methods share, as pure functions on tensors.

B rows, T tokens, N positions, d hidden size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def squared_gap(h: Tensor, stored: Tensor, relative: bool = False) -> Tensor:
    """(h − h′)² of each number, (N, d), from h and stored, h′; relative: divided by ‖h′‖² of its position."""
    gap = (h - stored).square()
    return gap / stored.square().sum(1, keepdim=True) if relative else gap
