"""All that a sweep found: its trials, the front among them, and how much each field matters. Nothing is run here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from unforgotten.evaluation.statistics.ranks import correlation
from unforgotten.report.aggregate import Line, names_in
from unforgotten.report.page.facets import headline
from unforgotten.report.page.tradeoff import front
from unforgotten.runs.result_types import Rate
from unforgotten.runs.results import Kind
from unforgotten.verbs.sweep.search import Outcome, Trial, importance
from unforgotten.verbs.sweep.space import Place

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.verbs.sweep.trials import PromptSplit

SCHEMA = 1


@dataclass
class Swept:
    """All that a sweep found."""

    recipe: Recipe
    places: Sequence[Place]
    trials: Sequence[Trial]
    best: Trial
    references: Mapping[str, Line]
    """Scores of plain SFT and of the recipe's own setting, on development prompts."""
    lines: Mapping[int, Line]
    """Scores of the trials that did not fail, on the same prompts."""
    held_out: Mapping[str, Line]
    """Scores of the references and the chosen setting, on prompts that the search did not see."""
    split: PromptSplit
    floors: Mapping[str, float]
    limits: str

    @property
    def front(self) -> list[Trial]:
        """Trials that no other one equals in ASR, utility and refusals while better in one; by ASR. Of trials with the
        same figures, or the same setting, the first."""
        tried = [t for t in self.trials if t.outcome]
        corners = [_corner(t.outcome) for t in tried if t.outcome]
        first = {corner: i for i, corner in reversed(list(enumerate(corners)))}
        on_front = [tried[i] for i in front(corners) if first[corners[i]] == i]
        return sorted(on_front, key=lambda t: (t.outcome.asr, t.number) if t.outcome else (0.0, t.number))


def _corner(outcome: Outcome) -> tuple[float, ...]:
    return outcome.asr, 100 - outcome.utility, outcome.refusal or 0.0


def value(line: Line, field: Kind) -> float | None:
    """ASR or refusals, mean of the suites and of the seeds; of utility the first task's."""
    return headline(line, field).value


def tasks(line: Line) -> dict[str, float]:
    """Each task's first measure; of one task alone under the empty name."""
    return {task: rate.value for task, rate in task_rates(line).items() if rate.value is not None}


def task_rates(line: Line) -> dict[str, Rate]:
    """The same with their intervals."""
    rates: dict[str, Rate] = {}
    for metric in names_in([line], "utility"):
        rates.setdefault(metric.rpartition("/")[0], line.rate("utility", metric))
    return rates


def facts(swept: Swept, runs: Mapping[int, list[str]]) -> dict[str, Any]:
    """sweep.json."""
    return {
        "schema": SCHEMA,
        "name": swept.recipe.name,
        "fields": [asdict(place) for place in swept.places],
        "limits": {"told": swept.limits, "utility": dict(swept.floors)},
        "development": swept.split.text("development"),
        "held_out": swept.split.text("held out"),
        "trials": [asdict(trial) | {"runs": runs[trial.number]} for trial in swept.trials],
        "front": [trial.number for trial in swept.front],
        "chosen": swept.best.number,
        "holds": bool(swept.best.outcome and swept.best.outcome.holds),
        "sensitivity": sensitivity(swept),
    }


def sensitivity(swept: Swept) -> list[dict[str, Any]]:
    """Of each field: its share in reaching the best quarter, and how figures rise or fall with it."""
    tried = [(t.settings, t.outcome) for t in swept.trials if t.outcome]
    shares = {of: importance(swept.trials, swept.places, of) for of in ("asr", "utility")}
    effects = []
    for place in swept.places:
        effect: dict[str, Any] = {"field": place.name, "importance": {of: shares[of].get(place.name) for of in shares}}
        for of in ("asr", "utility"):
            pairs = [(s[place.name], getattr(o, of)) for s, o in tried]
            if _numbers(place):
                effect[of] = correlation([float(x) for x, _ in pairs], [y for _, y in pairs])
            else:
                by: dict[str, list[float]] = {}
                for x, y in pairs:
                    by.setdefault(str(x), []).append(y)
                effect[of] = {x: [round(sum(ys) / len(ys), 2), len(ys)] for x, ys in by.items()}
        effects.append(effect)
    return effects


def _numbers(place: Place) -> bool:
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in place.choices)
