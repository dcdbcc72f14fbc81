"""`Ranks` of a `transformers.Trainer`: one process, or DDP through accelerate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unforgotten.training.ranks import Ranks

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments


class TrainerRanks(Ranks):
    """Reads everything off the Trainer when it is asked, since a Trainer's arguments and state change."""

    def __init__(self, trainer: Trainer, args: TrainingArguments) -> None:
        """args: what the Trainer is to be made with; it has none of its own before it is set up."""
        self._trainer: Any = trainer
        self._given = args

    @property
    def _args(self) -> Any:
        return getattr(self._trainer, "args", self._given)

    @property
    def rank(self) -> int:
        return int(self._args.process_index)

    @property
    def world(self) -> int:
        return int(self._args.world_size)

    @property
    def device(self) -> torch.device:
        return self._args.device

    @property
    def output(self) -> Path:
        return Path(self._args.output_dir)

    @property
    def micro_batch_rows(self) -> int:
        return int(self._args.per_device_train_batch_size)

    @property
    def batch_size(self) -> int:
        return self.micro_batch_rows * int(self._args.gradient_accumulation_steps) * self.world

    @property
    def step(self) -> int:
        return int(self._trainer.state.global_step)

    @property
    def steps(self) -> int:
        return int(self._trainer.state.max_steps)

    @property
    def wrapped(self) -> Any:
        return self._trainer.model_wrapped

    def unwrapped(self, model: Any) -> Any:
        return self._trainer.accelerator.unwrap_model(model)

    def logs_this_step(self) -> bool:
        args, state = self._args, self._trainer.state
        if str(args.logging_strategy) not in ("steps", "IntervalStrategy.STEPS"):
            return False
        done = state.global_step + 1
        every = max(1, int(state.logging_steps or args.logging_steps))
        return done % every == 0 or (done == 1 and bool(args.logging_first_step))

    def wait(self) -> None:
        self._trainer.accelerator.wait_for_everyone()

    def sum_number(self, number: int) -> int:
        if self.world == 1:
            return number
        return int(self._trainer.accelerator.reduce(torch.tensor(number, device=self.device), "sum").item())

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        return self._trainer.accelerator.reduce(tensor, "sum") if self.world > 1 else tensor

    def mean_tensor(self, tensor: Tensor) -> Tensor:
        return self._trainer.accelerator.reduce(tensor, "mean") if self.world > 1 else tensor
