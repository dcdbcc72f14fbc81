"""A LoRA adapter on a model below it, seen as the dense weights that both make."""

from __future__ import annotations

import json
import re
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from unforgotten.errors import ModelError, UnsupportedError
from unforgotten.models.weights.base import Factors, Source
from unforgotten.models.weights.files import folder_of


class Adapted:
    """A model below with a LoRA adapter on it, seen as dense weights; the sum is taken in fp32 at least."""

    def __init__(self, below: Source, adapter: str | Path, revision: str | None = None) -> None:
        self.below, self.folder = below, folder_of(adapter, revision)
        self.config = json.loads((self.folder / "adapter_config.json").read_text(encoding="utf-8"))
        file = self.folder / "adapter_model.safetensors"
        if not file.is_file():
            raise ModelError(f"{adapter} has no adapter_model.safetensors (pickled adapters are not read).")
        if self.config.get("peft_type") != "LORA" or self.config.get("use_dora"):
            raise UnsupportedError(f"{adapter} is not a plain LoRA. Only ΔW = s·B·A can be read as dense weights.")
        with safe_open(str(file), "pt") as handle:
            self.tensors = {name: handle.get_tensor(name) for name in handle.keys()}
        self._modules: dict[str, str] = {}
        for name in self.tensors:
            module, _, part = name.removeprefix("base_model.model.").partition(".lora_")
            if part not in ("A.weight", "B.weight"):
                raise UnsupportedError(f"{adapter} holds {name!r}, which is not a factor of a linear layer.")
            self._modules[f"{module}.weight"] = name.partition(".lora_")[0]
        unknown = sorted(set(self._modules) - set(below.names()))
        if unknown and unknown[0].rpartition(".weight")[0].endswith(("lm_head", "embed_out")):
            raise UnsupportedError(
                f"{adapter} adapts {unknown[0]!r}, which its base shares with the embedding. As whole weights, each "
                "would need a separate tensor. Keep it as an adapter (--as adapter), or train with `lora.existing: "
                "merge`."
            )
        if unknown:
            raise ModelError(
                f"{adapter} adapts {unknown[0]!r}, which its base does not have. Name the base that it was trained on."
            )
        for name, stem in self._modules.items():
            down, up = (self.tensors[f"{stem}.lora_{part}.weight"] for part in "AB")
            changed = (up.shape[0], down.shape[1])
            if below.shape(name) != (changed[::-1] if self.transposed(name) else changed):
                raise ModelError(
                    f"{adapter} changes {name} as {changed}, but its base has it as {below.shape(name)}. Name the "
                    "base that it was trained on."
                )

    def names(self) -> list[str]:
        return self.below.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self.below.dtype(name)

    def __getitem__(self, name: str) -> Tensor:
        weight = self.below[name]
        change = self._change(name)
        if change is None:
            return weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        delta = change.up.to(exact) @ change.down.to(exact)
        return weight.to(exact) + (delta.T if self.transposed(name) else delta)

    def transposed(self, name: str) -> bool | None:
        """By the model below; PEFT turns each layer by its kind, whatever the adapter's own setting says."""
        known = self.below.transposed(name)
        return known if known is not None else bool(self.config.get("fan_in_fan_out")) and name in self._modules

    def factors(self, name: str) -> Factors | None:
        return self._change(name)

    def _change(self, name: str) -> Factors | None:
        """ΔW = up · down, (out, in), however the weight itself is kept."""
        if name not in self._modules:
            return None
        down, up, scale = self.places(name)
        return Factors(self.tensors[up] * scale, self.tensors[down])

    def adapted(self) -> list[str]:
        """The names of the weights that it changes."""
        return sorted(self._modules)

    def places(self, name: str) -> tuple[str, str, float]:
        """Where a weight's factors are among `tensors`: the names of A (r, in) and B (out, r), and the scale."""
        stem = self._modules[name]
        rank = self.tensors[f"{stem}.lora_A.weight"].shape[0]
        return f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", self._scale(name.removesuffix(".weight"), rank)

    def _scale(self, module: str, rank: int) -> float:
        alpha = next(
            (a for key, a in (self.config.get("alpha_pattern") or {}).items() if _named(module, key)),
            self.config["lora_alpha"],
        )
        return float(alpha / (rank**0.5 if self.config.get("use_rslora") else rank))


def _named(module: str, key: str) -> bool:
    """Does a key of PEFT's rank or alpha pattern mean this module?"""
    return re.match(rf"(.*\.)?({key})$", module) is not None
