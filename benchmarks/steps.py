"""A method's step over SFT's, both in the real trainer; F counts in reference terms: SFT is 3 F."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks import shapes
from benchmarks.measure import Figure
from benchmarks.race import Make, race
from benchmarks.shapes import Shape

GROUP = "steps"


@dataclass(frozen=True)
class Row:
    """A method against SFT."""

    method: Any
    reach: float | None
    name: str = ""
    factor: int = 1
    """How many times the batch SFT gets: 2 gives it as many rows as user and replay rows together."""
    note: str = ""
    prompt_tokens: int | None = None
    """Tokens of a safety row's prompt, where they are not as many as in the user's rows."""


ROWS = (
    Row(None, 1.02, "MethodTrainer(sft) over transformers.Trainer"),
    Row("ewc", 1.05),
    Row({"name": "lisa", "safety_steps": 10, "user_steps": 90}, 1.05),
    Row("ema", 1.05),
    Row("lwf", 1.10, "lwf (states stored)"),
    Row("anchor", 1.15, "anchor (8 prompts of 16 tokens)", prompt_tokens=16),
    Row("der", 2.1),
    Row("der", 1.05, "der over sft on user + replay rows", 2),
    Row("kl", None, note="No short cut past the vocabulary: it depends on V."),
    Row("agem", 2.1),
    Row("safegrad", None, note="As kl."),
    Row("refresh", 3.3),
    Row("derpp", 3.3, note="9 F counted: two draws of memory."),
    Row({"name": "derpp", "draws": "shared"}, 2.2, "derpp, one draw for both"),
    Row("safeinstr", 1.05, note="Its rows are more, its step is SFT's."),
    Row("constrained_sft", 1.10),
    Row("magmax", 1.05, note="It works after training."),
    Row("safelora", 1.05, note="It works after training."),
)


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """Every method, on the CPU's small model or on a GPU's two large ones."""
    for shape in (shapes.SMALL,) if device == "cpu" else (shapes.LLAMA_7B, shapes.GEMMA_2B):
        for row in ROWS:
            yield _figure(row, shape, device, pairs)


def _figure(row: Row, shape: Shape, device: str, pairs: int) -> Figure:
    method = "sft" if row.method is None else row.method
    against = None if row.method is None else "sft"
    other = replace(shape, batch=shape.batch * row.factor)
    safety = row.prompt_tokens and replace(shape, tokens=row.prompt_tokens + shape.answer_tokens)
    name = row.name or f"{method if isinstance(method, str) else method['name']} over sft"
    figure = race(
        f"{name} [{shape.name}]",
        maker(shape, device, method, safety_shape=safety),
        maker(other, device, against),
        pairs,
        row.reach,
        note=row.note,
        group=GROUP,
        device=device,
    )
    if device == "cuda":
        figure.note += " " + throughput(shape, method, figure)
    return figure


def maker(shape: Shape, device: str, method: Any, **more: Any) -> Make:
    """A trainer yet to be made, for a lane."""
    return lambda callbacks: shapes.trainer(shape, device, method, callbacks, **more)


PEAK_FLOPS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}
"""bf16 with fp32 sums, dense, as the vendor states it."""


def throughput(shape: Shape, method: Any, figure: Figure) -> str:
    """Tokens of the user a second, and the share of the GPU's arithmetic that a step makes use of.

    With frozen weights a step of SFT is 4 operations for each weight and token: 2 forward, 2 back to the activations.
    """
    from unforgotten import registry

    assert figure.seconds is not None
    tokens = shape.batch * shape.tokens
    with torch.device("meta"):
        weights = sum(p.numel() for p in shapes.model(shape, "meta").parameters())
    cost = type(registry.build("methods", method)).cost
    device = torch.cuda.get_device_name()
    peak = next((flops for key, flops in PEAK_FLOPS.items() if key in device), None)
    share = f", MFU {4 * weights * tokens * cost / figure.seconds[0] / peak:.0%}" if peak else ""
    return f"{tokens / figure.seconds[0]:,.0f} user tokens/s{share}."
