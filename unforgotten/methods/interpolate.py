"""Scale the fine-tuned change down to a share of itself. [WiSE-FT, arXiv 2109.01903]

    θ = θ_safe + s (θ* − θ_safe),  0 ≤ s ≤ 1

WiSE-FT takes this path between the model before and after fine-tuning, and s = 0.5 where nothing tells which (§4).
`unforgotten repair --ladder` walks the path down: it serves the largest s that passes the gate.

An adapter on θ_safe stays one: s goes into a factor. Any other change is written number by number, in fp32 at least.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Weights


def between(aligned: Tensor, tuned: Tensor, scale: float) -> Tensor:
    """θ_safe + s (θ* − θ_safe), all of one shape; fp32 at least."""
    import torch

    exact = torch.promote_types(torch.promote_types(aligned.dtype, tuned.dtype), torch.float32)
    start = aligned.to(exact)
    return torch.sub(tuned.to(exact), start).mul_(scale).add_(start)


@dataclass(kw_only=True)
class Interpolate(Method):
    """Scale the change that fine-tuning made of θ_safe: θ_safe + s (θ* − θ_safe). [WiSE-FT, arXiv 2109.01903]"""

    family: ClassVar[str] = "merging"
    neutral: ClassVar[dict[str, Any]] = {"scale": 1.0}
    needs_safety: ClassVar[bool] = False
    reads_aligned: ClassVar[bool] = True

    scale: Annotated[float, Ge(0), Le(1)] = 0.5
    """s, the share of the change that stays. 1 is the fine-tuned model, 0 is θ_safe; 0.5 is WiSE-FT's choice without
    a search."""

    def finish(self, weights: Weights) -> Iterable[tuple[str, Any]]:
        if self.scale == 1:
            return
        names = weights.tuned.names()
        factors = {name: change for name in names if (change := weights.tuned.factors(name)) is not None}
        for name, change in factors.items():
            yield name, weights.product(change.up.mul(self.scale), change.down)
        if factors:  # all else is θ_safe's own
            return
        for name in names:
            if weights.tuned.dtype(name).is_floating_point:
                yield name, weights.by_rows(name, self._between, reads=("aligned", "tuned"))

    def _between(self, aligned: Tensor, tuned: Tensor) -> Tensor:
        return between(aligned, tuned, self.scale)
