"""Adapters that lie on one another as one adapter, by exact concatenation: ranks add up, the change is the sum.

B₁A₁·s₁ + B₂A₂·s₂ = [B₁ B₂] · [s₁A₁; s₂A₂]. r rank, R the sum of ranks, in/out a weight's sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unforgotten.errors import ModelError, UnsupportedError
from unforgotten.models.weights import peft_format
from unforgotten.models.weights.adapted import Adapted
from unforgotten.models.weights.base import Source


def concatenated(adapters: Sequence[Adapted], folder: Path) -> int:
    """Writes adapter_model.safetensors and adapter_config.json, and returns R, the one rank of every module.

    Its scale is 1 (alpha = R), so that no server has to know of patterns. A module that one of the adapters leaves
    alone is filled up with zeros. The config names no base. Raises UnsupportedError for weights kept both ways round.
    """
    turned = {bool(adapter.config.get("fan_in_fan_out")) for adapter in adapters}
    if len(turned) > 1:
        raise UnsupportedError("One adapter keeps its weights transposed (fan_in_fan_out), the other does not.")
    held = [{name: adapter.places(name) for name in adapter.adapted()} for adapter in adapters]
    widths = [
        max(adapter.tensors[down].shape[0] for down, _, _ in places.values())
        for adapter, places in zip(adapters, held, strict=True)
    ]
    rank, modules, tensors = sum(widths), sorted(set().union(*held)), dict[str, torch.Tensor]()
    for name in modules:
        ups: list[torch.Tensor] = []
        downs: list[torch.Tensor] = []
        size = next(
            (adapter.tensors[up].shape[0], adapter.tensors[down].shape[1])
            for adapter, places in zip(adapters, held, strict=True)
            if name in places
            for down, up, _ in [places[name]]
        )
        for adapter, places, width in zip(adapters, held, widths, strict=True):
            a, b = torch.zeros(width, size[1]), torch.zeros(size[0], width)  # (r, in), (out, r)
            if name in places:
                down, up, scale = places[name]
                r = adapter.tensors[down].shape[0]
                a[:r] = adapter.tensors[down].float() * scale
                b[:, :r] = adapter.tensors[up].float()
            downs.append(a)
            ups.append(b)
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{stem}.lora_A.weight"] = torch.cat(downs).contiguous()  # (R, in)
        tensors[f"{stem}.lora_B.weight"] = torch.cat(ups, dim=1).contiguous()  # (out, R)
    peft_format.save(folder, tensors, rank, [name.removesuffix(".weight") for name in modules], turned.pop())
    return rank


def as_merged(adapter: Adapted, merged: Source) -> Adapted:
    """The adapter, if it makes these weights of its base, but for rounding to the type that they are stored in.

    Raises ModelError where it was exchanged since it was merged: whoever judged the merged weights has not seen it.
    """
    for name in sorted({*adapter.adapted(), *(set(adapter.names()) & set(merged.names()))}):
        exact, stored = adapter[name].double(), merged[name]
        near = {"rtol": 0.0, "atol": 0.0}
        if stored.is_floating_point():
            most = float(exact.abs().max()) if exact.numel() else 0.0
            near = {"rtol": torch.finfo(stored.dtype).eps, "atol": 32 * torch.finfo(torch.float32).eps * most}
        if exact.shape != stored.shape or not torch.allclose(exact, stored.double(), **near):
            raise ModelError(
                f"{name} of the run differs from the aligned model's base plus adapter. One of them changed after the "
                "training. Put it back, or use `--as adapter` or `--as merged`."
            )
    return adapter
