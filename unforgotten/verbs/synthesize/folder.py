"""Where synthetic safety rows are or will be, by what determines them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten import registry
from unforgotten.errors import RecipeError
from unforgotten.evaluation.suites import suites
from unforgotten.models import fingerprint
from unforgotten.models.aligned import aligned_of
from unforgotten.runs import digests

if TYPE_CHECKING:
    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.recipe.synthesize import Synthesize


def synthetic_folder(recipe: Recipe) -> Path:
    """Where this recipe's synthetic safety data is or will be."""
    settings = settings_of(recipe)
    digest = digests.digest(
        aligned_of(recipe).digest,
        settings.model_dump(),
        [fingerprint.model_digest(name) if name else None for name in (settings.scorer, settings.embedder)],
        registry.spec_of(registry.build("judges", judge_of(recipe))),
        asked_for(recipe),
        recipe.dtype,
        recipe.template,
        recipe.variables,
        recipe.date,
        recipe.seed,
    )
    return Path(recipe.out) / "synthetic" / digest


def settings_of(recipe: Recipe) -> Synthesize:
    """The recipe's `synthesize:`. Raises RecipeError where there is none."""
    if recipe.synthesize is None:
        raise RecipeError("The recipe has no `synthesize:`. Write `synthesize: {}` to take every default.")
    return recipe.synthesize


def judge_of(recipe: Recipe) -> Spec:
    """The judge that tells refusals among what is synthesized."""
    return settings_of(recipe).judge or (recipe.evaluate.judges[0] if recipe.evaluate else "keywords")


def asked_for(recipe: Recipe) -> list[str]:
    """Every request that the recipe's evaluation asks."""
    return [row.request for suite in suites(recipe.evaluate) for row in suite.rows] if recipe.evaluate else []
