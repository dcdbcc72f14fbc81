"""The data sets that a recipe names, and the safety, user and poisoned rows in them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Dataset, Row, check_kind
from unforgotten.errors import DataError, RecipeError
from unforgotten.runs.progress import Say, quiet

if TYPE_CHECKING:
    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.recipe import Recipe


def dataset(spec: Spec, seed: int | None = None) -> Dataset:
    """The dataset of a spec; `seed` fills a `seed` field that the recipe leaves open (never for evaluation sets)."""
    settings: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    if seed is not None and "seed" in getattr(registry.load("datasets", settings["name"]), "__dataclass_fields__", {}):
        settings.setdefault("seed", seed)
    built = registry.build("datasets", settings)
    assert isinstance(built, Dataset)
    return built


def read(spec: Spec, seed: int | None = None, say: Say = quiet) -> list[Row]:
    """The rows of a spec, and what is to be known of them said: keys that nothing reads, turns outside the loss."""
    rows = (source := dataset(spec, seed)).rows()
    for note in source.notes:
        say(note)
    return rows


def safety_rows(recipe: Recipe, say: Say = quiet) -> list[Row]:
    """Every safety row, in the order of the recipe. Raises RecipeError for rows that are no safety data."""
    safety: list[Row] = []
    for spec in recipe.safety_data:
        rows = (source := dataset(spec, recipe.seed)).rows()
        # Rows of a task would be taken for answered look-alikes, refusals among them too.
        check_kind(source, rows, "safety_data", ["harmful", "benign"])
        for note in source.notes:
            say(note)
        safety += rows
    return safety


def poisoned(user: Sequence[Row], poison: Sequence[Row], ratio: float, seed: int) -> list[Row]:
    """round(p·n) of the n user rows replaced by harmful ones, at places and in a choice that the seed fixes.

    [2512.10150 §3.1: p is the share of the total, which stays fixed.] Raises DataError where there are too few.
    """
    wanted = round(ratio * len(user))
    if wanted > len(poison):
        raise DataError(
            f"p = {ratio} of {len(user)} rows needs {wanted} harmful rows, but the poison data has {len(poison)} "
            f"(enough for p = {len(poison) / max(1, len(user)):.3f}). Give more, or lower poison.ratio."
        )
    rng = random.Random(f"poison {seed}")
    rows = list(user)
    for place, row in zip(sorted(rng.sample(range(len(user)), wanted)), rng.sample(list(poison), wanted), strict=True):
        rows[place] = row
    return rows


def user_rows(recipe: Recipe, say: Say = quiet) -> tuple[list[Row], list[Row]]:
    """The rows to train on, and the harmful ones among them."""
    if recipe.data is None:
        raise RecipeError("The recipe has no `data:`, so there is nothing to fine-tune on.")
    user = read(recipe.data, recipe.seed, say)
    if recipe.poison is None or recipe.poison.ratio == 0:
        return user, []
    harmful = (poison := dataset(recipe.poison.data, recipe.seed)).rows()
    for note in poison.notes:
        say(note)
    # A file of the user's own that says nothing of its kind is taken at its place's word; a corpus knows better.
    check_kind(poison, harmful, "poison.data", ["harmful", "task"] if poison.kind_field == "kind" else ["harmful"])
    mixed = poisoned(user, harmful, recipe.poison.ratio, recipe.seed)
    ids = set(map(id, harmful))
    return mixed, [row for row in mixed if id(row) in ids]
