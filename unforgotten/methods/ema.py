"""Serve the running average of the weights. [arXiv 2508.12531]

θ̄ ← m · θ̄ + (1 − m) · θ after every optimizer step, θ̄₀ = θ_safe; θ̄ is what is saved. The paper's m and cadence are in
no public code; 0.99 is a common choice, and a grid of 0.9, 0.99, 0.999 is worth a sweep. Under LoRA the factors are
averaged each by itself, which is not the average of their products. The average is kept in fp32 at least: in bf16 a
step of (1 − m) of a small change would be lost to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Lt

from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run, Weights


def averaged(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """m · average + (1 − m) · value, in the precision of `average`."""
    return average * decay + value.to(average.dtype) * (1 - decay)


@dataclass(kw_only=True)
class EMA(Method):
    """Exponential moving average: save the running average of the weights, not the last ones. [arXiv 2508.12531]"""

    family: ClassVar[str] = "trajectory"
    remembers: ClassVar[tuple[str, ...]] = ("average",)
    neutral: ClassVar[dict[str, Any]] = {"decay": 0.0}
    needs_safety: ClassVar[bool] = False

    decay: Annotated[float, Ge(0), Lt(1)] = 0.99
    """m, the share of the old average that each step keeps. With 0 the last weights are saved, as in SFT."""

    def start(self, run: Run) -> None:
        self.average = {n: p.to(_wide(p)) for n, p in run.weights.snapshot().items()}

    def after_step(self, run: Run) -> None:
        params = run.weights.params()
        for name, p in params.items():
            self.average[name] = averaged(self.average[name], p.detach(), self.decay)
        if run.logs_this_step:
            gaps = [(p.detach().double() - self.average[n].double()).square().sum() for n, p in params.items()]
            run.log(distance_from_average=sum(gaps[1:], gaps[0]).sqrt())

    def finish(self, weights: Weights) -> Iterable[tuple[str, Tensor]]:
        yield from self.average.items()


def _wide(p: Tensor) -> Any:
    import torch

    return torch.float64 if p.dtype == torch.float64 else torch.float32
