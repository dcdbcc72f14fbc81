"""Stage compare: fine-tune and evaluate every cell of a grid, beside the base and the aligned model.

Each cell is a run of its own, which `unforgotten finetune` of the same settings finds; finished runs are not repeated.
`runs/<name>-compare-<digest>/` holds the table with its sentence (README.md) and all rows (results.json).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import LeaseLost, RecipeError, Unfinished
from unforgotten.models.locate_aligned import unaligned
from unforgotten.recipe.data_sets import DataSets, dataset
from unforgotten.recipe.recipe import require_recipe
from unforgotten.report import aggregate
from unforgotten.runs import atomic, bars, digests, results
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.align import align
from unforgotten.verbs.compare.grid_run import GridRun
from unforgotten.verbs.finetune.job import resolve
from unforgotten.verbs.synthesize.synthesize import synthesize

if TYPE_CHECKING:
    from unforgotten.evaluation.measurement import Measurement
    from unforgotten.recipe.aligned import Aligned
    from unforgotten.recipe.compare import Grid, Layout
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.recipe.training import MemorySettings


def cells(recipe: Recipe) -> list[Recipe]:
    """One recipe for each combination of what `compare` varies, the method fastest; without it, the recipe itself.

    Raises RecipeError where it varies the poison of a recipe that has none.
    """
    grid = recipe.compare
    plain = recipe.varied(compare=None)
    if grid is None:
        return [plain]
    axes: list[list[dict[str, Any]]] = [
        [{"model": model} for model in grid.model],
        [{"seed": seed} for seed in grid.seed],
        list(_tasks(recipe, grid)),
        [{"memory": _over(recipe.memory, memory)} for memory in grid.memory],
        [{"replay": replay} for replay in grid.replay],
        [{"poison": poison} for poison in _poisons(recipe, grid)],
        [{"method": method} for method in grid.method],
    ]
    recipes = []
    for point in itertools.product(*(axis or [{}] for axis in axes)):
        recipes.append(plain.varied(**{field: value for changes in point for field, value in changes.items()}))
    return recipes


def _over(memory: MemorySettings, changed: MemorySettings) -> dict[str, Any]:
    return memory.model_dump() | changed.model_dump(exclude_unset=True)


def _poisons(recipe: Recipe, grid: Grid) -> list[dict[str, Any] | None]:
    """Every ratio under every attack; what would train the same rows twice is left out."""
    if recipe.poison is None:
        if harmful := [ratio for ratio in grid.poison if ratio]:
            raise RecipeError(f"compare.poison has {harmful[0]}, but the recipe has no `poison: {{data: …}}`. Add it.")
        if grid.attack:
            raise RecipeError("compare.attack turns poison, but the recipe has no `poison: {data: …}`. Add it.")
        return [None] if grid.poison else []
    if not grid.poison and not grid.attack:
        return []
    own, ratios = recipe.poison, grid.poison or [recipe.poison.ratio]
    if grid.attack and not any(ratios):
        raise RecipeError("compare.attack turns poison, but its ratio is 0. Set poison.ratio or compare.poison.")
    points = []
    for ratio, attack in itertools.product(ratios, grid.attack or [own.attack]):
        # Without harmful rows there is no attack, and `identity` has ten at any ratio.
        same = (0.0, own.attack) if not ratio else (max(ratios), attack) if attack == "identity" else (ratio, attack)
        points.append(same)
    return [own.model_dump() | {"ratio": ratio, "attack": attack} for ratio, attack in dict.fromkeys(points)]


def _tasks(recipe: Recipe, grid: Grid) -> Iterator[dict[str, Any]]:
    if not grid.data:
        yield {}
    for i, data in enumerate(grid.data):
        changes: dict[str, Any] = {"data": data}
        if grid.utility and recipe.evaluate:
            changes["evaluate"] = recipe.evaluate.model_dump() | {"utility": grid.utility[i]}
        yield changes


def _runs(todo: list[Recipe], sets: DataSets) -> list[GridRun]:
    """The runs of a grid, none of them begun. Of what each resolves to little is held: a grid may have thousands."""
    runs = []
    for cell, title in zip(todo, _titles(todo), strict=True):
        job = resolve(cell, sets)
        cost = math.prod(method.cost for method in job.methods)
        runs.append(GridRun(cell, job.folder, title, cost, _starts(cell, job.aligned)))
    return runs


def _folder(recipe: Recipe, runs: list[GridRun]) -> Path:
    facts = [
        (run.folder.name.rpartition("-")[2], run.recipe.evaluate.determining() if run.recipe.evaluate else None)
        for run in runs
    ]
    return Path(recipe.out) / f"{recipe.name}-compare-{digests.digest(facts)}"


def compare(
    recipe: Recipe, say: Say = quiet, *, workers: int | None = None, shard: tuple[int, int] | None = None
) -> Path:
    """Runs what is missing of the grid and returns the comparison's folder; the same command goes on after a kill.

    workers: runs at a time on this machine, in place of `compare.jobs`. shard: (i, N) for one of N commands on one
    disk, which begins with its share and goes on with whatever nobody holds; it ends while others are still at work,
    and the folder has a results.json as soon as the last of them has ended. Raises Unfinished where runs failed, once
    all others are done.
    """
    require_recipe(recipe, "compare")
    if recipe.evaluate is None:
        raise RecipeError("The recipe has no `evaluate:`, so `compare` has nothing to measure. Add `evaluate:`.")
    if shard is not None and not 1 <= shard[0] <= shard[1]:
        raise RecipeError(f"--shard {shard[0]}/{shard[1]}: of N shards the first is 1/N and the last is N/N.")
    from unforgotten.evaluation.suites import check_sets

    bars.phase("reading the data")
    todo, sets = cells(recipe), DataSets()
    check_sets(sets, *(cell.evaluate for cell in todo))
    runs = _runs(todo, sets)
    folder = _folder(recipe, runs)
    if (folder / "results.json").exists():
        return folder
    if recipe.evaluate.endpoint is not None:
        raise RecipeError("`compare` evaluates the models that it trains. Leave out evaluate.endpoint.")
    from unforgotten.evaluation.measure_all import judge_all
    from unforgotten.report import text as report
    from unforgotten.verbs.compare import live_table
    from unforgotten.verbs.evaluate.run import of_run

    stages = _stages(runs, shard or (1, 1), sets, say)
    with live_table.board(runs, say) as say_above:
        _work(recipe, runs, workers, shard, sets, say_above)
    failed, left = ([run for run in runs if run.state == state] for state in ("failed", "open"))
    measurements = [*stages, *(of_run(run.folder, run.recipe, sets=sets) for run in runs if run.state == "done")]
    if failed:
        lines = [f"{len(failed)} of {len(runs)} runs failed:", *(f"  {run.title}: {run.why}" for run in failed)]
        lines += ["The other runs are kept. Run the same command again to retry the failed runs."]
        raise Unfinished("\n".join(lines), [] if left else judge_all(measurements, say))
    if left:
        others = ", ".join(sorted({run.lease.holder for run in left}))
        say(
            f"Other commands are training {len(left)} of {len(runs)} runs ({others}). The command that ends last "
            "writes the comparison."
        )
        return folder
    with alone(folder, say) as lease:
        if not (folder / "results.json").exists():
            # Replies of all first: then no model is in memory but a judge's, which is loaded once.
            rows = judge_all(measurements, say)
            lease.check()
            atomic.put(folder / "README.md", report.markdown(rows, recipe.name, layout(recipe)))
            results.write(folder / "results.json", rows)
    return folder


def layout(recipe: Recipe) -> Layout | None:
    """How the recipe's comparison is laid out."""
    return recipe.compare.table if recipe.compare else None


