"""Weights in a folder of safetensors, whole or in shards: an index of names, and one tensor read at a time."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from unforgotten.errors import ModelError
from unforgotten.models.folder.open import opened
from unforgotten.models.weights.base import DTYPES, Factors

CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
CONV1D_WEIGHTS = ("c_attn.weight", "c_proj.weight", "c_fc.weight", "q_attn.weight")
"""The models that Transformers builds of Conv1D, which keeps weights as (in, out), and their layers."""


class Files:
    """A folder (or Hub id) of safetensors, in one file or many. Raises ModelError where there are none."""

    def __init__(self, model: str | Path, revision: str | None = None) -> None:
        self.folder = folder_of(model, revision)
        self._open: dict[str, Any] = {}
        self._where: dict[str, Path] = {}
        for file in sorted(self.folder.rglob("*.safetensors")):
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

    def transposed(self, name: str) -> bool | None:
        return self._conv1d and name.endswith(CONV1D_WEIGHTS)

    @functools.cached_property
    def _conv1d(self) -> bool:
        config = self.folder / "config.json"
        facts = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
        return facts.get("model_type") in CONV1D_MODELS

    def __getitem__(self, name: str) -> Tensor:
        return self._handle(self._at(name)).get_tensor(name)

    def factors(self, name: str) -> Factors | None:
        return None

    def _slice(self, name: str) -> Any:
        return self._handle(self._at(name)).get_slice(name)

    def _at(self, name: str) -> Path:
        if name not in self._where:
            raise ModelError(f"{self.folder} has no tensor {name!r}. These weights belong to another architecture.")
        return self._where[name]


def folder_of(model: str | Path, revision: str | None) -> Path:
    """The private folder of a model's or adapter's files; a Hub id is downloaded.

    Raises ModelError where there is no such folder, it is refused, or the Hub does not give it.
    """
    return opened(str(model), revision).path
