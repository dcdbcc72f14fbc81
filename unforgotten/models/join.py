"""θ_safe's adapter and the user's above it as one adapter, exactly; what has no exact sum is refused before training.

    linear (also Conv1D)   B₁A₁·s₁ + B₂A₂·s₂ = [B₁ B₂] · [s₁A₁; s₂A₂]; biases of B add up as s₁b₁ + s₂b₂
    embedding              the same with the factors of its rows
    modules_to_save        the whole module of whichever adapter has it

DoRA divides by the norm of the weight with its own change in it, so a sum of two has no DoRA form. r an adapter's rank
in one module, R the joined one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from unforgotten.errors import UnsupportedError

WAY_OUT = (
    "`stack` saves two adapters as one, and this adapter has no exact sum with another. Use lora.existing: merge "
    "(θ_safe's adapter becomes part of its base), or lora.existing: continue (training continues on that adapter)."
)


def refuse(model: Any, adapters: tuple[str, str]) -> None:
    """Raises UnsupportedError for what cannot be joined exactly: named, before anything is trained.

    model: with both adapters on it. adapters: the lower one's name and the upper one's.
    """
    for name in adapters:
        config = model.peft_config[name]
        kind = str(getattr(config.peft_type, "value", config.peft_type))
        if kind != "LORA":
            raise UnsupportedError(f"The adapter {name!r} is {kind} and not a LoRA. {WAY_OUT}")
        if getattr(config, "layer_replication", None):
            raise UnsupportedError(f"The adapter {name!r} repeats layers (layer_replication). {WAY_OUT}")
    for path, module in model.named_modules():
        reason = _odd(module, adapters)
        if reason:
            raise UnsupportedError(f"{path}: {reason}. {WAY_OUT}")


def _odd(module: Any, adapters: tuple[str, str]) -> str | None:
    """What of a module has no exact sum, in words; None where all has."""
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper

    if isinstance(module, AuxiliaryTrainingWrapper):
        if not isinstance(module, ModulesToSaveWrapper):
            here = [a for a in adapters if a in _names(module)]
            return f"the adapter {here[0]!r} trains single rows (trainable_token_indices)" if here else None
        if all(a in module.modules_to_save for a in adapters):
            return "both adapters replace this whole module (modules_to_save)"
        if any(isinstance(inner, LoraLayer) for inner in module.modules()):
            return (
                "one adapter replaces the whole module (modules_to_save) and the other changes it by low-rank factors"
            )
        return None
    if not isinstance(module, LoraLayer):
        return None
    for name in adapters:
        if name in getattr(module, "lora_variant", {}):
            variant = type(module.lora_variant[name]).__name__.removesuffix("LinearVariant").removesuffix("Variant")
            return f"the adapter {name!r} is of the form {variant.removesuffix('Embedding')}"
        down = module.lora_A[name] if name in module.lora_A else None
        if down is not None and (not isinstance(down, nn.Linear) or _is_parameter_wrapper(module)):
            return f"the adapter {name!r} changes experts kept as one parameter, or no matrix ({type(module).__name__})"
    return None


def _is_parameter_wrapper(module: Any) -> bool:
    """Does it adapt a parameter of its module (`target_parameters`), in place of a linear layer?"""
    return hasattr(module, "parameter_name")


def _names(wrapper: Any) -> set[str]:
    return set(getattr(wrapper, "_adapters", ()))


@torch.no_grad()
def join(model: Any, adapters: tuple[str, str], name: str = "joined") -> None:
    """Adds to the model, inactive, an adapter of scale 1 that does what both do, each module at one rank R."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer
    from peft.utils.other import ModulesToSaveWrapper

    refuse(model, adapters)
    layers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, LoraLayer) and any(a in module.r for a in adapters)
    }
    modules = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, ModulesToSaveWrapper) and any(a in module.modules_to_save for a in adapters)
    }
    rank = max((sum(module.r[a] for a in adapters if a in module.r) for module in layers.values()), default=1)
    biased = any(module.lora_bias.get(a, False) for module in layers.values() for a in adapters if a in module.r)
    configs = [model.peft_config[a] for a in adapters]
    model.add_adapter(
        name,
        LoraConfig(
            r=rank,
            lora_alpha=rank,
            lora_bias=biased,
            target_modules=sorted(_inner(path) for path in layers),
            modules_to_save=sorted({m for c in configs for m in c.modules_to_save or ()}) or None,
            fan_in_fan_out=any(bool(getattr(module, "fan_in_fan_out", False)) for module in layers.values()),
            task_type=configs[-1].task_type,
            init_lora_weights=True,
        ),
    )
    for module in layers.values():
        for part in _parts(module, name):
            part.zero_()
        at = 0
        for adapter in (a for a in adapters if a in module.r):
            _add(module, adapter, name, at)
            at += module.r[adapter]
    for module in modules.values():
        source = next(a for a in adapters if a in module.modules_to_save)
        module.modules_to_save[name].load_state_dict(module.modules_to_save[source].state_dict())


def _inner(path: str) -> str:
    return path.removeprefix("base_model.model.")


def _parts(module: Any, name: str) -> Iterator[Tensor]:
    if name in module.lora_embedding_A:
        yield module.lora_embedding_A[name]
        yield module.lora_embedding_B[name]
        return
    yield module.lora_A[name].weight
    yield from module.lora_B[name].parameters()


def _add(module: Any, adapter: str, joined: str, at: int) -> None:
    """Puts one adapter's factors into the joined ones, from rank `at` on."""
    r, scale = module.r[adapter], module.scaling[adapter]
    if adapter in module.lora_embedding_A:
        module.lora_embedding_A[joined][at : at + r] = module.lora_embedding_A[adapter] * scale  # (R, V)
        module.lora_embedding_B[joined][:, at : at + r] = module.lora_embedding_B[adapter]  # (d, R)
        return
    module.lora_A[joined].weight[at : at + r] = module.lora_A[adapter].weight * scale  # (R, in)
    module.lora_B[joined].weight[:, at : at + r] = module.lora_B[adapter].weight  # (out, R)
    bias = module.lora_B[adapter].bias
    if bias is not None:
        module.lora_B[joined].bias += bias * scale
