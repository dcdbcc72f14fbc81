"""`repair:` of a recipe: the rungs of `unforgotten repair --ladder`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from unforgotten import registry
from unforgotten.methods.base import turns
from unforgotten.recipe.base import Spec, Strict, checked_methods

Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0)]


class OneShot(Strict):
    """A few steps of plain fine-tuning on one refusal. [arXiv 2601.01887]"""

    steps: int = Field(10, gt=0)
    """Most optimizer steps. [2601.01887]"""
    learning_rates: list[Rate] = Field([2e-5, 2e-4, 2e-3], min_length=1)
    """Learning rates, the gentlest first; the first patch that passes is taken. 2e-5 is the paper's. Factors of an
    adapter may need more, so ten and a hundred times as much are tried after it."""
    max_refusal_rise: float = Field(5.0, ge=0, le=100)
    """Percentage points by which refused look-alikes may rise above θ_safe's share, or the tuned model's where that is
    larger. The patch ends before the step that goes beyond."""
    prompts: int = Field(50, gt=0)
    """Number of look-alikes that are asked after each step."""

    @field_validator("learning_rates")
    @classmethod
    def _rising(cls, rates: list[float]) -> list[float]:
        if sorted(set(rates)) != rates:
            raise ValueError("list each learning rate once, the smallest first")
        return rates


class Repair(Strict):
    """What `unforgotten repair --ladder` tries, one rung after another."""

    scales: list[Share] = [0.9, 0.75, 0.5, 0.25]
    """Shares of the fine-tuned change that are tried, the largest first. An empty list leaves this rung out."""
    one_shot: OneShot | None = OneShot()
    """A short training on one refusal; null leaves this rung out."""
    edits: list[Spec] = ["safelora"]
    """Methods that edit layers of the finished model. They read θ₀. SafeMERGE also needs a safety adapter."""
    retrain: Spec | list[Spec] | None = None
    """Method of the last run, from θ_safe on the same rows. Left out, it is DER with `factor` times its weight."""
    factor: float = Field(4.0, gt=0)
    """Factor on the weight of the recipe's DER, or on DER's default weight if the recipe has another method."""
    retrains: bool = True
    """Whether the last run is tried at all. It takes as long as the training."""
    max_utility_drop: float | None = Field(None, ge=0, le=100)
    """Percentage points of each task that a repair may lose against the model as it is. The gate's own limit is against
    θ_safe, which a model that learnt nothing keeps as well. Left out, the loss is shown but not limited."""
    decisions: int = Field(2, gt=0)
    """Number of candidates that may be decided on. Each is asked prompts of its own, which nothing else is asked."""

    @field_validator("scales")
    @classmethod
    def _falling(cls, scales: list[float]) -> list[float]:
        if sorted(set(scales), reverse=True) != scales:
            raise ValueError("list each share once, the largest first")
        return scales

    @field_validator("edits", "retrain", mode="before")
    @classmethod
    def _methods(cls, specs: Any) -> Any:
        return specs if specs is None else checked_methods(specs)

    @field_validator("edits")
    @classmethod
    def _edit_finished_models(cls, edits: list[Spec]) -> list[Spec]:
        seen: list[Any] = []
        for spec in edits:
            method = registry.build("methods", spec)
            if turns(type(method)) != ["finish"]:
                raise ValueError(
                    f"{registry.spec_of(method)['name']} works during training, so it cannot edit a finished model. "
                    "Name it as `retrain`"
                )
            if method in seen:
                raise ValueError(f"list each edit once: {spec} is there twice")
            seen.append(method)
        return edits

    @field_validator("retrain")
    @classmethod
    def _some_method(cls, retrain: Spec | list[Spec] | None) -> Spec | list[Spec] | None:
        if retrain == []:
            raise ValueError(
                "name a method, or leave `retrain` out for a stronger DER. `retrains: false` skips the run"
            )
        return retrain
