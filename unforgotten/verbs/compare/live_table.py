"""A comparison while it runs, on a terminal: a line for each run, read from the files that are written anyway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from unforgotten.runs import console as display
from unforgotten.runs import lease
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from rich.table import Table

    from unforgotten.verbs.compare.job import Run

HEIGHT_ROWS = 30
"""Of more runs than this, those that are done or wait are only counted."""

LAST_BYTES = 8192
"""Of metrics.jsonl: enough for the last lines, however long a run is."""


@contextmanager
def board(runs: Sequence[Run], say: Say) -> Iterator[Say]:
    """Shows the table and yields what says a line above it; without a terminal nothing is shown, and that is `say`."""
    from rich.live import Live

    from unforgotten.runs import bars

    console = display.console(stderr=True)
    if not console.is_terminal:
        yield say
        return
    before, bars.quiet = bars.quiet, True  # one thing moves on a terminal at a time
    try:
        with Live(console=console, get_renderable=lambda: table(runs), refresh_per_second=1, transient=True):
            yield lambda text: console.print(text, style="dim", markup=False)
    finally:
        bars.quiet = before


def table(runs: Sequence[Run]) -> Table:
    """What is known of each run."""
    from rich.table import Table
    from rich.text import Text

    lines = [(run, *state(run)) for run in runs]
    done = sum(how == "done" for _, how, _ in lines)
    title = f"{done} of {len(runs)} runs done"
    if len(lines) > HEIGHT_ROWS:
        waiting = sum(how == "waits" for _, how, _ in lines)
        title += f", {waiting} wait"
        lines = [line for line in lines if line[1] not in ("done", "waits")]
    drawn = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), title=title, title_justify="left")
    for column in ("run", "state", "step", "loss", "left"):
        drawn.add_column(column, no_wrap=True, justify="right" if column in ("step", "loss", "left") else "left")
    for run, how, facts in lines:
        figures = (facts.get(name, "") for name in ("step", "loss", "left"))
        drawn.add_row(Text(display.line(run.title)), how, *figures)
    return drawn


def state(run: Run) -> tuple[str, dict[str, str]]:
    """Where a run stands, whoever is at work on it; and step, loss and the time left of its training."""
    if run.state != "open":
        return run.state, {}
    if not (who := lease.holder(run.folder)):
        return "waits", {}
    here = "" if who == lease.host() else f" on {who}"
    if (run.folder / "trained.json").exists():
        return f"asks{here}", {}
    return f"trains{here}", _progress(run)


def _progress(run: Run) -> dict[str, str]:
    from unforgotten.training import callbacks

    if not (lines := callbacks.read(run.folder / "metrics.jsonl", LAST_BYTES)):
        return {}
    last: dict[str, Any] = lines[-1]
    losses = [line["loss"] for line in lines if "loss" in line]
    progress = {"loss": f"{losses[-1]:.3f}"} if losses else {}
    training = run.recipe.training
    done, of = ("step", training.max_steps) if training.max_steps > 0 else ("epoch", training.num_train_epochs)
    share = last.get(done, 0) / of
    if 0 < share <= 1:
        progress["step"] = f"{last['step']}/{round(last['step'] / share)}"
        progress["left"] = str(timedelta(seconds=round(last["seconds"] / share - last["seconds"])))
    return progress
