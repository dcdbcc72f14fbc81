"""A safety adapter on the contract's tiny model: random factors, and θ_safe's weights beside them, as in a run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from unforgotten import testing
from unforgotten.models.adapters import AdapterMode
from unforgotten.models.weights import peft_format
from unforgotten.training.finished_weights import LiveModel

MODULES = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
RANK = 3


def write(adapter_mode: AdapterMode, folder: Path) -> Path:
    """The folder, for the θ_safe that `testing.tiny_model` has under this mode."""
    model = testing.tiny_model(adapter_mode)
    anchor = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    aligned = LiveModel(model, adapter_mode, "aligned", anchor)
    generator = torch.Generator().manual_seed(11)
    tensors = {}
    modules = [f"model.layers.{i}.{module}" for i in range(2) for module in MODULES]
    for module in modules:
        out, into = aligned.shape(f"{module}.weight")
        stem = f"base_model.model.{module}"
        tensors[f"{stem}.lora_A.weight"] = 0.1 * torch.randn(RANK, into, generator=generator)
        tensors[f"{stem}.lora_B.weight"] = 0.1 * torch.randn(out, RANK, generator=generator)
    peft_format.save(folder, tensors, RANK, modules)
    weights = {name: aligned[name].clone().contiguous() for name in aligned.names()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
