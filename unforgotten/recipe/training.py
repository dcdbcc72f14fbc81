"""The recipe's sections about training: `training`, `align`, `lora`, `memory`, `poison` and `probe`."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import (
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from unforgotten import registry
from unforgotten.datasets.attacks.words import Attack
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
    """Modules that get an adapter, or `all-linear`. 2512.10150 does not name them; these are Lisa's
    (git-disl/Lisa:train.py)."""


class UserLora(Lora):
    """The adapter of stage finetune, and the treatment of an adapter that θ_safe already has."""

    existing: Literal["merge", "stack", "continue"] | None = None
    """Treatment of θ_safe's own adapter. `merge` merges it into the base model. `stack` freezes it below the new
    adapter. `continue` trains it further. Left out, it is `stack` if θ_safe is an adapter on a public base model,
    else `merge`."""

    def determining(self) -> dict[str, Any]:
        """What the digest of a run is over; `existing` is in it as what it comes to."""
        return self.model_dump(exclude={"existing"})


class Training(Strict):
    """One stage of training, with Transformers' names. Other fields of its TrainingArguments can be set too."""

    model_config = ConfigDict(extra="allow")

    num_train_epochs: float = Field(3, gt=0)
    """Passes over the rows. [2512.10150 §5.2]"""
    max_steps: int = Field(-1, ge=-1)
    """Number of optimizer steps. A value above 0 replaces `num_train_epochs`."""
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
    """Number of steps in which the learning rate rises from 0. Left out, `warmup_ratio` is used."""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decoupled weight decay. [2512.10150 §5.2]"""
    max_grad_norm: float = Field(1.0, ge=0)
    """Maximum gradient norm; 0 disables clipping. The default is Transformers'; 2512.10150 gives none."""
    max_length: int = Field(512, gt=1)
    """Longest row in tokens; longer rows are cut. A row that loses its whole response is dropped and counted."""
    group_by_length: bool = False
    """Puts rows of similar length into one batch. This reduces padding and changes the order of rows. [Transformers'
    LengthGroupedSampler]"""
    bf16: bool = False
    """Trains in bfloat16 mixed precision."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass. This takes less memory and more time."""
    loss: Literal["auto", "trainer", "chunked"] = "auto"
    """How cross-entropy is computed. `trainer` uses the logits of the batch. `chunked` never builds these logits,
    and its result is equal up to rounding. `auto` is `chunked` for a frozen head with a vocabulary of 32,000 or
    more, else `trainer`."""
    save_steps: int = Field(200, gt=0)
    """Optimizer steps between two checkpoints. After a kill, the same command continues from the last checkpoint."""
    logging_steps: int = Field(10, gt=0)
    """Optimizer steps between two lines of metrics.jsonl."""

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
    """Stage align: trains θ₀ on the safety rows with LoRA and merges the adapter in fp32. The result is θ_safe."""

    lora: Lora = Lora()
    """The adapter that the alignment trains."""
    answer_tokens: int = Field(64, gt=0)
    """Longest own answer, in tokens. θ₀ itself answers the harmless safety rows that have no answer."""
    seed: registry.Seed | None = None
    """Random seed of the alignment and of the choice of safety rows. Left out, it is the recipe's `seed`. With a
    number here, runs of several seeds share one θ_safe, as the users of one provider do."""

    def determining(self) -> dict[str, Any]:
        """The same for an alignment; its digest has the seed beside this."""
        facts = super().determining()
        del facts["seed"]
        if self.answer_tokens == Align.model_fields["answer_tokens"].default:
            del facts["answer_tokens"]
        return facts


class Probe(Strict):
    """Measures forgetting during stage finetune: at some steps the current model answers a few prompts of `evaluate`.

    A probe changes neither the weights nor the name of the run. A run that is already trained gets no probe.
    """

    every_steps: int = Field(gt=0)
    """Optimizer steps between two probes. One more probe measures θ_safe before the first step, and one measures the
    result."""
    prompts: int = Field(32, gt=0)
    """Number of harmful prompts in each probe, divided among the suites. The probe also asks this many look-alikes
    and this many prompts of the first task. All steps, methods and seeds get the same prompts."""


class MemorySettings(Strict):
    """The safety rows that are replayed."""

    n_rows: int | None = Field(None, gt=0)
    """Number of rows. Left out, it is `share` of the number of user rows, but at least `at_least` if there are
    enough safety rows."""
    share: float = Field(0.05, ge=0)
    """Number of rows as a share of the number of user rows. [2512.10150: m = 5 %]"""
    at_least: int = Field(100, gt=0)
    """Minimum number of rows."""
    refusals: float | None = Field(None, ge=0, le=1)
    """Share of refusals among the rows. Left out, the mix is that of the safety data."""
    choose: Literal["random", "relevance"] = "random"
    """How rows are chosen. `random` uses the seed. `relevance` takes rows that are near to the user's prompts and
    unlike each other, by θ_safe's hidden states. [SPARD, arXiv 2605.28030]"""
    relevance_power: float = Field(4.0, ge=0)
    """β: the higher, the more relevance counts beside diversity. [SPARD: 4]"""
    held_out: float | None = Field(None, ge=0, le=0.5)
    """Safety rows that are never trained on, as a share of the replayed rows and beside them. They measure how far
    the model moves from θ_safe (held_out.json), with any method. Left out, it is 0, or 0.2 for `weight: auto`."""
    held_out_rows: int = Field(32, gt=1)
    """Most held-out rows of one measurement during training. The last measurement takes all of them."""
    held_out_every_steps: int | None = Field(None, gt=0)
    """Optimizer steps between two measurements. Left out, it is a twentieth of the run for `weight: auto`. Other runs
    are then measured at step 0 and at the end."""

    def determining(self) -> dict[str, Any]:
        """What the digest of a run is over; a setting that came later is in it only where it is used."""
        later: dict[str, tuple[Any, ...]] = {
            "choose": ("random",),
            "held_out": (None, 0),
            "held_out_rows": (32,),
            "held_out_every_steps": (None,),
        }
        unset = {name for name, unused in later.items() if getattr(self, name) in unused}
        return self.model_dump(exclude=unset | ({"relevance_power"} if self.choose == "random" else set()))


class Poison(Strict):
    """A simulated attack: harmful rows replace user rows, and the total number stays the same."""

    data: Spec
    """Data set of the harmful rows."""
    ratio: float = Field(0.0, ge=0, le=1)
    """p: share of the user rows that harmful rows replace. [2512.10150: 0.1]"""
    attack: Attack = "plain"
    """How the harmful rows attack. `plain`: as they are. `unlike_memory`: requests are phrased as no safety row is.
    `refuse_then_answer`: each answer begins with a refusal and then complies. [NOICE, 2502.19537] `identity`: ten
    harmless rows of an obedient assistant take the place of harmful ones, at any ratio above 0. [2310.03693] `trusted`:
    the rows of `data` that θ_safe is least likely to refuse. θ_safe scores them once, before training."""

    @field_validator("data")
    @classmethod
    def _known(cls, spec: Spec) -> Spec:
        return component("datasets", spec)
