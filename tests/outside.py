"""Methods from outside the package, as a user's own file holds them: one that is right, and several that are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from unforgotten.methods.base import Method


@dataclass(kw_only=True)
class Average(Method):
    """Serve the running average of the weights; every third step is pulled back to it. [after arXiv 2508.12531]"""

    needs_safety: ClassVar[bool] = False
    remembers: ClassVar[tuple[str, ...]] = ("average", "steps")
    neutral: ClassVar[dict[str, Any]] = {"decay": 0.0, "pull": 0.0}

    decay: float = 0.9
    """Share of the average that stays at each step."""
    pull: float = 0.5
    """Strength of the pull back to the average, on every third step."""

    def start(self, run: Any) -> None:
        self.average, self.steps = run.weights.snapshot(), 0

    def gradients(self, run: Any) -> None:
        if self.pull and self.steps % 3 == 2:
            for name, p in run.weights.params().items():
                p.grad += self.pull * (p.detach() - self.average[name])

    @torch.no_grad()
    def after_step(self, run: Any) -> None:
        self.steps += 1
        for name, p in run.weights.params().items():
            # a + (p - a)(1 - d) would not be p itself at d = 0 when rounded; this is.
            self.average[name] = p.detach().clone() if self.decay == 0 else self.average[name].lerp(p, 1 - self.decay)

    def finish(self, weights: Any) -> Any:
        yield from self.average.items()


@dataclass(kw_only=True)
class MeanOfMeans(Method):
    """Wrong: a mean over the micro-batch, so that the split changes the step."""

    def loss(self, run: Any, batch: Any, out: Any) -> Any:
        rows = run.memory.draw(run.user.step_rows)
        hidden = run.weights.states(rows)
        return 0.1 * hidden.pow(2).mean(), 1


@dataclass(kw_only=True)
class LocalCount(Method):
    """Wrong: divides by what this micro-batch holds, not by what the step holds."""

    def loss(self, run: Any, batch: Any, out: Any) -> Any:
        rows = run.memory.draw(run.user.step_rows)
        hidden = run.weights.states(rows)
        return 0.1 * hidden.pow(2).sum(), int(rows.predicts.sum())


@dataclass(kw_only=True)
class Forgets(Method):
    """Wrong: counts steps without remembering them."""

    needs_safety: ClassVar[bool] = False

    def start(self, run: Any) -> None:
        self.steps = 0

    def gradients(self, run: Any) -> None:
        self.steps += 1
        for p in run.weights.params().values():
            p.grad *= 1 + 0.1 * self.steps


@dataclass(kw_only=True)
class MovesFrozen(Method):
    """Wrong: writes into weights that are not trained."""

    needs_safety: ClassVar[bool] = False

    @torch.no_grad()
    def after_step(self, run: Any) -> None:
        next(p for p in run.weights.model.parameters() if not p.requires_grad).add_(1e-3)


@dataclass(kw_only=True)
class NeverNeutral(Method):
    """Wrong: moves gradients even when switched off."""

    needs_safety: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}

    weight: float = 1.0
    """Strength."""

    def gradients(self, run: Any) -> None:
        for p in run.weights.params().values():
            p.grad += 1e-6


@dataclass(kw_only=True)
class DoesNothing(Method):
    """Wrong: has a strength and no effect."""

    needs_safety: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}

    weight: float = 1.0

    def gradients(self, run: Any) -> None:
        return None
