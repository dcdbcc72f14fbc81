"""`TrainingRun`: all that a method sees of the trainer, as methods/base/run.py declares it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from unforgotten.training.run_base import RunState
from unforgotten.training.run_memory import RunMemory
from unforgotten.training.run_user import RunUser
from unforgotten.training.run_weights import RunWeights

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow
    from unforgotten.models.adapters import AdapterMode
    from unforgotten.training.ranks import Ranks


class TrainingRun(RunState):
    """One fine-tuning run: its safety rows, its user rows, its weights, and where it stands."""

    def __init__(
        self,
        ranks: Ranks,
        user: list[EncodedRow],
        memory: list[EncodedRow],
        adapter_mode: AdapterMode,
        seed: int,
        pad_id: int,
    ) -> None:
        super().__init__(ranks, seed, adapter_mode, pad_id)
        self.weights = RunWeights(self, memory)
        self.memory = RunMemory(self, memory, self.weights)
        self.user = RunUser(self, user, self.weights)

    def new_step(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """A step begins, with these micro-batches of the user's on this rank."""
        self.micro_batches = list(batches)
        self.user.forget_counts()
