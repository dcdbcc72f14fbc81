"""`TrainingRun`: all that a method sees of the trainer, as methods/base/run.py declares it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unforgotten.errors import RecipeError
from unforgotten.training import row_list
from unforgotten.training.drift import HeldOut
from unforgotten.training.replay_memory import Memory
from unforgotten.training.run_base import RunState
from unforgotten.training.run_memory import RunMemory
from unforgotten.training.run_user import RunUser
from unforgotten.training.run_weights import RunWeights

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow
    from unforgotten.models.adapters import AdapterMode
    from unforgotten.training.ask_aligned import AskAligned
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
        held_out: Sequence[EncodedRow] = (),
        settings: Memory | None = None,
        steers: bool = False,
    ) -> None:
        """held_out: safety rows that nothing draws. settings: when and how many of them are measured. steers: whether
        a method needs them during the run."""
        super().__init__(ranks, seed, adapter_mode, pad_id)
        settings = settings or Memory()
        self.weights = RunWeights(self, memory)
        when = settings.held_out_rows, settings.held_out_every_steps, steers
        measured = HeldOut(self, self.weights, list(held_out), *when)
        self.memory = RunMemory(self, memory, self.weights, measured)
        self.user = RunUser(self, user, self.weights)
        self.lists_folder: Path | None = None
        """Where lists of rows are written; None is the folder of the checkpoints."""
        self.asked: AskAligned | None = None
        """θ_safe, as it is asked for replies before the run."""

    def new_step(self, batches: Sequence[dict[str, Tensor]]) -> None:
        """A step begins, with these micro-batches of the user's on this rank."""
        self.micro_batches = list(batches)
        self.user.forget_counts()

    @property
    def replies(self) -> AskAligned:
        """θ_safe's own replies, made before the run; for `data`."""
        if self.asked is None:
            raise RecipeError(
                f"{self.method} asks the aligned model for replies, and this trainer was not told how. Pass "
                "replies=unforgotten.AlignedReplies(tokenizer)."
            )
        return self.asked

    def list_rows(self, name: str, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
        """Writes these user rows into <name>.jsonl of the run folder, and gives the first of them in words.

        rows: (place among the user's rows, facts of the row).
        """
        lines = [{**row_list.facts_of(self.user.rows[place], place), **facts} for place, facts in rows]
        file = (self.lists_folder or self.ranks.output) / f"{name}.jsonl"
        if self.ranks.rank == 0:
            row_list.write(file, lines)
        return row_list.sentence(file.name, lines)
