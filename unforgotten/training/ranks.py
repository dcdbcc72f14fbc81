"""The seam for ranks: what a run asks of whoever trains it. Sums, shares and the wrapped model; no method sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.training.aligned_store import Once

    Tensors = dict[str, Tensor]


class Ranks(Protocol):
    """Who trains, on how many ranks, and where the training stands (training/trainer.py: MethodMixin)."""

    args: Any
    """transformers.TrainingArguments."""
    state: Any
    """transformers.TrainerState."""
    accelerator: Any
    model_wrapped: Any
    """The model as it is trained: only through it are gradients averaged over ranks."""

    def logs_this_step(self) -> bool:
        """Whether the step that is under way will have a line of the log."""

    def sum_over_ranks(self, number: int) -> int:
        """The sum of a whole number over ranks."""

    def add_over_ranks(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks."""

    def share_shards(self, once: Once, name: str, count: int, build: Callable[[int], Tensors]) -> Tensors:
        """`once.shards`, each rank making its share first."""

    def sum_of_shards(self, once: Once, name: str, sum_: Callable[[], Tensors]) -> Tensors:
        """What all shards of `name` sum to, in one file that the first rank writes."""
