"""What a run is made of: its rows, how the adapter lies, and the digest that names its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Row
from unforgotten.datasets.reading import digest
from unforgotten.errors import RecipeError
from unforgotten.models.aligned import aligned_of
from unforgotten.recipe.aligned import Aligned
from unforgotten.recipe.rows import dataset, read, safety_rows, user_rows
from unforgotten.runs import digests
from unforgotten.runs.progress import Say, quiet

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


def adapter_mode_for(recipe: Recipe, where: Aligned) -> str:
    """merge, stack, continue or full: the recipe's, or the default for this θ_safe."""
    if recipe.lora is None:
        return "full"
    existing = recipe.lora.existing
    if existing in ("stack", "continue") and where.adapter is None:
        raise RecipeError(
            f"lora.existing: {existing} needs θ_safe as an adapter: name an adapter folder as `model`, or add `align`."
        )
    if recipe.load_in and existing == "merge" and where.full is None:
        raise RecipeError(
            "lora.existing: merge would merge θ_safe's adapter into a base in 4 bits: each merged weight is rounded to "
            "one of 16 values again, and what is smaller than half a step of that grid is lost. Leave `existing` out "
            "(stack: the adapter stays whole under the trained one), or leave out `load_in`."
        )
    return existing or ("stack" if where.full is None else "merge")


def base_for(recipe: Recipe, where: Aligned) -> str | None:
    """θ₀ for methods that edit weights. Raises RecipeError where one needs it and nothing says where it is."""
    if not any(registry.build("methods", m).needs_unaligned_model for m in recipe.methods):
        return None
    if recipe.unaligned_model is None and not where.made and where.adapter is None:
        raise RecipeError(
            f"{method_names(recipe)} reads θ₀, the weights from before alignment, and `model` is θ_safe as it is: "
            "name the base model in `unaligned_model:`, or start from it with stage `align`."
        )
    return recipe.unaligned_model or where.base


def run_digest(recipe: Recipe) -> str:
    """Over everything that determines the weights; evaluation settings are not among it."""
    where = aligned_of(recipe)
    user, _ = user_rows(recipe)
    return digests.digest(
        where.digest,
        digest.rows_digest(user),
        replay_digest(recipe),
        method_specs(recipe),
        recipe.memory.model_dump(),
        recipe.lora.determining() if recipe.lora else None,
        adapter_mode_for(recipe, where),
        base_for(recipe, where),
        recipe.training.determining(),
        recipe.dtype,
        recipe.template,
        recipe.variables,
        recipe.date,
        recipe.seed,
    )


def replay_rows(recipe: Recipe, say: Say = quiet) -> list[Row]:
    """The rows that the memory is chosen from; those that θ_safe makes itself are made on first use."""
    if recipe.replay == "safety_data":
        return safety_rows(recipe, say)
    if recipe.replay == "synthesize":
        from unforgotten.verbs.synthesize.synthesize import synthesize

        return synthetic_rows(synthesize(recipe, say))
    return [row for spec in recipe.replay for row in read(spec, recipe.seed, say)]


def synthetic_rows(file: Path) -> list[Row]:
    """The rows of a file that stage synthesize made."""
    return dataset({"name": "refusals", "path": str(file)}).rows()


def replay_digest(recipe: Recipe) -> str:
    """What determines those rows, without making them."""
    if recipe.replay == "synthesize":
        from unforgotten.verbs.synthesize.folder import synthetic_folder

        return synthetic_folder(recipe).name
    return digest.rows_digest(replay_rows(recipe))


def run_folder(recipe: Recipe) -> Path:
    """Where this recipe's run is or will be."""
    return Path(recipe.out) / f"{recipe.name}-{run_digest(recipe)}"


def method_names(recipe: Recipe) -> str:
    """The methods' names, joined by +."""
    return "+".join(str(m if isinstance(m, str) else m["name"]) for m in recipe.methods)


def method_specs(recipe: Recipe) -> list[dict[str, Any]]:
    """The methods with every field."""
    return [registry.spec_of(registry.build("methods", m)) for m in recipe.methods]