def _stages(runs: list[GridRun], shard: tuple[int, int], sets: DataSets, say: Say) -> list[Measurement]:
    """θ₀ and θ_safe of all runs, made and asked here, where all cores are free; each shard begins with another.

    A run whose θ_safe cannot be made or asked has failed; where that is so of all, the error is the answer.
    """
    from unforgotten.models.shelf import Shelf
    from unforgotten.verbs.evaluate.stage import of_stage

    groups: dict[tuple[str, ...], list[GridRun]] = {}
    for run in runs:
        groups.setdefault(run.starts, []).append(run)
    first, shelf = (shard[0] - 1) % len(groups), Shelf()
    turns = [*groups.items()]
    turns = [*turns[first:], *turns[:first]]
    measurements: dict[str, Measurement] = {}
    errors: dict[tuple[str, ...], Exception] = {}

    def each(make: Callable[[Recipe, dict[str, str]], None]) -> None:
        for keys, group in turns:
            if keys in errors:
                continue
            try:
                make(group[0].recipe, dict(zip(("base", "aligned"), keys[:2], strict=True)))
            except LeaseLost:
                raise
            except Exception as error:
                errors[keys] = error
                say(f"Failed to make the starting model of {len(group)} of {len(runs)} runs: {error}")

    def made(cell: Recipe, keys: dict[str, str]) -> None:
        where = align(cell, say, sets)
        for stage, key in keys.items():
            if key not in measurements and (stage == "aligned" or where.by_align_stage):
                measurements[key] = of_stage(cell, stage, say, sets=sets)
        if cell.replay == "synthesize":
            synthesize(cell, say, sets)

    def asked(cell: Recipe, keys: dict[str, str]) -> None:
        for key in keys.values():
            if key in measurements:
                measurements[key].ask(shelf, say)

    each(made)
    each(asked)
    shelf.clear()
    if len(errors) == len(groups):
        raise next(iter(errors.values()))
    for keys, error in errors.items():
        for run in groups[keys]:
            run.fail(error)
    sound = [keys for keys in groups if keys not in errors]
    return [measurements[key] for key in dict.fromkeys(key for keys in sound for key in keys if key in measurements)]


