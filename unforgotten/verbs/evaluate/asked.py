"""Which model replies to an evaluation, under which system prompt, and with which settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten.errors import RecipeError
from unforgotten.evaluation.responder import LocalModel, Model, ServedModel
from unforgotten.evaluation.suites import system_of
from unforgotten.models.shelf import Shelf, chat_of
from unforgotten.recipe.aligned import Aligned
from unforgotten.recipe.data_sets import DataSets, dataset
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from unforgotten.recipe.evaluate import Evaluate
    from unforgotten.recipe.recipe import Recipe


def settings_of(recipe: Recipe) -> Evaluate:
    """The recipe's `evaluate:`. Raises RecipeError where it has none."""
    if recipe.evaluate is None:
        raise RecipeError("The recipe has no `evaluate:`, so there is nothing to measure. Add `evaluate:`.")
    return recipe.evaluate


def responder(
    target: Path | str | Aligned, recipe: Recipe, shelf: Shelf, weights_digest: str, say: Say, served: str | None = None
) -> Model:
    """A model in this process, or behind the recipe's server. served: its name there, where the recipe gives none."""
    settings = settings_of(recipe)
    if settings.endpoint is None:
        return LocalModel(lambda: shelf.model(target, recipe), chat_of(target, recipe), weights_digest, settings, say)
    return ServedModel(
        recipe.model if served is None else served,
        chat_of(target, recipe) if settings.endpoint.template == "here" else None,
        settings,
    )


def system_prompt(recipe: Recipe, sets: DataSets) -> str:
    """The system prompt that the recipe's user rows have most often; empty where there are none."""
    if recipe.data is None or (recipe.evaluate and "user" not in recipe.evaluate.conditions):
        return ""
    return system_of(sets.read(recipe.data, recipe.seed).rows)


def task_of(recipe: Recipe) -> str | None:
    """The label of the recipe's user data; None where it has none."""
    return dataset(recipe.data).label if recipe.data is not None else None


def in_4_bits(recipe: Recipe) -> list[str]:
    """What figures of a base in 4 bits should say; a server loads weights as it pleases."""
    if recipe.load_in is None or (recipe.evaluate and recipe.evaluate.endpoint):
        return []
    return ["These replies come from the base in 4 bits (nf4). The unquantised base gives different replies."]
