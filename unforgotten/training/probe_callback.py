"""When a training is probed: before the first step, every so many steps, and what it ends with."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from transformers import TrainerCallback

from unforgotten.methods.base import turns
from unforgotten.training.callbacks import Metrics


class Book(Protocol):
    """Who asks and writes down."""

    def keep(self, step: int) -> None:
        """Forgets what came after this step."""

    def has(self, step: int) -> bool:
        """Is this step probed?"""

    def take(self, model: Any, step: int) -> dict[str, Any]:
        """Asks the model; returns the line of this step."""


class ProbeCallback(TrainerCallback):
    """Has the live model asked at steps of the training, which goes on as though nothing had been.

    The result is what methods' `finish` leaves, where they have one; it then stands in the book and in no log, since a
    Trainer has closed its reports by then.
    """

    def __init__(self, trainer: Any, every_steps: int, book: Book, metrics: Metrics) -> None:
        self.trainer, self.every, self.book, self.metrics = trainer, every_steps, book, metrics

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.book.keep(state.global_step)
        if state.global_step == 0:
            self._take(0, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        edits = any("finish" in turns(type(method)) for method in self.trainer.methods.values())
        last = state.global_step >= state.max_steps
        if not edits if last else state.global_step % self.every == 0:
            self._take(state.global_step, control)

    def result(self) -> None:
        """The last probe, of what is saved; to be called after `train`."""
        self._take(self.trainer.state.global_step, None)

    def _take(self, step: int, control: Any) -> None:
        if self.book.has(step):
            return
        device = self.trainer.args.device
        with self.metrics.aside(), torch.random.fork_rng([device] if device.type == "cuda" else []):
            line = self.book.take(self.trainer.run.weights.model, step)
        if control is not None:
            scores = {name: (line[name] or {}).get("value") for name in ("asr", "refusal", "utility")}
            # A line of its own, at its own step; the one that the step is to have must come all the same.
            wanted = control.should_log
            self.trainer.log_aside({f"probe/{name}": value for name, value in scores.items() if value is not None})
            control.should_log = wanted
