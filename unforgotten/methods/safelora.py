"""Project the fine-tuned change of some layers onto the direction in which alignment moved them. [arXiv 2405.16833]

    V = W_aligned − W_base,  ΔW = W_tuned − W_aligned;  where cos(P ΔW, ΔW) is low:  ΔW ← P ΔW

projector: reference    P = V Vᵀ / ‖V‖_F, as IBM/SafeLoRA (model.py) has it. It is no projector: its eigenvalues are
                        σ²/‖V‖_F, not 0 or 1, so that it also shrinks or stretches the change.
           orthogonal   P = U Uᵀ, U the left singular vectors of V: the true projector on V's columns, which the paper
                        writes as V(VᵀV)⁻¹Vᵀ. Where V has full rank it changes nothing.

select: lowest takes the `layers` modules of lowest cosine, the code's default (10); threshold those at or below
`threshold` (0.5 there). The code rounds cosines to five digits, which may tie more modules in; ours does not.

The maths stands in base/projection.py, since SafeMERGE selects layers by the same cosine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from unforgotten.methods.base import Method
from unforgotten.methods.base.projection import (
    Projector,
    cosine,
    is_layer,
    is_turned,
    is_whole,
    layer_cosine,
    projected,
    projected_by_rows,
)

if TYPE_CHECKING:
    from unforgotten.methods.base import Weights


@dataclass(kw_only=True)
class SafeLoRA(Method):
    """Project the fine-tuned change of some layers onto the direction in which alignment moved them. [2405.16833]"""

    family: ClassVar[str] = "merging"
    neutral: ClassVar[dict[str, Any]] = {"select": "threshold", "threshold": -1.0}
    needs_safety: ClassVar[bool] = False
    needs_unaligned_model: ClassVar[bool] = True

    projector: Projector = "reference"
    """Projector from V, the change that alignment made. `reference`: V Vᵀ/‖V‖_F as in the official code.
    `orthogonal`: the projector onto V's columns."""
    select: Literal["lowest", "threshold"] = "lowest"
    """`lowest`: the `layers` modules with the lowest cosine, as in the code. `threshold`: all modules at or below
    `threshold`."""
    layers: Annotated[int, Ge(0)] = 10
    """Number of modules projected under `lowest`. 10 is the code's value, for a model with 64 modules."""
    threshold: Annotated[float, Ge(-1), Le(1)] = 0.5
    """Highest cosine that is projected under `threshold`. 0.5 is the code's value; -1 projects nothing."""

    def finish(self, weights: Weights) -> Iterable[tuple[str, Any]]:
        layers = [name for name in weights.tuned.names() if is_layer(name, weights.tuned.shape(name))]
        cosines = {name: c for name in layers if (c := self._cosine(weights, name)) is not None}
        low = [n for n, c in cosines.items() if c <= self.threshold and self.threshold > -1]
        if self.select == "lowest":
            low = sorted(cosines, key=lambda n: cosines[n])[: self.layers]
        weights.note(
            f"safelora projected {len(low)} of {len(cosines)} modules; cosines "
            f"{min(cosines.values(), default=1):.3f} to {max(cosines.values(), default=1):.3f}"
        )
        for name in low:
            if self.projector == "reference" and is_whole(weights, name):
                yield name, projected_by_rows(weights, name)
                continue
            edited, _, down = projected(weights, name, self.projector) or (None, None, None)
            assert edited is not None
            if down is None:
                edited = edited.T if is_turned(weights, name) else edited
                yield name, edited.add_(weights.aligned[name])
            else:
                yield name, weights.product(edited, down)

    def _cosine(self, weights: Weights, name: str) -> float | None:
        """cos(P ΔW, ΔW) of one layer; None where alignment or training did nothing."""
        if self.projector == "reference":
            return layer_cosine(weights, name)
        matrices = projected(weights, name, self.projector)
        return None if matrices is None else cosine(*matrices)

    @staticmethod
    def is_layer(name: str, shape: tuple[int, ...]) -> bool:
        """Whether a weight is one that it may edit: of a linear layer, and of no embedding or head."""
        return is_layer(name, shape)
