"""One synthesis of safety rows, resolved: what determines its rows, and the folder that they are written to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten import registry
from unforgotten.errors import RecipeError
from unforgotten.evaluation.suites import suites
from unforgotten.models import fingerprint
from unforgotten.runs import digests

if TYPE_CHECKING:
    from unforgotten.judges.base import Judge
    from unforgotten.recipe.aligned import Aligned
    from unforgotten.recipe.data_sets import DataSets
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.recipe.synthesize import Synthesize


@dataclass(frozen=True)
class Synthesis:
    """One making of synthetic safety rows: what goes into it, and its folder."""

    settings: Synthesize
    judge: Judge
    """Judge that finds the refusals among the synthesized answers."""
    evaluated: list[str]
    """All prompts of the recipe's evaluation."""
    aligned: Aligned
    """The model that makes the rows."""
    folder: Path

    @property
    def file(self) -> Path:
        """The rows, one conversation a line."""
        return self.folder / "safety.jsonl"

    @property
    def done(self) -> bool:
        """Are the rows there?"""
        return (self.folder / "provenance.json").exists()


def synthesis_of(recipe: Recipe, aligned: Aligned, sets: DataSets) -> Synthesis:
    """The making that a recipe asks for. Raises RecipeError where it has no `synthesize:`; loads no model."""
    settings = recipe.synthesize
    if settings is None:
        raise RecipeError("The recipe has no `synthesize:`. Add `synthesize: {}` to use the defaults.")
    judge = registry.build("judges", settings.judge or (recipe.evaluate.judges[0] if recipe.evaluate else "keywords"))
    asked = suites(recipe.evaluate, sets=sets) if recipe.evaluate else []
    evaluated = [row.request for suite in asked for row in suite.rows]
    digest = digests.digest(
        aligned.digest,
        settings.model_dump(),
        [fingerprint.model_digest(name) if name else None for name in (settings.scorer, settings.embedder)],
        registry.spec_of(judge),
        evaluated,
        recipe.dtype,
        recipe.template,
        recipe.variables,
        recipe.date,
        recipe.seed,
    )
    return Synthesis(settings, judge, evaluated, aligned, Path(recipe.out) / "synthetic" / digest)
