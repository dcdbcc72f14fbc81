"""`training:`, `align:`, `lora:`, `memory:`, `poison:` and `probe:` of a recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
)

from unforgotten.recipe.base import Spec, Strict, component


class Lora(Strict):
    """The adapter under training."""

    r: int = Field(8, gt=0)
    """Rank. [2512.10150 §5.2]"""
    alpha: float = Field(4, gt=0)
    """Scaling: the delta is multiplied by alpha / r. [2512.10150 §5.2]"""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Dropout on the adapter's input. [2512.10150 §5.2]"""
    targets: list[str] | str = ["q_proj", "v_proj"]
    """Modules adapted, or `all-linear`. 2512.10150 does not say; these are Lisa's (git-disl/Lisa:train.py)."""


class Training(Strict):
    """One stage of training."""

    epochs: float = Field(3, gt=0)
    """Passes over the rows. [2512.10150 §5.2]"""
    batch_size: int = Field(5, gt=0)
    """Rows per micro-batch and device. [2512.10150 §5.2]"""
    accumulation: int = Field(1, gt=0)
    """Micro-batches per optimizer step."""
    learning_rate: float = Field(5e-5, gt=0)
    """Peak learning rate. [2512.10150 §5.2]"""
    schedule: str = "cosine"
    """Learning-rate schedule, by Transformers' names. [2512.10150 §5.2]"""
    warmup: float = Field(0.1, ge=0)
    """Warm-up: below 1 a share of all steps, else steps. [2512.10150 §5.2]"""
    weight_decay: float = Field(0.1, ge=0)
    """AdamW's decoupled weight decay. [2512.10150 §5.2]"""
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradient clipping; 0 for none. Transformers' default; 2512.10150 does not say."""
    max_length_tokens: int = Field(512, gt=1)
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
        return self.model_dump(exclude={"loss"} if self.loss == "auto" else None)


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