def _starts(cell: Recipe, aligned: Aligned) -> tuple[str, ...]:
    """What tells one θ₀ and one θ_safe from others, with what they are asked; and whether a memory is made of it."""
    asked = cell.evaluate.determining() if cell.evaluate else None
    stages = (f"base {unaligned(cell)}", f"aligned {aligned.digest}")
    return (*(digests.digest(stage, asked) for stage in stages), "made" if cell.replay == "synthesize" else "")


def _work(
    recipe: Recipe,
    runs: list[GridRun],
    workers: int | None,
    shard: tuple[int, int] | None,
    sets: DataSets,
    say: Say,
) -> None:
    """Does all runs: the longest first where several are done at a time, a shard's own share before those of others."""
    from unforgotten.verbs.compare import run_queue as grid
    from unforgotten.verbs.compare import workers as hands

    gpus = hands.gpus()
    jobs = recipe.compare.jobs if recipe.compare else 1
    most = max(jobs, workers or 1)
    at_once = min(workers or (min(jobs, len(gpus)) if gpus else jobs), len(runs))
    order = runs
    if at_once > 1 or shard:
        order = sorted(runs, key=lambda run: -run.cost)
    if shard:
        mine = order[shard[0] - 1 :: shard[1]]
        order = [*mine, *(run for run in reversed(order) if run not in mine)]
    # A run's threads are its share of the cores whatever else runs: figures do not depend on how many are at work,
    # as long as these are no more than the recipe says.
    work, threads = grid.Work(order, sets, say, stays=shard is None), hands.share_of_cores(at_once if gpus else most)
    if at_once > 1 or len(gpus) > 1:
        say(f"{len(runs)} runs, {at_once} at a time.")
        work.by(at_once, threads, gpus)
    else:
        work.here(threads)


def _titles(todo: list[Recipe]) -> list[str]:
    """What each cell is called while it runs: its methods, and what differs among the cells."""
    described = []
    specs = [[{"name": m} if isinstance(m, str) else m for m in cell.methods] for cell in todo]
    for cell, names in zip(todo, aggregate.setting_names(specs), strict=True):
        task = dataset(cell.data).label if cell.data is not None else "no data"
        share = f"{cell.memory.n_rows} rows" if cell.memory.n_rows else f"{100 * cell.memory.share:g} %"
        facts = {
            "model": str(digests.public_name(cell.model)),
            "task": f"on {task}",
            "poison": f"p = {cell.poison.ratio if cell.poison else 0:g}",
            "attack": f"attack {cell.poison.attack if cell.poison and cell.poison.ratio else 'plain'}",
            "memory": f"memory of {share}",
            "replay": f"replay of {cell.replay}",
            "seed": f"seed {cell.seed}",
        }
        described.append((names, facts))
    varied = [what for what in described[0][1] if len({facts[what] for _, facts in described}) > 1]
    return [", ".join([name, *(facts[what] for what in varied)]) for name, facts in described]
