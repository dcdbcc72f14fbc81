"""Two models that were asked the same prompts: what differs, prompt by prompt, and what so many prompts could show."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from unforgotten.evaluation import recorded_verdicts
from unforgotten.evaluation.statistics import paired, power, rates
from unforgotten.evaluation.statistics.paired import Difference
from unforgotten.runs import results
from unforgotten.runs.results import Kind


@dataclass(frozen=True, slots=True)
class Contrast:
    """One figure of two models, in percent, and their difference in points."""

    kind: Kind
    suite: str
    """A suite's label, a task's measure, or `mean`."""
    condition: str
    """The system prompt that both were asked under."""
    one: float | None
    other: float | None
    difference: Difference
    """The first's less the other's."""
    detectable: float | None
    """The smallest rise from the other's, in points, that so many prompts show in 4 of 5 cases; None for a mean, and
    where they can show none."""

    def json(self) -> dict[str, Any]:
        """For a file beside the results."""
        values = {name: getattr(self, name) for name in ("kind", "suite", "condition", "one", "other", "detectable")}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()} | self.difference.json()


def contrast(one: tuple[results.ResultRow, Path], other: tuple[results.ResultRow, Path]) -> list[Contrast]:
    """Every suite of two rows, each with the folder that holds its `replies/`, and the means of several.

    Raises DataError where the two were not asked the same prompts, or not by the same judge and decoding.
    """
    recorded_verdicts.same_questions(one[0], other[0])
    contrasts: list[Contrast] = []
    for condition in (asked := recorded_verdicts.conditions(one[0])):
        ours, theirs = (recorded_verdicts.read(folder, row, condition) for row, folder in (one, other))
        for kind in get_args(Kind):
            if not getattr(ours, kind) or (kind == "utility" and condition != asked[0]):
                continue
            pairs = recorded_verdicts.pairs(kind, ours, theirs)
            for suite, (a, b) in pairs.items():
                was = rates.count(b).value
                least = None if was is None else power.detectable(len(b), was)
                figures = (rates.count(a).value, was, paired.difference(a, b), least)
                contrasts.append(Contrast(kind, suite, condition, *figures))
            if kind != "utility" and len(pairs) > 1:
                was, now = (rates.mean_rate([rates.count(p[i]) for p in pairs.values()]).value for i in (1, 0))
                mean = paired.mean_difference(list(pairs.values()))
                contrasts.append(Contrast(kind, "mean", condition, now, was, mean, None))
    return contrasts
