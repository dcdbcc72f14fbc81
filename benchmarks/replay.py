"""DER from hidden states against DER from stored logits, at a vocabulary of 128k: time, memory and disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from transformers import TrainerCallback

from benchmarks import memory, shapes
from benchmarks.measure import Figure
from benchmarks.obvious import StoredLogits
from benchmarks.race import race
from benchmarks.shapes import Shape
from benchmarks.steps import maker

GROUP = "replay"
SHAPES = {"narrow": shapes.NARROW, "capped": shapes.NARROW_CAPPED}
MEMORY_STEPS = 3


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """Both heads: linear, and soft-capped (Gemma 2), which goes through logits a few tokens at a time."""
    for key, shape in SHAPES.items():
        where = f"[{shape.name}, V {shape.vocabulary:,}]"
        few = max(5, pairs // 4)
        linear = not shape.soft_capped
        yield race(
            f"stored-logits DER over DER, a step {where}",
            maker(shape, device, StoredLogits()),
            maker(shape, device, "der"),
            few,
            3.0 if linear else None,
            "≥",
            group=GROUP,
            device=device,
        )
        # The same with little of the user's own work in the step, which is the same on both sides.
        yield race(
            f"stored-logits DER over SFT, a step {where}",
            maker(shape, device, StoredLogits()),
            maker(shape, device, "sft"),
            few,
            None,
            group=GROUP,
            device=device,
        )
        yield race(
            f"DER over SFT, a step {where}",
            maker(shape, device, "der"),
            maker(shape, device, "sft"),
            few,
            None,
            group=GROUP,
            device=device,
        )
        if device == "cpu":
            yield from _memory(key, where, linear)
    yield _disk(shapes.NARROW, device)


def _memory(key: str, where: str, linear: bool) -> Iterator[Figure]:
    peaks = {who: memory.peak("replay", "few_steps", who=who, shape=key) for who in ("sft", "der", "obvious")}
    extra, theirs = (peaks[who] - peaks["sft"] for who in ("der", "obvious"))
    yield Figure(
        name=f"DER's extra peak memory over stored-logits DER's {where}",
        ratio=max(extra, 0) / theirs,
        reach=0.2,
        note=f"{extra / 2**20:,.0f} MiB and {theirs / 2**20:,.0f} MiB above SFT's {peaks['sft'] / 2**20:,.0f} MiB.",
        group=GROUP,
    )


def few_steps(who: str, shape: str) -> None:
    """What a watched process does: a run of some steps."""

    class End(TrainerCallback):
        def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
            control.should_training_stop = state.global_step >= MEMORY_STEPS

    method = StoredLogits() if who == "obvious" else who
    with tempfile.TemporaryDirectory() as folder:
        shapes.trainer(SHAPES[shape], "cpu", method, [End()], folder).train()


def _disk(shape: Shape, device: str) -> Figure:
    few = replace(shape, safety_rows=8, user_rows=8)
    sizes = []
    for method in ("der", StoredLogits()):
        with tempfile.TemporaryDirectory() as folder:
            made = shapes.trainer(few, device, method, [], folder, max_steps=1)
            made.train()
            files = (f for f in Path(folder).rglob("*.safetensors") if "states" in f.parent.name)
            sizes.append(sum(f.stat().st_size for f in files))
    ratio = sizes[0] / sizes[1] / (shape.hidden / shape.vocabulary)
    return Figure(
        name=f"disk of DER's states over d/V of stored logits' [{shape.name}]",
        ratio=ratio,
        reach=1.05,
        note=f"{sizes[0]:,} and {sizes[1]:,} bytes for 8 rows; headers of safetensors are the excess over 1.",
        group=GROUP,
        device=device,
    )
