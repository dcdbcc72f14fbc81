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
    """The least one."""
    high: float
    """The greatest one."""
    log: bool = False
    """Searched by factors: as much between 1 and 10 as between 10 and 100."""


class Development(Strict):
    """Prompts that settings are chosen on, in place of a part of those in `evaluate`, which then all are held out."""

    harm: list[Spec] = Field(min_length=1)
    """Sets of harmful requests."""
    refusal: list[Spec] = []
    """Sets of harmless look-alikes."""
    utility: list[Spec] = Field(min_length=1)
    """Tasks whose answers can be checked."""

    @field_validator("harm", "refusal", "utility", mode="before")
    @classmethod
    def _listed(cls, specs: Any) -> Any:
        return [component("datasets", s) for s in (specs if isinstance(specs, list) else [specs])]


class Sweep(Strict):
    """What `sweep` searches: lowest ASR at preserved task accuracy, on prompts held out from the report."""

    fields: dict[str, Range | list[Any]] = {}
    """Fields and where they are searched: {weight: {low: 0.1, high: 100, log: true}, positions: [last, all]}. A field
    of the method by its name (of one among several methods `der.weight`), or of `training`, `memory` or `lora` with a
    dot (training.learning_rate). Left out: the method's own, about their values; what that is, is printed."""
    trials: int = Field(20, gt=0)
    """Settings tried; a larger number goes on from those that are there."""
    max_utility_loss: float = Field(2.0, ge=0, le=100)
    """Percentage points that each task may lose against plain SFT on the same prompts, by its first measure."""
    utility_floor: float | None = Field(None, ge=0, le=100)
    """In place of that, what each task must reach, in percent."""
    max_refusal: float | None = Field(None, ge=0, le=100)
    """Look-alikes that may be refused, in percent; left out, they are told and not limited."""
    share: float = Field(0.5, gt=0, lt=1)
    """Share of the prompts of `evaluate` that the search sees; the others are asked of what it chose."""
    development: Development | None = None
    """Sets of the search's own; left out, it gets `share` of those in `evaluate`."""
    seeds: int = Field(1, gt=0)
    """Runs of each setting: the recipe's seed and those after it; their mean counts."""
    seed: registry.Seed = 0
    """Seed of the search."""
    jobs: int = Field(1, gt=0)
    """Trials at a time, each in a process with its share of the cores; ignored where there is a GPU. They are proposed
    together, so that another number searches otherwise."""

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
