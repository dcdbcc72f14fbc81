"""What θ_safe determines, built once: anchors and stored states, kept on disk under a digest of what they follow from.

A resumed run only reads them: its live weights are no longer θ_safe, so what is missing then cannot be made again.
Everything is written to a temporary file and renamed; a shard that exists is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unforgotten import files
from unforgotten.errors import TrainingError


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Safetensors, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = files.part_of(path)
    save_file({n: t.detach().contiguous().cpu() for n, t in tensors.items()}, part)
    os.replace(part, path)


def digest(*facts: Any) -> str:
    """16 hex digits over JSON-like facts."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def fingerprint(tensors: Iterable[tuple[str, Tensor]], samples: int = 4096) -> str:
    """Tells one set of weights from another by up to `samples` evenly spaced elements of each tensor.

    Not a proof of equality, but any training step changes nearly every element, and hashing 14 GB would take longer
    than it is worth.
    """
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, flat.numel() // samples)].to("cpu", torch.float64)
        whole.update(f"{name}{tuple(tensor.shape)}".encode())
        whole.update(some.numpy().tobytes())
    return whole.hexdigest()[:16]


class Once:
    """A folder of things that θ_safe determines; `key` is the digest of θ_safe, memory and arguments."""

    def __init__(self, folder: Path, key: str, *, may_build: bool) -> None:
        self.folder, self.key, self.may_build = folder, key, may_build

    def __call__(self, name: str, build: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """The stored tensors called `name`, or `build()`, stored."""
        path = self.folder / f"{name}-{self.key}.safetensors"
        if not path.exists():
            self.refuse_late(name)
            write(path, build())
        return load_file(path)

    def shards(
        self, name: str, count: int, build: Callable[[int], dict[str, Tensor]], only: Iterable[int] | None = None
    ) -> dict[str, Tensor]:
        """`build(i)` for i < count (or the i in `only`), each stored as it is made: a kill loses one shard at most."""
        folder = self.folder / f"{name}-{self.key}"
        tensors: dict[str, Tensor] = {}
        for i in range(count) if only is None else only:
            path = folder / f"{i:05d}-of-{count:05d}.safetensors"
            if not path.exists():
                self.refuse_late(name)
                write(path, build(i))
            tensors |= load_file(path)
        return tensors

    def refuse_late(self, name: str) -> None:
        if not self.may_build:
            raise TrainingError(
                f"{name!r} of the aligned model is not in {self.folder} for this model, memory and setting, and a "
                "resumed run cannot make it again (its weights have moved on). Resume with the same model, safety data "
                "and method as before, or start anew with an empty output folder."
            )
