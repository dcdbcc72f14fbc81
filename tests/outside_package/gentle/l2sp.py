"""Pull the weights back to where fine-tuning started. [L2-SP, arXiv 1802.01483]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from unforgotten import Method


@dataclass(kw_only=True)
class L2SP(Method):
    """Pull the weights back to where fine-tuning started. [arXiv 1802.01483]"""

    family: ClassVar[str] = "regularization"
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30}
    needs_safety: ClassVar[bool] = False

    weight: Annotated[float, Ge(0)] = 0.1
    """α, on half the squared distance from θ_safe; 0 is SFT."""

    def start(self, run: Any) -> None:
        self._first = run.weights.anchor()

    def gradients(self, run: Any) -> None:
        for name, p in run.weights.params().items():
            p.grad += self.weight * (p.detach() - self._first[name])
