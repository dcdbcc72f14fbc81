"""How far the model is from θ_safe: ‖θ − θ_safe‖, over all weights that the training changes.

    merged, stacked   ‖s·B·A‖ over the adapted dense weights, since a fresh adapter adds nothing at first
    continue          ‖s·(B·A − B₀·A₀)‖, likewise dense
    full              the trained tensors themselves

Of factors through their r × r Gram matrices, ‖B·A‖² = Σ (BᵀB ∘ AAᵀ), so that nothing dense is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unforgotten.errors import UnsupportedError

if TYPE_CHECKING:
    from unforgotten.methods.base import Run


def squared_norm(a: Tensor, b: Tensor) -> Tensor:
    """‖B·A‖² in float64; a (r, in), b (out, r)."""
    a, b = a.double(), b.double()
    return ((b.T @ b) * (a @ a.T)).sum()


@torch.no_grad()
def distance(run: Run, anchor: Mapping[str, Tensor]) -> float | None:
    """anchor: the trained tensors of θ_safe under `continue` and `full`. None where what is trained is no s·B·A."""
    if run.adapter_mode == "full":
        # One tensor at a time: the anchor stays where it is.
        parts = [(p.double() - anchor[n].to(p.device).double()).square().sum() for n, p in run.weights.params().items()]
        return float(torch.stack(parts).sum().sqrt())
    try:
        deltas = run.weights.deltas()
    except UnsupportedError:
        return None
    parts = []
    for delta in deltas.values():
        a, b = delta.a.detach().double(), delta.b.detach().double()
        if run.adapter_mode == "continue":
            a = torch.cat([a, anchor[delta.a_name].to(a)])
            b = torch.cat([b, -anchor[delta.b_name].to(b)], dim=1)
        parts.append(delta.scale**2 * squared_norm(a, b))
    return float(torch.stack(parts).sum().clamp_min(0).sqrt()) if parts else None
