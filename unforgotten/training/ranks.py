"""The seam for ranks: what a run asks of whoever trains it. No method sees it.

`trainer_ranks.TrainerRanks` fills it for one process and for DDP. Another way to train, such as FSDP2, is another
implementation: nothing else in a run knows of processes, wrapped models or the Trainer's state.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unforgotten.training.aligned_store import Once

    Tensors = dict[str, Tensor]


class Ranks(Protocol):
    """The ranks of a training: how many there are, their batches, and the current step."""

    @property
    def rank(self) -> int:
        """This process, from 0."""

    @property
    def world(self) -> int:
        """Number of processes that train."""

    @property
    def device(self) -> torch.device:
        """Device on which this process trains."""

    @property
    def output(self) -> Path:
        """The folder of the checkpoints."""

    @property
    def micro_batch_rows(self) -> int:
        """User rows of one forward on one rank."""

    @property
    def batch_size(self) -> int:
        """User rows of a whole step by the settings: micro-batches × ranks × rows of each."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def wrapped(self) -> Any:
        """The model that is trained. Gradients are averaged over ranks only through it."""

    def unwrapped(self, model: Any) -> Any:
        """The model inside a wrapper; the model itself where there is none."""

    def logs_this_step(self) -> bool:
        """Whether the step that is under way will have a line of the log."""

    def wait(self) -> None:
        """Returns when every rank has come here."""

    def sum_number(self, number: int) -> int:
        """The sum of a whole number over ranks."""

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over ranks."""

    def mean_tensor(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over ranks."""


def share_shards(ranks: Ranks, once: Once, name: str, count: int, build: Callable[[int], Tensors]) -> Tensors:
    """`once.shards`, each rank making its share first; what it then cannot see (no shared disk) it makes too."""
    if ranks.world > 1:
        once.shards(name, count, build, only=range(ranks.rank, count, ranks.world))
        ranks.wait()
    return once.shards(name, count, build)


def mean_over_rows(
    ranks: Ranks, once: Once, name: str, rows: list[int], sum_of: Callable[[list[int]], Tensors]
) -> Tensors:
    """The mean over rows of what `sum_of(rows)` sums, by name: made once, each rank taking a share of the rows.

    It is kept as one file that the first rank writes: a run may go on with more or fewer ranks.
    """
    shares = once.count(name) or ranks.world

    def build(share: int) -> Tensors:
        return {f"{share}:{n}": f / len(rows) for n, f in sum_of(rows[share::shares]).items()}

    def mean() -> Tensors:
        total: Tensors = {}
        for key, part in share_shards(ranks, once, name, shares, build).items():
            of = key.partition(":")[2]
            total[of] = total[of] + part if of in total else part
        return total

    there = once.has(name)
    if ranks.world > 1:  # what one rank lacks, all make together
        there = ranks.sum_number(int(there)) == ranks.world
    if there:
        return once(name, mean)
    result = mean()
    if ranks.rank == 0:
        once(name, lambda: result)
    if ranks.world > 1:
        ranks.wait()
    if ranks.rank == 0:
        once.drop_shards(name)
    return result
