"""How strong methods pull against the user's loss: ‖a method's gradient‖ / ‖the user's‖ over all trained tensors.

Taken before clipping, on steps that are logged or where a method reads them: a weight λ does not carry over between
models, and this shows its size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from unforgotten.training.run import TrainingRun

Tensors = dict[str, Tensor]

BEYOND = 10.0
"""A warning is logged if a method's gradient is this many times the gradient of the user's loss."""


def norm(tensors: Iterable[Tensor]) -> Tensor:
    """√ Σ over all elements of all tensors, in fp32 at least; a scalar where the tensors are. 0 for none."""
    squares = [t.to(torch.promote_types(t.dtype, torch.float32)).pow(2).sum() for t in tensors]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


@dataclass
class Norms:
    """The norms of one step's gradients, before clipping."""

    user: Tensor
    """Of the user's loss."""
    terms: Tensor | None
    """Gradient norm of all terms that methods added to the loss. None if there are none."""
    methods: dict[str, Tensor]
    """For each method: its term of the loss, and how it changed the gradients."""

    def add(self, method: str, size: Tensor) -> None:
        """Counts what a method's `gradients` has added to what its term has."""
        self.methods[method] = self.methods[method] + size if method in self.methods else size

    def ratio(self, size: Tensor) -> Tensor:
        """A norm over the user's."""
        return size / self.user.clamp_min(1e-30)


class GradientRatios:
    """Gathers the gradients of methods' terms over the micro-batches of a step, and logs the ratios."""

    def __init__(self, run: TrainingRun) -> None:
        self._run = run
        self._terms: dict[str, Tensors] | None = None
        """By method, on a step that is logged or read."""

    def new_step(self, read: bool = False) -> None:
        """A step begins. read: a method reads its norms."""
        self._terms = {} if read or self._run.logs_this_step else None

    def add_terms(self, terms: Mapping[str, Tensor], scale: int) -> None:
        """Each term's own gradients, times `scale`, on a step that is logged or read: one more backward each."""
        if self._terms is None:
            return
        params = self._run.weights.params()
        for method, term in terms.items():
            if not term.requires_grad:
                continue
            try:
                grads = torch.autograd.grad(term * scale, list(params.values()), retain_graph=True, allow_unused=True)
            except RuntimeError as error:
                if "checkpoint" not in str(error).lower():
                    raise
                self._terms = None  # re-entrant checkpointing has no torch.autograd.grad
                return
            sums = self._terms.setdefault(method, {})
            for name, grad in zip(params, grads, strict=True):
                if grad is not None:
                    sums[name] = sums[name] + grad if name in sums else grad

    def norms(self, sharded: bool) -> Norms | None:
        """The norms of the user's gradient and of each term's, on a step that is logged or read; terms' are let go.

        sharded: each rank has a part of each gradient, and no norm is taken.
        """
        term_grads, self._terms = self._terms, None
        params = self._run.weights.params()
        if term_grads is None or sharded or not any(p.grad is not None for p in params.values()):
            return None
        mean = self._run.ranks.mean_tensor
        terms = {who: {n: mean(g) for n, g in grads.items()} for who, grads in term_grads.items()}
        sums: Tensors = {}
        for grads in terms.values():
            sums |= {n: sums[n] + g if n in sums else g for n, g in grads.items()}
        user = norm(p.grad - sums[n] if n in sums else p.grad for n, p in params.items() if p.grad is not None)
        methods = {who: norm(grads.values()) for who, grads in terms.items()}
        return Norms(user, norm(sums.values()) if sums else None, methods)

    def gradients(self) -> Tensors:
        """A copy of all gradients in main memory: where they are, there may be no room for a second."""
        params = self._run.weights.params()
        return {n: p.grad.detach().to("cpu", copy=True) for n, p in params.items() if p.grad is not None}

    def change(self, before: Tensors) -> Tensor:
        """‖what a method's turn has added to the gradients‖."""
        params = self._run.weights.params()
        return norm(
            p.grad - before[n].to(p.grad.device) for n, p in params.items() if p.grad is not None and n in before
        )

    def log(self, norms: Norms) -> None:
        """The ratio of all terms together, and of each method."""
        if norms.terms is not None:
            with self._run.turn("method", "log"):
                self._run.log(gradient_norm_ratio=norms.ratio(norms.terms))
        for name, size in norms.methods.items():
            with self._run.turn(name, "log"):
                self._run.log(gradient_norm_ratio=norms.ratio(size))

    def remember(self, methods: Iterable[str], logged: Mapping[str, float]) -> None:
        """Takes over the largest ratio of each method that goes beyond `BEYOND`, off a line of the log."""
        for name in methods:
            ratio = logged.get(f"{name}/gradient_norm_ratio", 0.0)
            if ratio > max(BEYOND, self._run.ratios.get(name, (0.0, 0))[0]):
                self._run.ratios[name] = (ratio, self._run.step)

    def note(self) -> None:
        """Notes each method whose gradient went beyond `BEYOND` times the user's, once, with the largest ratio."""
        for name, (ratio, step) in self._run.ratios.items():
            self._run.note(
                f"{name}'s gradient was up to {ratio:.3g} times that of the user's loss (step {step}), so it "
                f"dominates the training. Lower its weight until the ratio is 0.1 to 1 ({name}/gradient_norm_ratio in "
                "the log)"
            )
