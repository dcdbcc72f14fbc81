"""One run of a comparison, and how it is done."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unforgotten.errors import LeaseLost, plain
from unforgotten.runs.lease import Lease
from unforgotten.runs.progress import Say
from unforgotten.verbs.finetune.finetune import train

if TYPE_CHECKING:
    from unforgotten.models.shelf import Shelf
    from unforgotten.recipe.data_sets import DataSets
    from unforgotten.recipe.recipe import Recipe

LOG = "failed.log"


@dataclass(eq=False)
class GridRun:
    """One run of the grid, as far as this process knows."""

    recipe: Recipe
    folder: Path
    title: str
    cost: float = 1.0
    """A guess at how long it takes beside others: its methods' own steps over SFT's."""
    starts: tuple[str, ...] = ()
    """What tells its θ₀ and its θ_safe from those of others, with what they are asked; and whether θ_safe makes its
    memory."""
    state: Literal["open", "done", "failed"] = "open"
    why: str = ""
    """What it failed of."""
    doing: Callable[[], str] | None = None
    """While this command works on it: gives its progress, empty where nothing is known."""
    lease: Lease = field(init=False)

    def __post_init__(self) -> None:
        self.lease = Lease(self.folder)

    def fail(self, error: BaseException) -> None:
        """Keeps the whole traceback in the run's folder."""
        from unforgotten.runs import atomic

        message = plain(error) or f"{type(error).__name__}: {error}"
        self.state, self.why = "failed", f"{message} ({self.folder / LOG})"
        try:
            atomic.put(self.folder / LOG, "".join(traceback.format_exception(error)))
        except OSError:  # a full disk, perhaps what it failed of
            self.why = message


def do(run: GridRun, shelf: Shelf, sets: DataSets, say: Say) -> None:
    """Trains and asks a run whose lease this thread holds, and lets go of it. sets: what other runs have read."""
    from unforgotten.verbs.evaluate.run import of_job

    try:
        if not (run.folder / "trained.json").is_file():
            shelf.clear()  # training needs the memory
        of_job(train(run.recipe, say, sets=sets)).ask(shelf, say)
        (run.folder / LOG).unlink(missing_ok=True)
        run.state = "done"
    except LeaseLost:
        pass  # it is another process's now, as if it had never been ours
    except Exception as error:
        run.fail(error)
    finally:
        run.lease.release()
