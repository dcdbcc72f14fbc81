"""The LoRA adapter nearest to a change of weights, and how much of the change it leaves out. [Eckart-Young]

r rank, out/in a weight's sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unforgotten.errors import ModelError
from unforgotten.models.weights import peft_format
from unforgotten.models.weights.base import Source

NO_MODULES = ("embed", "lm_head", "wte", "wpe", ".experts.")
"""Weights that no adapter of linear layers can change; experts of one layer are one parameter in a loaded model."""
ROUTERS = (".gate.weight", ".router.weight")


def nearest_adapter(result: Source, below: Source, rank: int, folder: Path) -> dict[str, Any]:
    """Writes the rank-r adapter on `below` that comes nearest to `result` in the Frobenius norm.

    Returns relative_error (‖what is left out‖ / ‖the whole change‖, changes that no linear layer holds included),
    worst and worst_module. Raises ModelError where nothing was changed.
    """
    tensors: dict[str, torch.Tensor] = {}
    left: dict[str, tuple[float, float]] = {}
    turned = False
    for name in result.names():
        change = result[name].double() - below[name].double()
        energy = float(change.square().sum())
        if energy == 0:
            continue
        if change.ndim != 2 or any(part in name for part in NO_MODULES) or name.endswith(ROUTERS):
            left[name] = energy, energy
            continue
        if below.transposed(name):
            change, turned = change.T, True
        u, s, vh = torch.linalg.svd(change, full_matrices=False)
        root = s[:rank].sqrt()
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        up, down = u[:, :rank] * root, root[:, None] * vh[:rank]
        tensors[f"{stem}.lora_B.weight"] = up.float().contiguous()
        tensors[f"{stem}.lora_A.weight"] = down.float().contiguous()
        left[name] = float(s[rank:].square().sum()), energy
    if not tensors:
        raise ModelError("The edit did not change θ_safe, so there is no adapter to make.")
    modules = sorted({n.removeprefix("base_model.model.").rpartition(".lora_")[0] for n in tensors})
    # PEFT wants every adapter tensor of one rank; a matrix smaller than it is filled up with zeros.
    for name, tensor in tensors.items():
        size = list(tensor.shape)
        size[0 if ".lora_A." in name else 1] = rank
        full = torch.zeros(size)
        full[: tensor.shape[0], : tensor.shape[1]] = tensor
        tensors[name] = full
    peft_format.save(folder, tensors, rank, modules, fan_in_fan_out=turned)
    worst = max(left, key=lambda n: left[n][0] / left[n][1])
    return {
        "relative_error": (sum(a for a, _ in left.values()) / sum(b for _, b in left.values())) ** 0.5,
        "worst": (left[worst][0] / left[worst][1]) ** 0.5,
        "worst_module": worst,
    }
