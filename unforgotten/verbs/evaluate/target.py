"""What a target of `evaluate` is: a run's folder, a recipe, a model's folder or a Hub id."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.reading import files
from unforgotten.errors import RecipeError
from unforgotten.models.shelf import part_of
from unforgotten.recipe.data_sets import DataSets
from unforgotten.recipe.read import load_recipe
from unforgotten.runs import digests, trust
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.evaluate.asked import system_prompt
from unforgotten.verbs.evaluate.run import of_job, of_run
from unforgotten.verbs.evaluate.stage import of_stage
from unforgotten.verbs.finetune.job import resolve

if TYPE_CHECKING:
    from unforgotten.evaluation.measurement import Measurement
    from unforgotten.recipe.recipe import Recipe


def measurement(
    target: str,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Say = quiet,
    sets: DataSets | None = None,
) -> Measurement:
    """What `evaluate` of one target will measure; loads no model. It trains θ_safe if the recipe has none yet.

    sets: data sets that were read already. Raises RecipeError where nothing says what to measure.
    """
    sets = sets or DataSets()
    folder = Path(target).expanduser()
    if (folder / "recipe.yaml").is_file():
        return _of_folder(folder, recipe, overrides, say, sets)
    if recipe is not None:
        system, called = system_prompt(recipe, sets), digests.public_name(target)
        return of_stage(another(recipe, target), "base", say, system=system, called=called, sets=sets)
    if folder.is_dir():
        raise RecipeError(f"{target} is a model. Name a recipe with --recipe FILE; its `evaluate:` is used.")
    if files.is_hub_id(target) and not folder.exists():
        raise RecipeError(
            f"There is no recipe file {target}. If {target} is a model, name a recipe with --recipe FILE."
        )
    return _of_recipe(target, overrides, say, sets)


def _of_folder(
    folder: Path, recipe: Recipe | None, overrides: Mapping[str, Any] | None, say: Say, sets: DataSets
) -> Measurement:
    """Of a run's folder. What another user trained is asked anew; where its recipe cannot be read, as a bare model."""
    if recipe is None and (strange := [field for field in overrides or {} if not field.startswith("evaluate")]):
        raise RecipeError(
            f"{', '.join(strange)} cannot be changed for a trained run. With --set, only evaluate.… can be changed."
        )
    whose = trust.of_run(folder)
    try:
        target_recipe = load_recipe(folder / "recipe.yaml", overrides if recipe is None else None, origin=whose)
    except RecipeError as error:
        if whose == "operator" or recipe is None:
            raise
        say(f"{error} The folder is measured as a model of unknown training.")
        unknown = another(recipe, str(part_of(folder)))
        return of_stage(unknown, "base", say, system=system_prompt(recipe, sets), sets=sets)
    settings = (recipe or target_recipe).evaluate
    as_asked = target_recipe.model_copy(update={"evaluate": settings, "out": str(folder.parent)})
    measured = of_run(folder, as_asked, sets=sets)
    if whose == "foreign":
        if measured.row is not None or (folder / "replies").exists():
            say(f"{folder} was not trained here: its replies and figures are put aside, and it is asked again.")
        measured.distrust()
    return measured


def _of_recipe(name: str, overrides: Mapping[str, Any] | None, say: Say, sets: DataSets) -> Measurement:
    """Of a recipe's run; where it has no user data, of its aligned model, or of its base."""
    recipe = load_recipe(name, overrides)
    if recipe.data is None:
        return of_stage(recipe, "aligned" if recipe.align else "base", say, sets=sets)
    job = resolve(recipe, sets)
    if not job.done:
        raise RecipeError(f"The run of {name} is not trained yet. Train it with `unforgotten finetune {name}`.")
    return of_job(job)


def another(recipe: Recipe, model: str) -> Recipe:
    """The recipe for another model. It names no data, because this recipe's data did not train that model."""
    changes: dict[str, Any] = {"model": model, "revision": None, "align": None, "data": None, "safety_data": []}
    return recipe.model_copy(update=changes | {"poison": None})
