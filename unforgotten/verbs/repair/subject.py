"""What a ladder repairs: θ*, θ_safe and θ₀, and how models are asked; of a run's folder, or of folders by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import ModelError, RecipeError
from unforgotten.evaluation.measurement import Measurement, TrainedOn
from unforgotten.models.shelf import aligned_of_record, part_of
from unforgotten.recipe.data_sets import DataSets, safety_rows, user_rows
from unforgotten.recipe.read import load_recipe
from unforgotten.recipe.repair import Repair
from unforgotten.runs import atomic, trust
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.align import base_of
from unforgotten.verbs.evaluate.asked import settings_of, system_prompt
from unforgotten.verbs.evaluate.run import of_run
from unforgotten.verbs.evaluate.stage import of_stage
from unforgotten.verbs.evaluate.target import another

if TYPE_CHECKING:
    from unforgotten.datasets.base import Row
    from unforgotten.evaluation.suite_stages import Suite
    from unforgotten.recipe.evaluate import Evaluate
    from unforgotten.recipe.recipe import Recipe


@dataclass(frozen=True)
class Subject:
    """The models of one ladder, each by a folder or Hub id."""

    recipe: Recipe
    """Of the run, with the settings of the evaluation and of the ladder."""
    tuned: str
    aligned: str
    unaligned_model: str | None
    """None where nothing says where θ₀ is."""
    trained: Callable[[], TrainedOn | None]
    """The rows that θ* was trained on; gives None where they are unknown."""
    system: str
    """The system prompt that the user's rows have most often."""
    sets: DataSets

    @property
    def settings(self) -> Evaluate:
        """Of the evaluation."""
        return settings_of(self.recipe)

    @property
    def ladder(self) -> Repair:
        """The rungs."""
        return self.recipe.repair or Repair()

    def measurement(self, model: str, name: str, suites: list[Suite], folder: Path) -> Measurement:
        """Of one model on some of the prompts, kept in `folder`."""
        own = another(self.recipe, model)
        if (Path(model).expanduser() / "tokenizer_config.json").is_file():
            own = own.model_copy(update={"template": None, "variables": {}})  # its own template has them built in
        measured = of_stage(own, "base", quiet, system=self.system, called=name, sets=self.sets)
        measured = replace(measured, name=name, suites=suites, trained=self.trained, row=None, card=None)
        measured.move(folder)
        return measured


def of_folder(
    folder: Path, recipe: Recipe | None, overrides: Mapping[str, Any] | None, say: Say, sets: DataSets
) -> Subject:
    """Of a run's folder. recipe: whose `evaluate` and `repair` are used in place of the run's own."""
    if strange := [field for field in overrides or {} if not field.startswith(("evaluate", "repair"))]:
        raise RecipeError(
            f"{', '.join(strange)} cannot be changed for a trained run. With --set, only evaluate.… and repair.… can."
        )
    if not (folder / "trained.json").is_file():
        raise RecipeError(f"{folder} is not fully trained. Run `unforgotten finetune` on its recipe to continue.")
    whose = trust.of_run(folder)
    try:
        own = load_recipe(folder / "recipe.yaml", overrides if recipe is None else None, origin=whose)
    except RecipeError as error:
        if whose == "operator" or recipe is None:
            raise
        raise RecipeError(
            f"{str(error).partition(trust.MEND)[0]}The ladder trains on a run's own rows, so --recipe does not replace "
            "its recipe.yaml. Name the models by --tuned, --aligned and --recipe. Or add --trust-recipe if you fully "
            "trust the folder's author."
        ) from None
    own = own.model_copy(update={"out": str(folder.parent)})
    if recipe is not None:
        own = own.model_copy(update={"evaluate": recipe.evaluate, "repair": recipe.repair})
    where = aligned_of_record(atomic.read_object(folder / "environment.json", aligned=dict)["aligned"], folder, own)
    aligned = where.full or where.adapter
    if aligned is None:
        raise ModelError(f"{folder}: environment.json does not say where the aligned model is. Name it as --aligned.")
    made = where.by_align_stage or where.adapter is not None
    unaligned = own.unaligned_model or (where.base if made else None)
    run = of_run(folder, own, sets=sets)
    return Subject(own, str(part_of(folder)), aligned, unaligned, run.trained, run.system, sets)


def of_models(
    tuned: str, aligned: str, unaligned_model: str | None, recipe: Recipe, say: Say, sets: DataSets
) -> Subject:
    """Of models by name; the recipe says how they are asked, and on which rows θ* was trained."""

    def trained() -> TrainedOn | None:
        if recipe.data is None:
            return None
        user = user_rows(recipe, sets)
        rows: dict[str, Sequence[Row]] = {
            "safety": safety_rows(recipe, sets).rows,
            "poison": user.harmful,
            "user": user.clean,
        }
        return TrainedOn(rows, user.clean)

    unaligned = unaligned_model or recipe.unaligned_model or (base_of(recipe, say) if recipe.align else None)
    return Subject(recipe, tuned, aligned, unaligned, trained, system_prompt(recipe, sets), sets)
