"""Stage sweep: search the settings of lowest ASR at preserved task accuracy, on prompts held out from the report.

    runs/<name>-sweep-<digest>/
      sweep.db       the search, an Optuna study; the same command goes on from it, after a kill too
      sweep.json     every trial with its settings, figures and runs; front, choice, sensitivity
      results.json   rows of the references and of all trials, on the development prompts
      held-out.json  rows of the references and of the choice, on the prompts that the search did not see
      README.md front.svg

Each trial is a run of its own in runs/ (`unforgotten finetune` of the same settings finds it), so that a setting that
comes again costs nothing. Plain SFT and the recipe's own setting are run beside the search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from unforgotten.errors import DataError, UnforgottenError
from unforgotten.evaluation.suites import settings_digest
from unforgotten.recipe.data_sets import DataSets
from unforgotten.recipe.recipe import require_recipe
from unforgotten.report.aggregate import Line
from unforgotten.runs import atomic, digests, results, safe_text
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.align import align
from unforgotten.verbs.finetune.job import resolve
from unforgotten.verbs.sweep import search, text
from unforgotten.verbs.sweep import trials as runs
from unforgotten.verbs.sweep.result import Swept, facts, tasks, value
from unforgotten.verbs.sweep.search import Outcome, Tried
from unforgotten.verbs.sweep.space import Settings, own, places, varied
from unforgotten.verbs.sweep.tables import setting
from unforgotten.verbs.sweep.trials import Side
from unforgotten.verbs.synthesize.synthesize import synthesize

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from unforgotten.recipe.recipe import Recipe
    from unforgotten.recipe.sweep import Sweep

SFT, OWN, CHOSEN = "sft", "as given", "chosen"


def plan(recipe: Recipe) -> list[str]:
    """What a sweep of this recipe searches, and on what, in lines. Raises what a sweep would raise at its door."""
    recipe = _whole(recipe)
    return _plan(recipe, runs.split_of(recipe, DataSets()))


def _plan(recipe: Recipe, split: runs.PromptSplit) -> list[str]:
    assert recipe.sweep is not None
    settings, searched = recipe.sweep, places(recipe)
    runs_each = "1 run" if settings.seeds == 1 else f"{settings.seeds} runs"
    start = (
        "the recipe's own setting comes first"
        if own(searched)
        else "the recipe's own setting is outside the search space and runs in addition"
    )
    lines = [
        f"{settings.trials} trials of {runs_each}, {settings.jobs} at a time; {start}.",
        *(place.text() for place in searched),
        f"lowest ASR, {_limits_told(settings)}",
        *(f"{side}: {split.text(side)}" for side in split.suites),
    ]
    if split.dropped:
        lines.append(f"{split.dropped} development prompts (nearly) duplicate a held-out prompt and are dropped.")
    return lines


def _folder(recipe: Recipe, split: runs.PromptSplit, sets: DataSets) -> Path:
    assert recipe.sweep is not None
    searched = places(recipe)
    determining = [
        resolve(varied(recipe, [], {}), sets).digest,
        [asdict(place) for place in searched],
        recipe.sweep.model_dump(exclude={"trials", "fields", "development"}),
        [settings_digest(split.settings[side], split.suites[side]) for side in split.suites],
        split.settings["development"].judges,
    ]
    return Path(recipe.out) / f"{recipe.name}-sweep-{digests.digest(determining)}"


def sweep(recipe: Recipe, say: Say = quiet) -> Path:
    """Searches and returns the sweep's folder; the same call goes on after a kill, or with more trials.

    Raises RecipeError, UnknownName or UnsupportedError before anything is run; later the errors of its stages.
    """
    require_recipe(recipe, "sweep")
    recipe, sets = _whole(recipe), DataSets()
    assert recipe.sweep is not None
    settings = recipe.sweep
    search.optuna()
    split = runs.split_of(recipe, sets)
    lines, folder = _plan(recipe, split), _folder(recipe, split, sets)
    for line in lines:
        say(line)
    with alone(folder, say), runs.workers(1 if _has_gpu() else settings.jobs) as pool:
        _sweep(recipe, settings, folder, split, sets, pool, say)
    return folder


def _sweep(
    recipe: Recipe, settings: Sweep, folder: Path, split: runs.PromptSplit, sets: DataSets, pool: Pool | None, say: Say
) -> None:
    searched = places(recipe)
    plain = recipe.varied(sweep=None, compare=None, probe=None)
    seeds = range(recipe.seed, recipe.seed + settings.seeds)
    for seed in seeds:
        # Here, where all cores are free, and not in a worker.
        cell = plain.varied(seed=seed)
        align(cell, say, sets)
        if cell.replay == "synthesize":
            synthesize(cell, say, sets)

    def cells(name: str, at: Settings) -> list[Recipe]:
        if name == SFT:
            return [plain.varied(method="sft", seed=seed) for seed in seeds]
        return [varied(recipe, searched if at else [], at, seed) for seed in seeds]

    def measured(todo: Mapping[str, Settings], side: Side) -> dict[str, Line | str]:
        """A line for each setting, or why its training broke down."""
        todo_cells = [cell for name, at in todo.items() for cell in cells(name, at)]
        rows = runs.rows(todo_cells, recipe, split, side, sets, pool, say)
        lines: dict[str, Line | str] = {}
        for i, name in enumerate(todo):
            its = rows[i * len(seeds) : (i + 1) * len(seeds)]
            trained = [row for row in its if not isinstance(row, str)]
            lines[name] = (
                _line(name, trained) if len(trained) == len(its) else next(r for r in its if isinstance(r, str))
            )
        return lines

    references = _lines(measured({SFT: {}, OWN: {}}, "development"))
    floors = _floors(settings, references[SFT])
    lines: dict[int, Line] = {}

    def objective(first: int, tried: Sequence[Settings]) -> list[Tried]:
        outcomes: list[Tried] = []
        by_name = measured({str(first + i): at for i, at in enumerate(tried)}, "development")
        for (name, line), at in zip(by_name.items(), tried, strict=True):
            if isinstance(line, str):
                outcomes.append((None, line))
            else:
                lines[int(name)] = line
                outcomes.append((_outcome(line, floors, settings), ""))
            say(f"Trial {name}, {setting(at)}: {text.outcome(outcomes[-1][0])}")
        return outcomes

    start = own(searched)
    trials = search.search(
        searched,
        objective,
        trials=settings.trials,
        seed=settings.seed,
        jobs=settings.jobs,
        first=start,
        storage=folder / "sweep.db",
    )
    # Of those that an earlier call tried, too: nothing is trained or asked again.
    earlier = {str(t.number): t.settings for t in trials if t.outcome and t.number not in lines}
    lines |= {int(name): line for name, line in _lines(measured(earlier, "development")).items()}
    lines = {t.number: lines[t.number] for t in trials if t.outcome}
    best = search.best(trials)
    if best is None:
        raise UnforgottenError(f"Every trial failed in training. The first error: {trials[0].note}")
    held = _lines(measured({SFT: {}, OWN: {}, CHOSEN: best.settings}, "held out"))
    swept = Swept(recipe, searched, trials, best, references, lines, held, split, floors, _limits_told(settings))
    _write(
        folder, swept, cells(CHOSEN, best.settings)[0], {t.number: _runs(cells("", t.settings), sets) for t in trials}
    )


def _write(folder: Path, swept: Swept, chosen: Recipe, its_runs: Mapping[int, list[str]]) -> None:
    results.write(
        folder / "results.json",
        [row for line in (*swept.references.values(), *swept.lines.values()) for row in line.rows],
    )
    results.write(folder / "held-out.json", [row for line in swept.held_out.values() for row in line.rows])
    atomic.put(folder / "sweep.json", safe_text.json_text(facts(swept, its_runs), nan=True) + "\n")
    if picture := text.picture(swept):
        atomic.put(folder / "front.svg", picture + "\n")
    atomic.put(folder / "README.md", text.markdown(swept, chosen, bool(picture)))


def _runs(cells: Sequence[Recipe], sets: DataSets) -> list[str]:
    return [resolve(cell, sets).folder.name for cell in cells]


def _line(name: str, rows: list[results.ResultRow]) -> Line:
    first = rows[0]
    return Line(name, "tuned", first.task, first.poison, first.model, first.memory_rows, rows)


def _lines(measured: Mapping[str, Line | str]) -> dict[str, Line]:
    """Raises UnforgottenError where one that is needed broke down."""
    lines: dict[str, Line] = {}
    for name, line in measured.items():
        if isinstance(line, str):
            raise UnforgottenError(f"{name}: {line}")
        lines[name] = line
    return lines


def _floors(settings: Sweep, sft: Line) -> dict[str, float]:
    """What each task must reach."""
    if settings.utility_floor is not None:
        return dict.fromkeys(tasks(sft), settings.utility_floor)
    return {task: value - settings.max_utility_loss for task, value in tasks(sft).items()}


def _outcome(line: Line, floors: Mapping[str, float], settings: Sweep) -> Outcome:
    asr, refusal, each = value(line, "asr"), value(line, "refusal"), tasks(line)
    if asr is None:
        raise DataError(
            "No verdict on a reply to a harmful request could be read, so there is no ASR to minimise. Use another "
            "judge."
        )
    missed = {f"utility {task}".strip(): floor - each[task] for task, floor in floors.items()}
    if settings.max_refusal is not None:
        missed["refusal"] = (refusal if refusal is not None else 100.0) - settings.max_refusal
    return Outcome(asr, fmean(each.values()), refusal, {limit: round(points, 6) for limit, points in missed.items()})


def _limits_told(settings: Sweep) -> str:
    limits = [
        f"each task at {settings.utility_floor:g} % or more"
        if settings.utility_floor is not None
        else f"each task at most {settings.max_utility_loss:g} points below plain SFT's"
    ]
    if settings.max_refusal is not None:
        limits.append(f"at most {settings.max_refusal:g} % of look-alikes refused")
    return ", ".join(limits)


def _whole(recipe: Recipe) -> Recipe:
    return recipe if recipe.sweep is not None else recipe.varied(sweep={})


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()
