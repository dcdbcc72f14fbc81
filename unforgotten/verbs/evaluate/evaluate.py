"""Stage evaluate: a run, θ₀, θ_safe or any model is asked the recipe's prompts, and its row of results written.

    runs/<run>/                      replies/  results.json  README.md (the model card)
    runs/evaluated/<stage>-<digest>/ the same of θ₀ and θ_safe, asked once for all runs that start there
    runs/<run>/served-<digest>/      the same of what a server has under some name (evaluate.endpoint): its weights were
                                     not seen, so the run's own figures and card stay as they are

Replies first, verdicts after: all models are asked, one after another; then, with none of them in memory, each judge is
loaded once and reads everything. What is measured already, with the same settings, prompts and judges, is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import RecipeError
from unforgotten.evaluation.measure_all import measure_all
from unforgotten.recipe.data_sets import DataSets
from unforgotten.recipe.recipe import require_recipe
from unforgotten.runs import results
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.evaluate.target import measurement

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


def evaluate(
    target: str | Path | Sequence[str | Path],
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Say = quiet,
) -> list[results.ResultRow]:
    """Measures runs (by their folders or recipes), model folders or Hub ids: first asks all, then judges all.

    recipe: whose `evaluate:` is used; a run has its own. overrides: fields of a recipe or run, by dotted name.
    Raises RecipeError where nothing says what to measure, or where a recipe's run is not trained.
    """
    if recipe is not None:
        require_recipe(recipe, "evaluate")
    targets, sets = _names(target), DataSets()
    measurements = [measurement(each, recipe, overrides, say, sets) for each in targets]
    for measured, name in zip(measurements, names_apart([m.called for m in measurements], targets), strict=True):
        measured.called = name
    if len(measurements) > 1 and any(m.settings.endpoint for m in measurements):
        raise RecipeError("evaluate.endpoint serves one model under one name. Give one target per command.")
    return measure_all(measurements, say)


def _names(target: object) -> list[str]:
    """Targets as texts. Raises RecipeError for anything else."""
    targets = list(target) if isinstance(target, (list, tuple)) else [target]
    for each in targets:
        if not isinstance(each, (str, Path)):
            raise RecipeError(
                f"evaluate() takes folders, files of recipes or Hub ids as text or Path, not {type(each).__name__}. A "
                "recipe is given as recipe=, beside the model that it measures."
            )
    return [str(each) for each in targets]


def names_apart(names: Sequence[str | None], targets: Sequence[str]) -> list[str | None]:
    """Names of models asked by themselves; folders that end alike are named from where their paths part."""
    unique = list(names)
    for i, name in enumerate(names):
        parts = Path(targets[i]).expanduser().resolve().parts
        alike = [  # the same folder, written twice, has no name that would tell it apart
            t
            for n, t in zip(names, targets, strict=True)
            if n == name and Path(t).expanduser().resolve().parts != parts
        ]
        if name is not None and alike and Path(targets[i]).expanduser().is_dir():
            others = [Path(t).expanduser().resolve().parts for t in alike]
            length = next((k for k in range(1, len(parts)) if all(o[-k:] != parts[-k:] for o in others)), len(parts))
            unique[i] = "/".join(parts[-length:])
    return unique
