"""Stage compare: every cell of a grid is fine-tuned and evaluated, beside the base and the aligned model.

A cell is a run of its own (`unforgotten finetune` of the same settings finds it); what is there already is not done
again. The table, the sentence and results.json of all rows are kept in `runs/<name>-compare-<digest>/`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import identity, registry, results
from unforgotten.align import Say, align, base_of, dataset, quiet
from unforgotten.errors import RecipeError, UnforgottenError
from unforgotten.finetune import finetune, replay_rows, run_digest, run_folder

if TYPE_CHECKING:
    from unforgotten.measure.measurement import Measurement
    from unforgotten.recipe import Grid, Layout, MemorySettings, Recipe


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
        [{"poison": _poison(recipe, ratio)} for ratio in grid.poison],
        [{"method": method} for method in grid.method],
    ]
    found = []
    for point in itertools.product(*(axis or [{}] for axis in axes)):
        found.append(plain.varied(**{field: value for changes in point for field, value in changes.items()}))
    return found


def _over(own: MemorySettings, changed: MemorySettings) -> dict[str, Any]:
    return own.model_dump() | changed.model_dump(exclude_unset=True)


def _poison(recipe: Recipe, ratio: float) -> dict[str, Any] | None:
    if recipe.poison is None and ratio:
        raise RecipeError(f"compare.poison has {ratio}, but the recipe has no `poison: {{data: …}}`.")
    return recipe.poison.model_dump() | {"ratio": ratio} if recipe.poison else None


def _tasks(recipe: Recipe, grid: Grid) -> Iterator[dict[str, Any]]:
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
    if recipe.evaluate.endpoint is not None:
        raise RecipeError("`compare` asks the models that it makes itself: leave out evaluate.endpoint.")
    from unforgotten import report
    from unforgotten.evaluate import of_stage
    from unforgotten.measure.measurement import ask_all, read_all

    found: list[Measurement] = []
    seen: set[str] = set()
    todo = cells(recipe)
    for cell in todo:
        where = align(cell, say)
        for stage, key in (("base", f"base {base_of(cell, build=False)}"), ("aligned", f"aligned {where.digest}")):
            settings = identity.digest(key, cell.evaluate.model_dump() if cell.evaluate else None)
            if settings in seen or (stage == "base" and not where.made):
                continue
            seen.add(settings)
            found.append(of_stage(cell, stage, say))
        if cell.replay == "synthesize":
            replay_rows(cell, say)  # here, where all cores are free, and not in a worker
    ask_all(found, say)
    # Replies of all first: then no model is in memory but a judge's, which is loaded once.
    rows = read_all([*found, *_run(todo, recipe.compare.jobs if recipe.compare else 1, say)], say)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(report.markdown(rows, recipe.name, layout(recipe)), encoding="utf-8")
    results.write(folder / "results.json", rows)
    return folder


def layout(recipe: Recipe) -> Layout | None:
    """How the recipe's comparison is laid out."""
    return recipe.compare.table if recipe.compare else None


def _run(todo: list[Recipe], jobs: int, say: Say) -> list[Measurement]:
    """Trains and asks all cells; several at once where the recipe says so and there is no GPU to share."""
    from unforgotten.evaluate import of_run
    from unforgotten.shelf import Shelf

    if jobs > 1 and len(todo) > 1 and not _has_gpu():
        return _side_by_side(todo, jobs, say)
    found, shelf = [], Shelf()
    for i, (cell, title) in enumerate(zip(todo, _titles(todo), strict=True), 1):
        say(f"Run {i} of {len(todo)}: {title}")
        if not (run_folder(cell) / "trained.json").is_file():
            shelf.clear()  # training needs the memory
        one = of_run(finetune(cell, say), cell)
        one.ask(shelf, say)
        found.append(one)
    return found


def _side_by_side(todo: list[Recipe], jobs: int, say: Say) -> list[Measurement]:
    """Cells in worker processes that share the cores: small models gain little from a second thread.

    A cell's threads are its share of the cores whatever else runs, so that its figures do not depend on chance.
    """
    import multiprocessing

    from rich.console import Console
    from rich.progress import Progress

    from unforgotten.evaluate import of_run

    say(f"{len(todo)} runs, {jobs} at a time.")
    titles = _titles(todo)
    found: dict[int, Measurement] = {}
    pool = multiprocessing.get_context("spawn").Pool(jobs, _worker, (max(1, (os.cpu_count() or 1) // jobs),))
    # Leaving the block ends the workers, also on Ctrl-C; what they had checkpointed is gone on from.
    with pool, Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("runs", total=len(todo))
        order = sorted(range(len(todo)), key=lambda i: -_cost(todo[i]))
        for i, error in pool.imap_unordered(_cell, [(i, todo[i].model_dump()) for i in order]):
            if error:
                raise UnforgottenError(f"{titles[i]}: {error}")
            found[i] = of_run(run_folder(todo[i]), todo[i])
            bar.update(task, advance=1, description=titles[i])
            say(f"Done: {titles[i]}")
        pool.close()  # done with: workers end by themselves and leave nothing behind
        pool.join()
    return [found[i] for i in range(len(todo))]


def _worker(threads: int) -> None:
    import ctypes
    import signal
    import sys

    import torch

    from unforgotten.training import watch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends its workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive a parent that was killed
    torch.set_num_threads(threads)
    watch.quiet = True


def _cell(given: tuple[int, dict[str, Any]]) -> tuple[int, str]:
    """Trains and asks one cell in a worker; an error of ours comes back as its text."""
    from unforgotten.evaluate import of_run
    from unforgotten.recipe import parse

    i, tree = given
    try:
        cell = parse(tree)
        of_run(finetune(cell), cell).ask()
        return i, ""
    except UnforgottenError as error:
        return i, str(error)


def _cost(cell: Recipe) -> float:
    """A guess at how long a cell takes beside others: its methods' own steps over SFT's."""
    return math.prod(registry.build("methods", m).cost for m in cell.methods)


def _titles(todo: list[Recipe]) -> list[str]:
    """What each cell is called while it runs: its methods, and what differs among the cells."""
    told = []
    for cell in todo:
        names = "+".join(m if isinstance(m, str) else str(m["name"]) for m in cell.methods)
        task = dataset(cell.data).label if cell.data is not None else "no data"
        share = f"{cell.memory.n_rows} rows" if cell.memory.n_rows else f"{100 * cell.memory.share:g} %"
        facts = {
            "model": str(identity.public_name(cell.model)),
            "task": f"on {task}",
            "poison": f"p = {cell.poison.ratio if cell.poison else 0:g}",
            "memory": f"memory of {share}",
            "replay": f"replay of {cell.replay}",
            "seed": f"seed {cell.seed}",
        }
        told.append((names, facts))
    varied = [what for what in told[0][1] if len({facts[what] for _, facts in told}) > 1]
    return [", ".join([name, *(facts[what] for what in varied)]) for name, facts in told]


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
