"""Stage compare: every cell of a grid is fine-tuned and evaluated, beside the base and the aligned model.

A cell is a run of its own (`unforgotten finetune` of the same settings finds it); what is there already is not done
again. The table, the sentence and results.json of all rows are kept in `runs/<name>-compare-<digest>/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import identity, results
from unforgotten.align import Say, align, base_of, quiet
from unforgotten.errors import RecipeError
from unforgotten.finetune import finetune, run_digest

if TYPE_CHECKING:
    from unforgotten.recipe import Recipe


def cells(recipe: Recipe) -> list[Recipe]:
    """One recipe for each combination of seed, data, poison ratio and method; without `compare`, the recipe itself."""
    grid = recipe.compare
    plain = recipe.varied(compare=None)
    if grid is None:
        return [plain]
    found = []
    for seed in grid.seed or [recipe.seed]:
        for changes in _tasks(recipe):
            for ratio in grid.poison or [recipe.poison.ratio if recipe.poison else 0.0]:
                if ratio and recipe.poison is None:
                    raise RecipeError(f"compare.poison has {ratio}, but the recipe has no `poison: {{data: …}}`.")
                poison = recipe.poison.model_dump() | {"ratio": ratio} if recipe.poison else None
                for method in grid.method or [recipe.method]:
                    found.append(plain.varied(**changes, seed=seed, poison=poison, method=method))
    return found


def _tasks(recipe: Recipe) -> Iterator[dict[str, Any]]:
    grid = recipe.compare
    assert grid is not None
    if not grid.data:
        yield {}
    for i, data in enumerate(grid.data):
        changes: dict[str, Any] = {"data": data}
        if grid.utility and recipe.evaluate:
            changes["evaluate"] = recipe.evaluate.model_dump() | {"utility": grid.utility[i]}
        yield changes


def compare_folder(recipe: Recipe) -> Path:
    """Where the comparison is or will be kept; needs data and digests, no model."""
    facts = [(run_digest(cell), cell.evaluate.model_dump() if cell.evaluate else None) for cell in cells(recipe)]
    return Path(recipe.out) / f"{recipe.name}-compare-{identity.digest(facts)}"


def compare(recipe: Recipe, say: Say = quiet) -> Path:
    """Runs what is missing of the grid and returns the comparison's folder; the same command goes on after a kill."""
    if recipe.evaluate is None:
        raise RecipeError("The recipe has no `evaluate:`, so there is nothing to compare by.")
    folder = compare_folder(recipe)
    if (folder / "results.json").exists():
        return folder
    from unforgotten import report
    from unforgotten.evaluate import evaluate_run, evaluate_stage

    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    todo = cells(recipe)
    for cell in todo:
        where = align(cell, say)
        for stage, key in (("base", f"base {base_of(cell, build=False)}"), ("aligned", f"aligned {where.digest}")):
            settings = identity.digest(key, cell.evaluate.model_dump() if cell.evaluate else None)
            if settings in seen or (stage == "base" and not where.made):
                continue
            seen.add(settings)
            rows.append(evaluate_stage(cell, stage, say))
    for i, cell in enumerate(todo, 1):
        say(f"Run {i} of {len(todo)}: seed {cell.seed}, p = {cell.poison.ratio if cell.poison else 0:g}")
        rows.append(evaluate_run(finetune(cell, say), cell, say))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(report.markdown(rows, title=recipe.name), encoding="utf-8")
    results.write(folder / "results.json", rows)
    return folder
