"""A method's step over SFT's, both in the real trainer; F counts in reference terms: SFT is 3 F."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks import shapes
from benchmarks.measure import Figure, clock, of_pairs, synchronize
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
    cpu_shape: Shape | None = None
    """Another shape than the small model's on the CPU; with it the row is measured there alone."""


SCORINGS = 3
"""Times that row_weights' scoring is measured."""
WEIGHS = {"name": "row_weights", "most": 1.0}
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
    Row("kl", None, cpu_shape=shapes.WIDE),
    Row({"name": "guarded", "use": "list", "max_new_tokens": 1}, None, note="Rows as given: its step is KL's."),
    Row("agem", 2.1),
    Row("safegrad", None, note="As kl."),
    Row("safegrad", None, cpu_shape=shapes.WIDE),
    Row("refresh", 3.3),
    Row("derpp", 3.3, note="9 F counted: two draws of memory."),
    Row({"name": "derpp", "draws": "shared"}, 2.2, "derpp, one draw for both"),
    Row("safeinstr", 1.05, note="Its rows are more, its step is SFT's."),
    Row("constrained_sft", 1.10),
    Row(WEIGHS, None, note="Under a vocabulary below 32,000 it takes the log-probabilities from logits a second time."),
    Row(WEIGHS, 1.02, cpu_shape=shapes.NARROW),
    Row("magmax", 1.05, note="It works after training."),
    Row("safelora", 1.05, note="It works after training."),
)


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """Every method, on the CPU's small model or on a GPU's two large ones."""
    for shape in (shapes.SMALL,) if device == "cpu" else (shapes.LLAMA_7B, shapes.GEMMA_2B):
        for row in ROWS:
            if row.cpu_shape is None:
                yield step_over_sft(row, shape, device, pairs)
            elif device == "cpu":
                yield step_over_sft(row, row.cpu_shape, device, max(5, pairs // 4))
        yield scoring(shape, device)


def step_over_sft(row: Row, shape: Shape, device: str, pairs: int) -> Figure:
    """A step of the row's method over one of SFT."""
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


class Start(TrainerCallback):
    """Seconds from the beginning of a training to its first step: what methods do in `start`, and the first batch."""

    def __init__(self) -> None:
        self.seconds, self._began = 0.0, 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = clock()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        synchronize()
        self.seconds = self.seconds or clock() - self._began


def scoring(shape: Shape, device: str) -> Figure:
    """What row_weights does once, before the first step, over one epoch of SFT."""

    def seconds(method: Any, **more: Any) -> tuple[float, float]:
        start = Start()
        with tempfile.TemporaryDirectory() as folder:
            run = shapes.trainer(shape, device, method, [start], folder, **more)
            began = clock()
            run.train()
            synchronize()
            return start.seconds, clock() - began

    ratios = []
    for _ in range(SCORINGS):
        at_start, _ = seconds(WEIGHS, max_steps=1)
        _, epoch = seconds("sft", max_steps=-1, num_train_epochs=1)
        ratios.append((at_start, epoch))
    return of_pairs(
        f"row_weights' scoring, once, over an epoch of sft [{shape.name}]",
        ratios,
        None,
        note=f"{shape.user_rows} user rows and {shape.safety_rows} of the memory, each asked with 4 openings.",
        group=GROUP,
        device=device,
    )


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
