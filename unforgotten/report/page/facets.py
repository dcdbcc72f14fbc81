"""What stands in one panel: the methods of one model, task, poison ratio and memory, and the models they start from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unforgotten.report.aggregate import Line, lines, names_in
from unforgotten.runs import results
from unforgotten.runs.result_types import Rate
from unforgotten.runs.results import Kind


@dataclass(frozen=True, slots=True)
class Facet:
    """Lines of one setting; what they have in common is in `title`, as far as other facets differ in it."""

    title: str
    tuned: Sequence[Line]
    start: Sequence[Line]
    """θ₀ and θ_safe of the same model."""

    @property
    def all(self) -> list[Line]:
        """Base, aligned, then the methods."""
        return [*self.start, *self.tuned]

    @property
    def plain(self) -> Line | None:
        """Plain fine-tuning, which the methods are compared with."""
        return next((line for line in self.tuned if line.name == "sft"), None)

    @property
    def setting(self) -> tuple[Any, ...]:
        """Model, task, poison ratio, rows in memory and attack."""
        return setting(self.tuned[0])


def setting(line: Line) -> tuple[Any, ...]:
    """What the lines of a facet have in common."""
    return line.model, line.task, line.poison, line.memory, line.attack


def facets(rows: Sequence[results.ResultRow]) -> list[Facet]:
    """One for each setting, in the order of the rows; none where nothing was tuned."""
    all_lines = lines(rows)
    tuned = [line for line in all_lines if line.stage == "tuned"]
    keys = list(dict.fromkeys(setting(line) for line in tuned))
    if not keys:
        return []
    models, tasks, ratios, memories, _ = (set(values) for values in zip(*keys, strict=True))
    attacks = any(line.attack for line in tuned)
    panels = []
    for key in keys:
        model, task, poison, memory, attack = key
        start = [
            line for line in all_lines if line.stage != "tuned" and line.model == model and line.task in (task, None)
        ]
        words = [
            *([str(model)] if len(models) > 1 else []),
            *([str(task)] if len(tasks) > 1 else []),
            *([f"{memory} rows in memory"] if len(memories) > len(tasks) else []),
            *([clean(poison)] if len(ratios) > 1 or not (len(models) > 1 or len(tasks) > 1) else []),
            *([f"attack {attack or 'plain'}"] if attacks and poison else []),
        ]
        panels.append(Facet(", ".join(words), [line for line in tuned if setting(line) == key], start))
    return panels


def clean(poison: float | None) -> str:
    """A poison ratio in words."""
    return f"{100 * poison:g} % poison" if poison else "clean data"


def names(facets: Sequence[Facet]) -> list[str]:
    """Of all methods, in their order."""
    return list(dict.fromkeys(line.name for facet in facets for line in facet.tuned))


def headline(line: Line, field: Kind) -> Rate:
    """The mean of the suites, or the task's first measure."""
    known = names_in([line], field)
    name = "mean" if "mean" in known and field != "utility" else next(iter(known), "")
    return line.rate(field, name)
