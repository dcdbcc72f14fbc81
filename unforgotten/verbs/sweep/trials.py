"""A setting's runs: trained as `finetune` would, and asked one part of the prompts. What is there is not done again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unforgotten.errors import RecipeError, Terminated, TrainingError, UnforgottenError, plain
from unforgotten.evaluation.held_out import Halves, apart, halves
from unforgotten.evaluation.suite_stages import Suite
from unforgotten.evaluation.suites import suites
from unforgotten.recipe.data_sets import DataSets
from unforgotten.runs import results
from unforgotten.runs.progress import Say, quiet

if TYPE_CHECKING:
    from multiprocessing.pool import Pool

    from unforgotten.evaluation.measurement import Measurement
    from unforgotten.recipe.evaluate import Evaluate
    from unforgotten.recipe.recipe import Recipe

Side = Literal["development", "held out"]
KINDS = ("harm", "refusal", "utility")


@dataclass
class PromptSplit:
    """The prompts of both sides, with the settings that they are asked under."""

    settings: dict[Side, Evaluate]
    suites: dict[Side, list[Suite]]
    dropped: int

    def text(self, side: Side) -> str:
        """`harm_question 70, sums_test 115`: how many prompts of each suite."""
        return ", ".join(f"{suite.label} {len(suite.rows)}" for suite in self.suites[side])


def split_of(recipe: Recipe, sets: DataSets) -> PromptSplit:
    """The split of the recipe's prompts. Raises RecipeError where nothing says what to measure, or too little."""
    evaluate, sweep = recipe.evaluate, recipe.sweep
    assert sweep is not None
    if evaluate is None or not evaluate.harm or not evaluate.utility:
        raise RecipeError(
            "`sweep` compares ASR with task scores. Add evaluate.harm and evaluate.utility to the recipe."
        )
    if evaluate.endpoint is not None:
        raise RecipeError("`sweep` evaluates the models that it trains. Leave out evaluate.endpoint.")
    asked = suites(evaluate, sets=sets)
    if sweep.development is None:
        split, development = halves(asked, sweep.share), evaluate
    else:
        development = evaluate.model_copy(update={kind: getattr(sweep.development, kind) for kind in KINDS})
        split = apart(suites(development, "sweep.development", sets), asked)
    if sweep.max_refusal is not None and not development.refusal:
        raise RecipeError(
            "sweep.max_refusal limits refused look-alikes, but the recipe has none. Add evaluate.refusal, or leave "
            "out the limit."
        )
    return PromptSplit({"development": development, "held out": evaluate}, _sides(split), split.dropped)


def _sides(split: Halves) -> dict[Side, list[Suite]]:
    return {"development": split.development, "held out": split.held_out}


def measurement(folder: Path, cell: Recipe, split: PromptSplit, side: Side, sets: DataSets) -> Measurement:
    """Of a trained run, one part; kept beside the run, whose own figures stay its own."""
    from unforgotten.verbs.evaluate.run import of_run

    measured = of_run(folder, cell.model_copy(update={"evaluate": split.settings[side]}), sets=sets)
    measured = replace(measured, suites=[replace(suite) for suite in split.suites[side]], row=None, card=None)
    measured.move(folder.parent / "evaluated" / f"{folder.name}-{measured.digest}")
    return measured


@contextmanager
def workers(jobs: int) -> Iterator[Pool | None]:
    """So many processes that share the cores (small models gain little from a second thread); None for one job."""
    if jobs == 1:
        yield None
        return
    import multiprocessing

    threads = max(1, (os.cpu_count() or 1) // jobs)
    # Leaving the block ends the workers, also on Ctrl-C; what they had checkpointed is gone on from.
    with multiprocessing.get_context("spawn").Pool(jobs, _begin, (threads,)) as pool:
        yield pool


def rows(
    todo: Sequence[Recipe],
    recipe: Recipe,
    split: PromptSplit,
    side: Side,
    sets: DataSets,
    pool: Pool | None,
    say: Say,
) -> list[results.ResultRow | str]:
    """The row of each cell; its error where training broke down. recipe: the one with `sweep`."""
    from unforgotten.evaluation.measure_all import judge_all

    if pool is None:
        tried = [_done(cell, split, side, sets, say) for cell in todo]
    else:
        finished = pool.map(_cell, [(cell, recipe, side) for cell in todo], chunksize=1)
        if stopped := next((error for _, error in finished if error), None):
            raise UnforgottenError(stopped)
        tried = [trial for trial, _ in finished]
    trained = [(trial, cell) for trial, cell in zip(tried, todo, strict=True) if isinstance(trial, Path)]
    judged = iter(judge_all([measurement(folder, cell, split, side, sets) for folder, cell in trained]))
    return [next(judged) if isinstance(trial, Path) else trial for trial in tried]


def _done(cell: Recipe, split: PromptSplit, side: Side, sets: DataSets, say: Say = quiet) -> Path | str:
    """Trains and asks, and gives the run's folder; or why training broke down (a rate too high), a trial's result."""
    from unforgotten.verbs.finetune.finetune import train

    try:
        folder = train(cell, say, sets=sets).folder
    except TrainingError as error:
        return str(error)
    measurement(folder, cell, split, side, sets).ask(say=say)
    return folder


def _begin(threads: int) -> None:
    import ctypes
    import signal
    import sys

    import torch

    from unforgotten.runs import bars

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends its workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive a parent that was killed
    torch.set_num_threads(threads)
    bars.hidden = True


def _cell(given: tuple[Recipe, Recipe, Side]) -> tuple[Path | str, str]:
    """What `_done` gives, and any other error of ours as its text."""
    cell, recipe, side = given
    sets = DataSets()
    try:
        return _done(cell, split_of(recipe, sets), side, sets), ""
    except UnforgottenError as error:
        return "", str(error)
    except SystemExit as error:  # of a class of one's own; a pool would wait for this worker for ever
        if isinstance(error, Terminated):
            raise
        return "", str(plain(error))
