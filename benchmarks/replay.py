"""DER from hidden states against DER from stored logits, at a vocabulary of 128k: time, memory and disk."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

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
    few = max(5, pairs // 4)
    for key, shape in SHAPES.items():
        yield from _races(shape, device, few)
        if device == "cpu":
            yield from _memory(key, shape.name)
    if device == "cpu":
        yield _whole_peak()
    yield _disk(shapes.NARROW, device)


def _races(shape: Shape, device: str, pairs: int) -> Iterator[Figure]:
    reach = None if shape.soft_capped else 3.0
    said = f"{shape.says}. The obvious one takes the Trainer's own cross-entropy, over whole logits."
    yield against("stored-logits DER over DER", shape, device, pairs, reach, said, loss="trainer")
    yield against("stored-logits DER with our chunked cross-entropy over DER", shape, device, pairs)
    few = StoredLogits(answers_alone=True)
    yield against("stored-logits DER, answers alone, over DER", shape, device, pairs, method=few, loss="trainer")
    yield _beyond_sft(shape, device, pairs)


def against(
    name: str,
    shape: Shape,
    device: str,
    pairs: int,
    reach: float | None = None,
    note: str = "",
    method: StoredLogits | None = None,
    group: str = GROUP,
    **more: Any,
) -> Figure:
    """A step of stored-logits DER over one of DER."""
    theirs, ours = maker(shape, device, method or StoredLogits(), **more), maker(shape, device, "der")
    return race(f"{name} [{shape.name}]", theirs, ours, pairs, reach, "≥", note=note, group=group, device=device)


def _beyond_sft(shape: Shape, device: str, pairs: int) -> Figure:
    """What the method itself adds: (obvious − SFT) over (DER − SFT), the user's own logits being the same in all."""
    sft = maker(shape, device, "sft")
    theirs, ours = (
        race("", maker(shape, device, method), sft, pairs, None).ratio - 1 for method in (StoredLogits(), "der")
    )
    return Figure(
        name=f"what stored-logits DER adds to SFT over what DER adds [{shape.name}]",
        ratio=theirs / ours,
        reach=None,
        sense="≥",
        pairs=pairs,
        note=f"{theirs:.2f} and {ours:.3f} of SFT's step.",
        group=GROUP,
        device=device,
    )


def _memory(key: str, name: str) -> Iterator[Figure]:
    peaks = {who: memory.peak("replay", "few_steps", who=who, shape=key) for who in ("sft", "der", "obvious")}
    extra, theirs = (peaks[who] - peaks["sft"] for who in ("der", "obvious"))
    yield Figure(
        name=f"DER's extra peak memory over stored-logits DER's [{name}]",
        ratio=max(extra, 0) / theirs if theirs > 0 else float("inf"),
        reach=0.2,
        note=f"{extra / 2**20:,.0f} and {theirs / 2**20:,.0f} MiB above SFT's {peaks['sft'] / 2**20:,.0f} MiB.",
        group=GROUP,
    )


def _whole_peak() -> Figure:
    """Where layers and not logits are what a step holds: a replay that is alive beside the user's rows doubles it."""
    sft, der = (memory.peak("replay", "few_steps", who=who, shape="deep") for who in ("sft", "der"))
    return Figure(
        name=f"DER's peak memory over SFT's at the same batch [{shapes.DEEP.name}]",
        ratio=der / sft,
        reach=1.05,
        note=f"{der / 2**20:,.0f} and {sft / 2**20:,.0f} MiB above imports; {shapes.DEEP.says}.",
        group=GROUP,
    )


def few_steps(who: str, shape: str) -> None:
    """What a watched process does: a run of some steps."""

    class End(TrainerCallback):
        def on_step_end(self, args, state, control, **_):  # type: ignore[no-untyped-def]
            control.should_training_stop = state.global_step >= MEMORY_STEPS

    method = StoredLogits() if who == "obvious" else who
    with tempfile.TemporaryDirectory() as folder:
        shapes.trainer(SHAPES.get(shape, shapes.DEEP), "cpu", method, [End()], folder).train()


def _disk(shape: Shape, device: str) -> Figure:
    few = replace(shape, safety_rows=8, user_rows=8)
    sizes = []
    for method in ("der", StoredLogits(answers_alone=True)):
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
