"""Where weights are read from, one tensor at a time: folders of safetensors, adapters as dense weights, live models.

Names are those of the Hub's files (`model.layers.0.self_attn.q_proj.weight`). Nothing is loaded before it is asked for,
so that an edit of a 70B model needs the memory of a few tensors.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from unforgotten.errors import ModelError, UnsupportedError

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class Factors:
    """A change of a weight as a product: up (out, r) · down (r, in), the adapter's scale in `up`."""

    up: Tensor
    down: Tensor

    def dense(self) -> Tensor:
        """(out, in)."""
        return self.up @ self.down


@dataclass(frozen=True)
class ByRows:
    """A new weight made some rows at a time as it is written, so that the whole of it is never in memory."""

    shape: tuple[int, ...]
    parts: Callable[[], Iterator[Tensor]]
    """The rows in order; `rows_a_part` of them in each part but the last."""

    @staticmethod
    def rows_a_part(shape: tuple[int, ...]) -> int:
        """As many rows as make a million numbers: 4 MB in fp32, which a processor's cache holds."""
        return max(1, 2**20 // max(1, math.prod(shape[1:])))


class Source(Protocol):
    """One model's weights."""

    def names(self) -> list[str]:
        """Every tensor's public name."""

    def shape(self, name: str) -> tuple[int, ...]: ...

    def dtype(self, name: str) -> torch.dtype: ...

    def __getitem__(self, name: str) -> Tensor:
        """The whole tensor, read now, on the CPU or where the live model is."""

    def factors(self, name: str) -> Factors | None:
        """How this model differs here from the one below it (aligned from base, tuned from aligned), if by factors."""


class Files:
    """A folder (or Hub id) of safetensors, in one file or many. Raises ModelError where there are none."""

    def __init__(self, model: str | Path, revision: str | None = None) -> None:
        self.folder = _folder(model, revision)
        self._open: dict[str, Any] = {}
        self._where: dict[str, Path] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            if file.name.startswith("adapter_model"):
                continue
            self._where |= dict.fromkeys(self._handle(file).keys(), file)
        if not self._where:
            raise ModelError(f"{model} has no model weights in safetensors (pickled .bin files are not read).")

    def _handle(self, file: Path) -> Any:
        return self._open.setdefault(str(file), None) or self._opened(file)

    def _opened(self, file: Path) -> Any:
        self._open[str(file)] = safe_open(str(file), "pt")
        return self._open[str(file)]

    def names(self) -> list[str]:
        return sorted(self._where)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype:
        return DTYPES[self._slice(name).get_dtype()]

    def __getitem__(self, name: str) -> Tensor:
        return self._handle(self._at(name)).get_tensor(name)

    def factors(self, name: str) -> Factors | None:
        return None

    def _slice(self, name: str) -> Any:
        return self._handle(self._at(name)).get_slice(name)

    def _at(self, name: str) -> Path:
        if name not in self._where:
            raise ModelError(f"{self.folder} has no tensor {name!r}: these weights belong to another architecture.")
        return self._where[name]


class Adapted:
    """A model below with a LoRA adapter on it, seen as dense weights; the sum is taken in fp32 at least."""

    def __init__(self, below: Source, adapter: str | Path, revision: str | None = None) -> None:
        self.below, self.folder = below, _folder(adapter, revision)
        self.config = json.loads((self.folder / "adapter_config.json").read_text(encoding="utf-8"))
        file = self.folder / "adapter_model.safetensors"
        if not file.is_file():
            raise ModelError(f"{adapter} has no adapter_model.safetensors (pickled adapters are not read).")
        if self.config.get("peft_type") != "LORA" or self.config.get("use_dora"):
            raise UnsupportedError(f"{adapter} is no plain LoRA: only ΔW = s·B·A can be seen as dense weights.")
        with safe_open(str(file), "pt") as handle:
            self.tensors = {name: handle.get_tensor(name) for name in handle.keys()}
        self._modules: dict[str, str] = {}
        for name in self.tensors:
            module, _, part = name.removeprefix("base_model.model.").partition(".lora_")
            if part not in ("A.weight", "B.weight"):
                raise UnsupportedError(f"{adapter} holds {name!r}, which is no factor of a linear layer.")
            self._modules[f"{module}.weight"] = name.partition(".lora_")[0]
        unknown = sorted(set(self._modules) - set(below.names()))
        if unknown:
            raise ModelError(f"{adapter} adapts {unknown[0]!r}, which its base does not have: it belongs to another.")
        for name, stem in self._modules.items():
            down, up = (self.tensors[f"{stem}.lora_{part}.weight"] for part in "AB")
            changed = (up.shape[0], down.shape[1])
            if below.shape(name) != (changed[::-1] if self.config.get("fan_in_fan_out") else changed):
                raise ModelError(
                    f"{adapter} changes {name} as {changed}, but its base has it as {below.shape(name)}: it belongs to "
                    "another."
                )

    def names(self) -> list[str]:
        return self.below.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.below.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self.below.dtype(name)

    def __getitem__(self, name: str) -> Tensor:
        weight = self.below[name]
        found = self._change(name)
        if found is None:
            return weight
        exact = torch.promote_types(weight.dtype, torch.float32)
        delta = found.up.to(exact) @ found.down.to(exact)
        return weight.to(exact) + (delta.T if self.config.get("fan_in_fan_out") else delta)

    def factors(self, name: str) -> Factors | None:
        if name in self._modules and self.config.get("fan_in_fan_out"):
            raise UnsupportedError(f"{self.folder.name}: {name} is kept transposed (Conv1D, GPT-2); use whole weights.")
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


class Held:
    """Weights that are in memory already, by public name."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)

    def names(self) -> list[str]:
        return sorted(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._at(name).shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._at(name).dtype

    def __getitem__(self, name: str) -> Tensor:
        return self._at(name).detach()

    def factors(self, name: str) -> Factors | None:
        return None

    def _at(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise ModelError(f"The model has no tensor {name!r}: these weights belong to another architecture.")
        return self.tensors[name]


def opened(model: Any, below: Source | None = None, revision: str | None = None) -> Source:
    """A source for whatever names a model: a folder or Hub id of weights or of an adapter, a module, a state dict.

    below: what an adapter lies on, where that is not the base its config names.
    """
    if isinstance(model, (Files, Adapted, Held)):
        return model
    if isinstance(model, torch.nn.Module):
        return Held(_untied(model.state_dict()))
    if isinstance(model, Mapping):
        return Held(_untied(model))
    folder = _folder(model, revision)
    if not (folder / "adapter_config.json").is_file():
        return Files(folder)
    return Adapted(below or adapter_base(folder), folder)


def _untied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One name for each tensor, the first: a head that is the embedding has no tensor of its own, as in files."""
    found: dict[Any, str] = {}
    for name, t in tensors.items():
        found.setdefault((t.device, t.data_ptr(), t.shape, t.stride()) if t.data_ptr() else name, name)
    return {name: tensors[name] for name in found.values()}


def adapter_base(folder: Path) -> Source:
    """What an adapter lies on: the weights bundled in its folder, or the model that its config names."""
    if (folder / "config.json").is_file():
        return Files(folder)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    return opened(str(config["base_model_name_or_path"]), revision=config.get("revision"))


def adapter_folder(adapter: str | Path) -> Path:
    """Where an adapter of a folder or Hub id lies."""
    return _folder(adapter, None)


def check_alike(sources: Mapping[str, Source]) -> None:
    """Raises ModelError unless all have the same tensors in the same shapes; names the first difference."""
    (first, reference), *others = sources.items()
    for role, source in others:
        ours, theirs = set(reference.names()), set(source.names())
        if ours != theirs:
            odd = sorted(ours ^ theirs)[0]
            has, lacks = (first, role) if odd in ours else (role, first)
            raise ModelError(
                f"The {has} model has {odd!r}, the {lacks} model has not: they are of different architectures."
            )
        for name in sorted(ours):
            if reference.shape(name) != source.shape(name):
                raise ModelError(
                    f"{name} is {reference.shape(name)} in the {first} model and {source.shape(name)} in the {role} "
                    "model. Weight edits need models of one shape and vocabulary."
                )


def _folder(model: str | Path, revision: str | None) -> Path:
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if str(model).startswith(("/", ".", "~")):
        raise ModelError(f"There is no model folder {model}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(model), revision=revision, allow_patterns=["*.safetensors", "*.json"]))
    except Exception as error:
        raise ModelError(f"{model} is no folder, and the Hub does not give it: {error}") from error


def _named(module: str, key: str) -> bool:
    """Does a key of PEFT's rank or alpha pattern mean this module?"""
    import re

    return re.match(rf"(.*\.)?({key})$", module) is not None
