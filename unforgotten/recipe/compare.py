"""`compare:` of a recipe."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from unforgotten import registry
from unforgotten.recipe.base import Replay, Spec, Strict, checked_methods, component
from unforgotten.recipe.training import MemorySettings

MOST_RUNS = 10_000
"""Runs of a comparison; a grid is a product, and a few lists too many are more than any machine trains."""


class Layout(Strict):
    """How `compare` prints: a line for each method, as papers do, in place of one for each run."""

    across: Literal["task", "poison", "memory", "model"]
    """What stands side by side."""
    of: list[Literal["asr", "refusal", "utility"]] = Field(["asr", "utility"], min_length=1)
    """What is shown of each: ASR and refusals as means of their suites, the task's first measure of utility."""


class Grid(Strict):
    """What `compare` varies; every combination is one run."""

    method: list[Spec | list[Spec]] = []
    """Methods (or lists of methods)."""
    poison: list[Annotated[float, Field(ge=0, le=1)]] = []
    """Poison ratios."""
    memory: list[MemorySettings] = []
    """Sizes and mixes of the memory, each over the recipe's own `memory`."""
    replay: list[Replay] = []
    """Where the memory's rows come from, as `replay` says it."""
    model: list[str] = []
    """Models, each aligned as the recipe says; `--set model=…` takes their place."""
    data: list[Spec] = []
    """User data sets; `evaluate.utility` of each is `tasks[i]` where given."""
    utility: list[list[Spec]] = []
    """For each entry of `data`, the utility sets that belong to it; empty: `evaluate.utility` for all."""
    seed: list[registry.Seed] = []
    """Seeds."""
    jobs: int = Field(1, gt=0)
    """Runs at a time, each in a process with its share of the cores, or with one of several GPUs; on a single GPU they
    are done one by one."""
    table: Layout | None = None
    """How the figures are laid out; left out, a line for each run with every suite."""

    @field_validator("method")
    @classmethod
    def _methods(cls, specs: list[Any]) -> list[Any]:
        return [checked_methods(s) for s in specs]

    @field_validator("data")
    @classmethod
    def _data(cls, specs: list[Spec]) -> list[Spec]:
        return [component("datasets", s) for s in specs]

    @model_validator(mode="after")
    def _paired(self) -> Grid:
        if self.utility and len(self.utility) != len(self.data):
            raise ValueError(f"compare.utility has {len(self.utility)} entries for {len(self.data)} of compare.data")
        axes = (self.method, self.poison, self.memory, self.replay, self.model, self.data, self.seed)
        if (runs := math.prod(max(1, len(axis)) for axis in axes)) > MOST_RUNS:
            raise ValueError(f"these are {runs:,} runs, and a comparison has {MOST_RUNS:,} at most: make several of it")
        return self
