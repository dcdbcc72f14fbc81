"""`training:`, `align:`, `lora:`, `memory:`, `poison:` and `probe:` of a recipe."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from unforgotten.recipe import arguments
from unforgotten.recipe.base import Spec, Strict, component


class Lora(Strict):
    """A LoRA adapter, by PEFT's names. [arXiv 2106.09685]"""

    r: int = Field(8, gt=0)
    """Rank. [2512.10150 §5.2]"""
    lora_alpha: float = Field(4, gt=0)
    """Scaling: the delta is multiplied by lora_alpha / r. [2512.10150 §5.2]"""
    lora_dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on the adapter's input. [2512.10150 §5.2]"""
    target_modules: list[str] | str = ["q_proj", "v_proj"]
    """Modules adapted, or `all-linear`. 2512.10150 does not say; these are Lisa's (git-disl/Lisa:train.py)."""


class UserLora(Lora):
    """The adapter of stage finetune, and what becomes of the one that θ_safe may have."""

    existing: Literal["merge", "stack", "continue"] | None = None
    """θ_safe's own adapter: merged into the base, kept frozen under the new one, or trained on. Left out: `stack` where
    θ_safe is an adapter on a public base, else `merge`."""

    def determining(self) -> dict[str, Any]:
        """What the digest of a run is over; `existing` is in it as what it comes to."""
        return self.model_dump(exclude={"existing"})


class Training(Strict):
    """One stage of training, by Transformers' names; other fields of its TrainingArguments may stand here too."""

    model_config = ConfigDict(extra="allow")

    num_train_epochs: float = Field(3, gt=0)
    """Passes over the rows. [2512.10150 §5.2]"""
    max_steps: int = Field(-1, ge=-1)
    """Optimizer steps; above 0 they count in place of the epochs."""
    per_device_train_batch_size: int = Field(5, gt=0)
    """Rows per micro-batch and device. [2512.10150 §5.2]"""
    gradient_accumulation_steps: int = Field(1, gt=0)
    """Micro-batches per optimizer step."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate. [2512.10150 §5.2]"""
    lr_scheduler_type: str = "cosine"
    """Learning-rate schedule, by Transformers' names. [2512.10150 §5.2]"""
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises from 0. [2512.10150 §5.2]"""
    warmup_steps: int | None = Field(None, ge=0)
    """The same as a number of steps; left out, `warmup_ratio` counts."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decoupled weight decay. [2512.10150 §5.2]"""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradient clipping; 0 for none. Transformers' default; 2512.10150 does not say."""
    max_length: int = Field(512, gt=1)
    """Longer rows are cut; a row that loses its whole response is dropped and counted."""
    group_by_length: bool = False
    """Rows of similar length share a batch: less padding, another order. [Transformers' LengthGroupedSampler]"""
    bf16: bool = False
    """Mixed precision."""
    gradient_checkpointing: bool = False
    """Trade time for memory."""
    loss: Literal["auto", "trainer", "chunked"] = "auto"
    """How cross-entropy is computed: `trainer` through the logits of a batch, `chunked` without ever making them, equal
    to rounding; `auto` is chunked under a frozen head with 32,000 words or more."""
    save_steps: int = Field(200, gt=0)
    """Optimizer steps between checkpoints, from which the same command goes on after a kill."""
    logging_steps: int = Field(10, gt=0)
    """Optimizer steps between lines of metrics.jsonl."""

    def determining(self) -> dict[str, Any]:
        """What the digest of a run is over; a setting that came later is in it only where it is used."""
        later = {"loss": "auto", "warmup_steps": None, "max_steps": -1}
        return self.model_dump(exclude={name for name, unused in later.items() if getattr(self, name) == unused})

    def steps(self, rows: int) -> int:
        """Optimizer steps on so many rows in one process."""
        an_epoch = math.ceil(math.ceil(rows / self.per_device_train_batch_size) / self.gradient_accumulation_steps)
        return self.max_steps if self.max_steps > 0 else math.ceil(an_epoch * self.num_train_epochs)

    def epochs(self, rows: int) -> float:
        """Passes over so many rows, in one process."""
        if self.max_steps <= 0:
            return self.num_train_epochs
        return self.max_steps * self.per_device_train_batch_size * self.gradient_accumulation_steps / max(1, rows)

    @model_validator(mode="after")
    def _passed_through(self) -> Training:
        if self.model_extra:
            self.model_extra.update(arguments.checked(self.model_extra))
        return self


class Align(Training):
    """Stage align: θ₀ becomes θ_safe on the safety rows, by LoRA, merged in fp32."""

    lora: Lora = Lora()
    """The alignment's own adapter."""


class Probe(Strict):
    """Forgetting while it happens: at steps of stage finetune the live model answers a few of `evaluate`'s prompts.

    Changes neither the weights nor the run's name; a run that is trained already gets none.
    """

    every_steps: int = Field(gt=0)
    """Optimizer steps between two probes; there is one before the first step (θ_safe) and one of the result too."""
    prompts: int = Field(32, gt=0)
    """Harmful prompts asked each time, shared out among the suites; as many look-alikes, and as many of the first
    task. The same ones at each step, of each method and seed."""


class MemorySettings(Strict):
    """The safety rows kept for replay."""

    n_rows: int | None = Field(None, gt=0)
    """Rows kept; none given: `share` of the user rows, at least `at_least` where there are that many."""
    share: float = Field(0.05, ge=0)
    """Share of the number of user rows. [2512.10150: m = 5 %]"""
    at_least: int = Field(100, gt=0)
    """Fewest rows kept."""
    refusals: float | None = Field(None, ge=0, le=1)
    """Share of refusals among them; none given: the safety data's own mix."""


class Poison(Strict):
    """A lab's attack: harmful rows among the user's, the total held fixed."""

    data: Spec
    """Where the harmful rows come from."""
    ratio: float = Field(0.0, ge=0, le=1)
    """p: share of the user rows that are replaced by harmful ones. [2512.10150: 0.1]"""

    @field_validator("data")
    @classmethod
    def _known(cls, spec: Spec) -> Spec:
        return component("datasets", spec)
