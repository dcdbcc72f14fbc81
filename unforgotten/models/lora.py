"""The trained LoRA factors of a model, module by module, as what they add to its weights: ΔW = s · B · A.

r rank, in/out the module's own sizes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unforgotten.errors import UnsupportedError


@dataclass(frozen=True)
class Delta:
    """One module's trained factors, live: with gradients, moved by every step."""

    layer: Any
    """PEFT's layer, whose input and output are those of the dense weight."""
    a: nn.Parameter
    """(r, in)."""
    b: nn.Parameter
    """(out, r)."""
    scale: float
    a_name: str
    b_name: str

    def dense(self) -> Tensor:
        """ΔW, (out, in), detached."""
        return self.scale * (self.b.detach() @ self.a.detach())


def deltas(model: Any, adapter: str) -> dict[str, Delta]:
    """One adapter's factors in each adapted linear layer, by its dotted name.

    Raises UnsupportedError where the adapter trains something that is not two factors of a linear layer (DoRA,
    embeddings, convolutions, modules_to_save): its weights would be left out without a word.
    """
    names = {id(p): n for n, p in model.named_parameters()}
    by_layer: dict[str, Delta] = {}
    factor_names: set[str] = set()
    for name, layer in model.named_modules():
        downs = getattr(layer, "lora_A", None)
        if downs is None or adapter not in downs:
            if adapter in getattr(layer, "lora_embedding_A", ()):
                raise UnsupportedError(f"{name}: its adapter changes an embedding. Adapt linear layers only.")
            continue
        if hasattr(layer, "parameter_name"):  # PEFT's target_parameters: experts of one layer as one parameter
            raise UnsupportedError(
                f"{name}: its adapter changes the parameter {layer.parameter_name!r} itself (experts, or what routes "
                "to them) and no linear layer. Name linear layers in `lora.target_modules`, such as [q_proj, k_proj, "
                "v_proj, o_proj]: all-linear takes experts in."
            )
        down, up = downs[adapter], layer.lora_B[adapter]
        if not isinstance(down, nn.Linear) or adapter in getattr(layer, "lora_variant", {}):
            raise UnsupportedError(
                f"{name}: its adapter is not ΔW = s·B·A of a linear layer. Adapt linear layers only."
            )
        if up.bias is not None:
            raise UnsupportedError(f"{name}: its adapter adds a bias (lora_bias), which no ΔW holds. Leave it out.")
        a, b = down.weight, up.weight
        by_layer[name] = Delta(layer, a, b, float(layer.scaling[adapter]), names[id(a)], names[id(b)])
        factor_names |= {names[id(a)], names[id(b)]}
    odd = [n for n, p in model.named_parameters() if p.requires_grad and n not in factor_names and ".lora_" not in n]
    if odd:
        raise UnsupportedError(
            f"The adapter also trains {', '.join(odd[:3])}, which is no ΔW = s·B·A of a linear layer. "
            "Leave out modules_to_save, embeddings and biases."
        )
    return by_layer
