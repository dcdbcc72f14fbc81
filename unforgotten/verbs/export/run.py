"""The run that is exported: what it left, and where its weights lie."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten import registry
from unforgotten.datasets.reading import files
from unforgotten.errors import ModelError, RecipeError
from unforgotten.models.shelf import aligned_of_record, part_of
from unforgotten.recipe.aligned import Aligned
from unforgotten.runs import atomic, strict_read, trust

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


@dataclass(frozen=True)
class Left:
    """What a run left."""

    folder: Path
    recipe: Recipe
    where: Aligned
    adapter_mode: str
    part: Path
    """adapter/ or model/."""


def left_by(run: str) -> Left:
    """What a run left, by its folder or its recipe. Raises RecipeError where it is no run or not trained to its end."""
    from unforgotten.recipe.read import load_recipe, shipped
    from unforgotten.verbs.finetune.job import resolve

    folder = Path(run).expanduser()
    if folder.is_dir() and not (folder / "recipe.yaml").is_file():
        raise RecipeError(f"{run} is not a run: it has no recipe.yaml. Name a folder that `unforgotten finetune` made.")
    if not folder.exists() and "/" in run and folder.suffix not in (".yaml", ".yml") and run not in shipped():
        raise RecipeError(
            f"There is no run folder {run}. Name the folder that `unforgotten finetune` printed at its end."
        )
    if not folder.is_dir():
        folder = resolve(load_recipe(run)).folder
    if not (folder / "trained.json").is_file():
        raise RecipeError(f"{folder} is not fully trained. Run `unforgotten finetune` on its recipe to continue.")
    strict_read.no_links(folder)
    recipe = load_recipe(folder / "recipe.yaml", origin=(whose := trust.of_run(folder)), opens=False)
    recipe = recipe.model_copy(update={"out": str(folder.parent)})
    recorded = atomic.read_object(folder / "environment.json", aligned=dict)
    if whose == "foreign":
        names = {key: value for key, value in recorded["aligned"].items() if key in ("base", "full", "adapter", "chat")}
        trust.refuse({"model": list(names.values())}, folder.parent, str(folder / "environment.json"))
    adapter_mode = atomic.read_object(folder / "trained.json", adapter_mode=str)["adapter_mode"]
    part = part_of(folder)
    if not part.is_dir():
        raise ModelError(f"{folder} has neither adapter/ nor model/. Its weights were removed: put them back.")
    return Left(folder, recipe, aligned_of_record(recorded["aligned"], folder, recipe), adapter_mode, part)


def no_adapter(left: Left, form: str) -> str:
    """Why a run that left whole weights has no adapter, and what to do."""
    methods = [registry.build("methods", m) for m in left.recipe.methods]
    why = "every weight was trained" if left.recipe.lora is None else "its method changed weights of any rank"
    edits = left.recipe.lora is not None and any(m.dense for m in methods)
    return f"--as {form}: {left.folder.name} has a whole model and no adapter, since {why}. Use `--as merged`" + (
        ", or run `unforgotten repair --as-lora R`: it makes the nearest adapter of rank R and prints the error."
        if edits
        else "."
    )


def operator(left: Left) -> tuple[str | None, ...]:
    """Models that the recipe names."""
    return left.recipe.model, left.recipe.unaligned_model


def public_base(left: Left) -> str | None:
    """The Hub id that whole weights were made of; None where there is none."""
    return left.where.base if files.is_hub_id(left.where.base) and not Path(left.where.base).is_dir() else None
