"""The Fisher of 64 rows against one batched forward and backward of them, and against one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch

from benchmarks import shapes
from benchmarks.measure import Figure, of_pairs, paired, timed
from benchmarks.shapes import Shape
from unforgotten.training import fisher

GROUP = "curvature"
ROWS = 64
SPACES: tuple[Literal["adapter", "weights"], ...] = ("adapter", "weights")


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """Both spaces: of the adapter's factors, and of the dense weights that they change."""
    shape = replace(shapes.SMALL if device == "cpu" else shapes.LLAMA_7B, safety_rows=ROWS, user_rows=8, batch=8)
    run = shapes.trainer(shape, device, "der", max_steps=1).run
    model = run.weights.model
    for p in run.weights.params().values():  # a fresh B of zeros would hide what comes back to A
        p.data.add_(0.01 * torch.randn_like(p))
    run.weights.head()
    model.eval()  # as the Fisher itself is taken: no dropout
    chosen = list(range(ROWS))

    def likelihoods(size: int) -> Iterator[Callable[[], torch.Tensor]]:
        for at in range(0, ROWS, size):
            rows = run.batch(run.memory.rows, chosen[at : at + size])
            yield partial(run.weights.nll, rows)

    def batched() -> None:
        for likelihood in likelihoods(shape.batch):
            torch.autograd.grad(likelihood(), list(run.weights.params().values()))

    def one_by_one(space: str) -> dict[str, torch.Tensor]:
        with _dense(run, space) as params:
            return fisher.squares_row_by_row(params, likelihoods(1))

    for space in SPACES:
        actual = run.weights.squares(space, chosen)
        plain = one_by_one(space)
        error = max(float((actual[n] - plain[n]).norm() / plain[n].norm()) for n in actual)
        ours = timed(partial(run.weights.squares, space, chosen))
        note = f"{_says(shape)}; equal to one row at a time to {error:.0e}."
        few = max(5, pairs // 5)
        yield of_pairs(
            f"speed of the Fisher of {space} over one batched forward and backward",
            paired(timed(batched), ours, few),
            0.9,
            "≥",
            note=note,
            group=GROUP,
            device=device,
        )
        yield of_pairs(
            f"speed of the Fisher of {space} over one row at a time",
            paired(timed(partial(one_by_one, space)), ours, max(3, few // 2)),
            5.0 if device == "cuda" else None,
            "≥",
            note=note,
            group=GROUP,
            device=device,
        )


class _dense:
    """The tensors whose Fisher it is; the dense weights under the adapter require gradients meanwhile."""

    def __init__(self, run: Any, space: str) -> None:
        self.weights = (
            {n: d.layer.base_layer.weight for n, d in run.weights.deltas().items()} if space == "weights" else {}
        )
        self.params = self.weights or run.weights.params()

    def __enter__(self) -> dict[str, torch.Tensor]:
        for weight in self.weights.values():
            weight.requires_grad_(True)
        return self.params

    def __exit__(self, *_: Any) -> None:
        for weight in self.weights.values():
            weight.requires_grad_(False)


def _says(shape: Shape) -> str:
    return f"{ROWS} rows of {shape.tokens} tokens, {shape.batch} at a time, d {shape.hidden}, {shape.layers} layers"
