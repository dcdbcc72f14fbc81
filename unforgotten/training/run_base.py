"""What `run.memory`, `run.user` and `run.weights` share: the step, the method whose turn it is, the log and notes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unforgotten.training import replay_memory
from unforgotten.training.collate import Collator

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, RowBatch
    from unforgotten.models.adapters import AdapterMode
    from unforgotten.training.aligned_store import Once
    from unforgotten.training.ranks import Ranks

logger = logging.getLogger(__name__)


class RunState:
    """Steps, turns, ranks, notes and logs of one run."""

    def __init__(self, ranks: Ranks, seed: int, adapter_mode: AdapterMode, pad_id: int) -> None:
        self.ranks, self.seed = ranks, seed
        self.adapter_mode: AdapterMode = adapter_mode
        self.once: Once
        """`once(name, build)`: tensors that θ_safe determines, built before the first step, read back on resume."""
        self.digest: str | None = None
        """Of the run in whose checkpoints it stands; None outside of a recipe."""
        self.notes: list[str] = []
        self.ratios: dict[str, tuple[float, int]] = {}
        """By method: the largest ‖gradient of its term‖ / ‖gradient of the user's loss‖ so far, and its step."""
        self.norms: dict[str, tuple[Tensor, Tensor]] = {}
        """By method: the norms of this step's gradients, the user's and its own, where something reads them."""
        self.logged: dict[str, list[float | Tensor]] = {}
        self.method, self.turn_name = "", ""
        """Whose turn it is, and which."""
        self.slot, self.slots = 0, 1
        """Safety rows of a step are dealt into `slots` shares: micro-batches × ranks in `loss`, else ranks."""
        self.micro_batches: list[dict[str, Tensor]] = []
        """The user's, of this step and rank."""
        self._collator = Collator(pad_id)

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.ranks.step

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.ranks.steps

    @property
    def logs_this_step(self) -> bool:
        """Whether this step has a line of the log: what is made for the log alone is made then."""
        return self.ranks.logs_this_step()

    @property
    def gradient_norms(self) -> tuple[float, float] | None:
        """‖the gradient of the user's loss‖ and ‖that of this method's term‖ in this step; None where not taken."""
        if self.method not in self.norms:
            return None
        user, own = self.norms[self.method]
        return float(user), float(own)

    def batch(self, rows: Sequence[EncodedRow], places: Sequence[int]) -> RowBatch:
        """The rows at these places as a batch on this rank's device."""
        return replay_memory.as_batch(rows, places, self._collator, self.ranks.device)

    def prompts(self, rows: Sequence[EncodedRow], places: Sequence[int]) -> RowBatch:
        """The same, of these rows' prompts alone."""
        return replay_memory.as_prompts(rows, places, self._collator, self.ranks.device)

    def log(self, **values: float | Tensor) -> None:
        """Means of these until the next log line, under `method/<name>`; tensors are read only then (no sync here)."""
        for name, value in values.items():
            logged = value.detach() if isinstance(value, Tensor) else value
            self.logged.setdefault(f"{self.method}/{name}", []).append(logged)

    def note(self, text: str) -> None:
        """A fact that the results should carry, such as what a weight is called elsewhere."""
        if text not in self.notes:
            self.notes.append(text)
            logger.info(text)

    def warn(self, text: str) -> None:
        """A note that cannot wait for the end: the first rank says it at once, too."""
        if text not in self.notes:
            self.notes.append(text)
            if self.ranks.rank == 0:
                logger.warning("Note: %s.", text)

    @contextmanager
    def turn(self, method: str, turn: str, position: int | None = None) -> Iterator[None]:
        """A method's turn: its own random stream, the trainer's put back after. position: the micro-batch, in `loss`.

        Without it a weight of 0 drifts from SFT as soon as there is dropout, and resume is not exact.
        """
        rank, world = self.ranks.rank, self.ranks.world
        before = self.method, self.turn_name, self.slot, self.slots
        self.method, self.turn_name = method, turn
        if position is None:
            self.slot, self.slots = rank, world
        else:
            self.slot, self.slots = position * world + rank, len(self.micro_batches) * world
        device = self.ranks.device
        devices = [device] if device.type not in ("cpu", "mps") else []
        try:
            with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
                seed = replay_memory.seed_of(self.seed, self.step, method, turn, position, rank)
                torch.default_generator.manual_seed(seed)
                for at in devices:
                    getattr(torch, at.type).manual_seed(seed)
                yield
        finally:
            self.method, self.turn_name, self.slot, self.slots = before


def combine(values: Sequence[float | Tensor]) -> float:
    """Mean of logged values."""
    return sum(float(v) for v in values) / len(values)
