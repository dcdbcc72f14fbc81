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
from unforgotten.datasets.attacks.words import Attack
from unforgotten.recipe.base import Replay, Spec, Strict, checked_methods, component, replay_source
from unforgotten.recipe.training import MemorySettings

MOST_RUNS = 10_000
"""Runs of a comparison; a grid is a product, and a few lists too many are more than any machine trains."""


class Layout(Strict):
    """Prints one table row per method, as papers do, in place of one per run."""

    across: Literal["task", "poison", "memory", "model", "attack"]
    """What the columns of the table vary."""
    of: list[Literal["asr", "prefill", "refusal", "utility"]] = Field(["asr", "utility"], min_length=1)
    """Figures in each column. ASR and refusals are means of their suites; utility is the first measure of the task.
    `prefill` is the ASR with forced beginnings of replies (`evaluate.prefill`)."""


class Grid(Strict):
    """Settings that `compare` varies; every combination is one run."""

    method: list[Spec | list[Spec]] = []
    """Methods (or lists of methods)."""
    poison: list[Annotated[float, Field(ge=0, le=1)]] = []
    """Poison ratios p."""
    attack: list[Attack] = []
    """Attacks of the poison. Each is run with every ratio above 0, `identity` once, and a ratio of 0 once for all."""
    memory: list[MemorySettings] = []
    """Sizes and mixes of the memory. Each entry replaces fields of the recipe's own `memory`."""
    replay: list[Replay] = []
    """Sources of the memory's rows, written as in `replay`."""
    model: list[str] = []
    """Models, each aligned as the recipe says. `--set model=…` replaces this list."""
    data: list[Spec] = []
    """User data sets. Each is evaluated on the entry of `utility` at the same place, if there is one."""
    utility: list[list[Spec]] = []
    """Task data sets for each entry of `data`. Left empty, `evaluate.utility` is used for all."""
    seed: list[registry.Seed] = []
    """Random seeds."""
    jobs: int = Field(1, gt=0)
    """Number of runs at the same time. Each runs in a process with its share of the CPU cores, or with one of
    several GPUs. On a single GPU, runs are done one by one."""
    table: Layout | None = None
    """Layout of the table. Left out, each run has one row with every suite."""

    @field_validator("method")
    @classmethod
    def _methods(cls, specs: list[Any]) -> list[Any]:
        return [checked_methods(s) for s in specs]

    @field_validator("replay", mode="before")
    @classmethod
    def _replay(cls, sources: Any) -> Any:
        return [replay_source(source) for source in sources] if isinstance(sources, list) else sources

    @field_validator("data")
    @classmethod
    def _data(cls, specs: list[Spec]) -> list[Spec]:
        return [component("datasets", s) for s in specs]

    @model_validator(mode="after")
    def _paired(self) -> Grid:
        if self.utility and len(self.utility) != len(self.data):
            raise ValueError(f"compare.utility has {len(self.utility)} entries for {len(self.data)} of compare.data")
        ratios, across = sum(ratio > 0 for ratio in self.poison), self.table.across if self.table else None
        if across in ("attack", "poison") and len(self.attack) > 1 and ratios > 1:
            raise ValueError("compare.table has room for several attacks or several ratios above 0, not for both")
        if across == "poison" and len(self.attack) > 1:
            raise ValueError("compare.attack has several attacks, so lay out the table with across: attack")
        axes = (self.method, self.poison, self.attack, self.memory, self.replay, self.model, self.data, self.seed)
        if (runs := math.prod(max(1, len(axis)) for axis in axes)) > MOST_RUNS:
            raise ValueError(f"these are {runs:,} runs, and a comparison has {MOST_RUNS:,} at most: make several of it")
        return self
