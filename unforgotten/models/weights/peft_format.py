"""An adapter's folder, written as PEFT reads it: one rank for all modules, and a scale of 1."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save(
    folder: Path, tensors: Mapping[str, Tensor], rank: int, modules: Sequence[str], fan_in_fan_out: bool = False
) -> None:
    """Writes adapter_model.safetensors and adapter_config.json, which names no base.

    tensors: by PEFT's names, `….lora_A.weight` (rank, in) and `….lora_B.weight` (out, rank). modules: those adapted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "revision": None,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": fan_in_fan_out,
        "inference_mode": True,
        "target_modules": list(modules),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
