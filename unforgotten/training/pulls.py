"""How strong methods pull against the user's loss, in norms of gradients over all trained tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """√ Σ over all elements of all tensors, in fp32; a scalar where the tensors are. 0 for none."""
    squares = [t.float().pow(2).sum() for t in tensors]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


@dataclass
class Pulls:
    """The norms of one step's gradients, before clipping."""

    user: Tensor
    """Of the user's loss."""
    terms: Tensor | None
    """Of what all methods added to the loss; None where none did."""
    methods: dict[str, Tensor]
    """Of each method: its term of the loss, and what it did to the gradients."""

    def add(self, method: str, size: Tensor) -> None:
        """Counts what a method's `gradients` has added to what its term has."""
        self.methods[method] = self.methods[method] + size if method in self.methods else size

    def ratio(self, size: Tensor) -> Tensor:
        """A norm over the user's."""
        return size / self.user.clamp_min(1e-30)
