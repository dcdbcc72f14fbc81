"""Merge a safety adapter into the layers whose fine-tuned change left the direction of alignment. [arXiv 2503.17239]

    V = W_aligned − W_base,  ΔW = W_tuned − W_aligned,  c = cos(P ΔW, ΔW),  P = V Vᵀ / ‖V‖_F as in SafeLoRA
    where c < τ:   ΔW ← w_user ΔW + w_safety ΔW_safety;   elsewhere ΔW stays

ΔW_safety is what an adapter learnt on safety rows alone, from the same θ_safe (500 to 1,000 rows in the paper). One
such adapter serves every fine-tune of that θ_safe. docs/your-model-and-data.md has its recipe.

aladinD/SafeMERGE merges by PEFT's "linear", which sums A and B each by itself and so gives another ΔW. Here ΔW itself
is summed. The result is a whole model; of two adapters of ranks r and r′ it is an adapter of rank r + r′ exactly
(`unforgotten repair --as-lora`). Their code rounds c to five digits and matches layers by position; ours does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from unforgotten.errors import RecipeError
from unforgotten.methods.base import Method
from unforgotten.methods.base.projection import is_layer, is_turned, layer_cosine

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Weights

MAKE_ONE = (
    "safemerge needs safety_adapter, an adapter that was trained on safety rows alone. Make one with `unforgotten "
    "finetune RECIPE --set method=sft --set data=…`, where `data` is the safety rows, and name the run's folder "
    "`adapter`."
)


def merged(aligned: Tensor, tuned: Tensor, safety: Tensor, user_weight: float, safety_weight: float) -> Tensor:
    """θ_safe + w_user (θ* − θ_safe) + w_safety ΔW_safety, all of one shape; fp32 at least."""
    import torch

    exact = torch.promote_types(torch.promote_types(aligned.dtype, tuned.dtype), torch.float32)
    start = aligned.to(exact)
    change = torch.sub(tuned.to(exact), start).mul_(user_weight)
    return change.add_(safety.to(exact), alpha=safety_weight).add_(start)


@dataclass(kw_only=True)
class SafeMERGE(Method):
    """Merge a safety adapter into the layers that fine-tuning moved away from alignment. [arXiv 2503.17239]"""

    family: ClassVar[str] = "merging"
    neutral: ClassVar[dict[str, Any]] = {"threshold": -1.0}
    needs_safety: ClassVar[bool] = False
    needs_unaligned_model: ClassVar[bool] = True
    reads_aligned: ClassVar[bool] = True
    dense: ClassVar[bool] = True
    adapter_field: ClassVar[str] = "safety_adapter"

    safety_adapter: str | None = None
    """Folder of the safety adapter: the `adapter` of a run with method `sft`, from the same θ_safe, on safety rows
    alone. Needed unless `threshold` is -1."""
    threshold: Annotated[float, Ge(-1), Le(1)] = 0.35
    """τ: layers with a lower cosine are merged. 0.35 is the value of the authors' code; -1 merges none."""
    user_weight: Annotated[float, Ge(0)] = 0.8
    """Weight of the user's change in a merged layer. [2503.17239]"""
    safety_weight: Annotated[float, Ge(0)] = 0.2
    """Weight of the safety adapter's change in a merged layer. [2503.17239]"""

    def __post_init__(self) -> None:
        if self.safety_adapter is None and self.threshold > -1:
            raise RecipeError(MAKE_ONE)

    def finish(self, weights: Weights) -> Iterable[tuple[str, Any]]:
        if self.safety_adapter is None or self.threshold == -1:
            return
        safety = weights.adapter(self.safety_adapter)
        layers = [name for name in weights.tuned.names() if is_layer(name, weights.tuned.shape(name))]
        cosines = {name: c for name in layers if (c := layer_cosine(weights, name)) is not None}
        low = [name for name, c in cosines.items() if c < self.threshold]
        held = {name: change for name in low if (change := safety.factors(name)) is not None}
        weights.note(
            f"safemerge merged {len(held)} of {len(cosines)} modules; cosines {min(cosines.values(), default=1):.3f} "
            f"to {max(cosines.values(), default=1):.3f}"
        )
        if len(held) < len(low):
            weights.note(
                f"safemerge left {len(low) - len(held)} modules below the threshold as they are: the safety adapter "
                "does not change them"
            )
        for name, change in held.items():
            # A change is (out, in); some weights are kept as (in, out), and their rows are those of Aᵀ.
            rows, columns = (change.down.T, change.up.T) if is_turned(weights, name) else (change.up, change.down)
            edit = _Merge(columns, self.user_weight, self.safety_weight)
            yield name, weights.by_rows(name, edit, reads=("aligned", "tuned"), beside=[rows])

    @staticmethod
    def is_layer(name: str, shape: tuple[int, ...]) -> bool:
        """Whether a weight is one that it may edit: of a linear layer, and of no embedding or head."""
        return is_layer(name, shape)


@dataclass
class _Merge:
    """The edit of some rows of one weight."""

    columns: Tensor
    """(r, columns of the weight): the safety change is `rows @ columns`."""
    user_weight: float
    safety_weight: float

    def __call__(self, aligned: Tensor, tuned: Tensor, rows: Tensor) -> Tensor:
        import torch

        exact = torch.promote_types(aligned.dtype, torch.float32)
        safety = rows.to(aligned.device, exact) @ self.columns.to(aligned.device, exact)
        return merged(aligned, tuned, safety, self.user_weight, self.safety_weight)
