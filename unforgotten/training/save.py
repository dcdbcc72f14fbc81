"""What a run leaves behind opens anywhere: adapters without absolute paths, on a Hub id or with θ_safe bundled."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from unforgotten.training.policy import ALIGNED, TRAINED, activate

BUNDLED = "../aligned"
"""What `base_model_name_or_path` says when the base lies beside the adapter: relative to the adapter's folder. The
same weights are also bundled inside the folder, where transformers looks first."""


def save_adapter(model: Any, folder: Path, base: str, revision: str | None) -> None:
    """Writes the trained adapter (under `stacked`: both, joined) so that peft and transformers open it after a move.

    base: a Hub id, or a local folder whose config and weights are then bundled by hard links (copied across disks).
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = next(iter(n for n in model.peft_config if n == TRAINED), next(iter(model.peft_config)))
    if ALIGNED in model.peft_config:
        name = join(model)
    model.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    if (folder / name).is_dir():  # PEFT puts every adapter but `default` into a folder of its own
        for file in (folder / name).iterdir():
            os.replace(file, folder / file.name)
        (folder / name).rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's card names the base's path on this machine
    config = json.loads((folder / "adapter_config.json").read_text())
    local = Path(base).expanduser().is_dir()
    config["base_model_name_or_path"] = BUNDLED if local else base
    config["revision"] = None if local else revision
    config["inference_mode"] = True
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT keeps a set: its order would change from process to process
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if local:
        bundle(Path(base).expanduser(), folder)


def bundle(base: Path, folder: Path) -> None:
    """The base's config and weights, in the same folder: `AutoModelForCausalLM.from_pretrained(folder)` finds both."""
    for file in base.iterdir():
        weights = file.name.startswith("model") and file.suffix == ".safetensors"
        if not (weights or file.name in ("config.json", "generation_config.json", "model.safetensors.index.json")):
            continue
        target = folder / file.name
        target.unlink(missing_ok=True)
        try:
            os.link(file.resolve(), target)
        except OSError:  # another disk
            shutil.copyfile(file, target)


@torch.no_grad()
def join(model: Any) -> str:
    """θ_safe's adapter and the user's as one, by exact concatenation: ranks add up, the delta is the sum.

    B₁A₁·s₁ + B₂A₂·s₂ = [B₁ B₂] · [s₁A₁; s₂A₂]; the joined adapter's own scaling is 1.
    """
    from peft import LoraConfig

    first, second = model.peft_config[ALIGNED], model.peft_config[TRAINED]
    layers = {
        n: m
        for n, m in model.named_modules()
        if ALIGNED in getattr(m, "lora_A", {}) or TRAINED in getattr(m, "lora_A", {})
    }
    rank = first.r + second.r
    targets = sorted({n.removeprefix("base_model.model.") for n in layers})
    model.add_adapter(
        "joined",
        LoraConfig(r=rank, lora_alpha=rank, target_modules=targets, task_type=second.task_type, init_lora_weights=True),
    )
    for layer in layers.values():
        down, up = layer.lora_A["joined"].weight, layer.lora_B["joined"].weight  # (R, in), (out, R)
        down.zero_()
        up.zero_()
        at = 0
        for part in (ALIGNED, TRAINED):
            if part in layer.lora_A:
                r = layer.r[part]
                down[at : at + r] = layer.lora_A[part].weight * layer.scaling[part]
                up[:, at : at + r] = layer.lora_B[part].weight
                at += r
    activate(model, [ALIGNED, TRAINED])
    return "joined"
