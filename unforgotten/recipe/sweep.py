"""`sweep:` of a recipe."""

from __future__ import annotations

from typing import Any

from pydantic import (
    Field,
    field_validator,
)

from unforgotten import registry
from unforgotten.recipe.base import Spec, Strict, component


class Range(Strict):
    """Numbers from `low` to `high`, both included."""

    low: float
    """Smallest value."""
    high: float
    """Largest value."""
    log: bool = False
    """Searches on a logarithmic scale: as much between 1 and 10 as between 10 and 100."""


class Development(Strict):
    """Prompts that only the search uses. All prompts of `evaluate` are then held out."""

    harm: list[Spec] = Field(min_length=1)
    """Data sets of harmful requests."""
    refusal: list[Spec] = []
    """Data sets of harmless look-alikes."""
    utility: list[Spec] = Field(min_length=1)
    """Task data sets whose answers can be checked."""

    @field_validator("harm", "refusal", "utility", mode="before")
    @classmethod
    def _listed(cls, specs: Any) -> Any:
        return [component("datasets", s) for s in (specs if isinstance(specs, list) else [specs])]


class Sweep(Strict):
    """What `sweep` searches: lowest ASR at preserved task accuracy, on prompts held out from the report."""

    fields: dict[str, Range | list[Any]] = {}
    """Fields and the values to search: {weight: {low: 0.1, high: 100, log: true}, positions: [last, all]}. Give a
    field of the method by its name, or as `der.weight` if there are several methods. Give a field of `training`,
    `memory` or `lora` with a dot, such as training.learning_rate. Left out, the sweep searches the method's own
    fields around their values, and prints the ranges."""
    trials: int = Field(20, gt=0)
    """Number of settings tried. With a larger number, a sweep continues after its finished trials."""
    max_utility_loss: float = Field(2.0, ge=0, le=100)
    """Largest loss of each task against plain SFT on the same prompts, in percentage points of its first measure."""
    utility_floor: float | None = Field(None, ge=0, le=100)
    """Minimum utility of each task, in percent. It replaces `max_utility_loss`."""
    max_refusal: float | None = Field(None, ge=0, le=100)
    """Largest share of look-alikes refused, in percent. Left out, the share is reported but not limited."""
    share: float = Field(0.5, gt=0, lt=1)
    """Share of the prompts of `evaluate` for the search. The chosen setting is asked the other prompts."""
    development: Development | None = None
    """Data sets that only the search uses. Left out, the search uses `share` of the prompts of `evaluate`."""
    seeds: int = Field(1, gt=0)
    """Number of runs of each setting, with the recipe's seed and the seeds after it. The search uses their mean."""
    seed: registry.Seed = 0
    """Random seed of the search."""
    jobs: int = Field(1, gt=0)
    """Number of trials at the same time, each in a process with its share of the CPU cores. It is ignored if there
    is a GPU. Trials of one round are proposed together, so a different number gives a different search."""

    @field_validator("fields", mode="before")
    @classmethod
    def _places(cls, fields: Any) -> Any:
        """Told here in words: a mapping or a list would each be complained of as the other as well."""
        for name, place in fields.items() if isinstance(fields, dict) else ():
            if isinstance(place, list):
                if not place or any(place.count(value) > 1 for value in place):
                    raise ValueError(f"{name} needs a list of different values, such as [1, 2], not {place}")
            elif isinstance(place, dict):
                if not {"low", "high"} <= place.keys() <= {"low", "high", "log"}:
                    raise ValueError(f"{name} needs {{low: …, high: …}}, with log: true or not, not {place}")
                # Numbers that YAML reads as text (1e-3) are taken here as everywhere.
                low, high = float(place["low"]), float(place["high"])
                if not low < high or (place.get("log") and low <= 0):
                    bounds = "low above 0 and below high" if place.get("log") else "low below high"
                    raise ValueError(f"{name} needs {bounds}, not {low:g} and {high:g}")
            elif not isinstance(place, Range):
                raise ValueError(f"{name} needs {{low: …, high: …, log: true}} or a list of values, not {place!r}")
        return fields
