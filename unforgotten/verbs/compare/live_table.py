"""A comparison while it runs, on a terminal: a line for each run, read from the files that are written anyway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from unforgotten.report.table import Column, Table, name, table_of
from unforgotten.report.writers import terminal
from unforgotten.runs import lease
from unforgotten.runs import safe_text as display
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text

    from unforgotten.verbs.compare.grid_run import GridRun

HEIGHT_ROWS = 30
"""Of more runs than this, those that are done or wait are only counted."""

FIGURES = ("step", "loss", "left")
"""Of a run's training."""

LAST_BYTES = 8192
"""Of metrics.jsonl: enough for the last lines, however long a run is."""


@contextmanager
def board(runs: Sequence[GridRun], say: Say) -> Iterator[Say]:
    """Shows the table and yields what says a line above it; without a terminal nothing is shown, and that is `say`."""
    from rich.live import Live

    from unforgotten.runs import bars

    console = display.console(stderr=True)
    if not console.is_terminal:
        yield say
        return

    def view() -> Group:
        return drawn(runs, console.width, console.height, terminal.rule_of(console))

    before, bars.hidden = bars.hidden, True  # one thing moves on a terminal at a time
    try:
        with Live(console=console, get_renderable=view, refresh_per_second=1, transient=True):
            yield lambda text: console.print(text, style="dim", markup=False)
    finally:
        bars.hidden = before


def drawn(runs: Sequence[GridRun], width: int, height: int, rule: str = "─") -> Group:
    """The table as far as the terminal holds it: runs without a line are counted.

    width, height: of the terminal. A name wider than that goes on in the next line.
    """
    from rich.console import Group
    from rich.text import Text

    states = [(run, *state(run)) for run in runs]
    busy = [known for known in states if known[1] not in ("done", "waits")]
    shown = states if len(states) <= HEIGHT_ROWS else busy
    while shown and _height(lines := terminal.lines(_table(shown), width, rule), width) > height - 2:
        shown = busy if len(shown) > len(busy) else shown[:-1]
    title = f"{sum(run_state == 'done' for _, run_state, _ in states)} of {len(runs)} runs done"
    if len(shown) < len(states):
        title += f", {sum(run_state == 'waits' for _, run_state, _ in states)} wait"
    if len(shown) < len(busy):
        title += f", {len(busy) - len(shown)} more at work"
    return Group(Text(title, "italic"), *(Text.assemble(line, overflow="fold") for line in (lines if shown else [])))


def _height(lines: Sequence[Text], width: int) -> int:
    return sum(max(1, -(-line.cell_len // width)) for line in lines)


def _table(shown: Sequence[tuple[GridRun, str, dict[str, str]]]) -> Table:
    columns = [name("run"), Column("state", align="left"), *map(Column, FIGURES)]
    return table_of(columns, [[r.title, how, *(facts.get(x, "") for x in FIGURES)] for r, how, facts in shown])


def state(run: GridRun) -> tuple[str, dict[str, str]]:
    """Where a run stands, whoever is at work on it; and step, loss and the time left of its training."""
    if run.state != "open":
        return run.state, {}
    if not (who := lease.holder(run.folder)):
        return "waits", {}
    here = "" if who == lease.host() else f" on {who}"
    if (run.folder / "trained.json").exists():
        return f"asks{here}", {}
    return f"trains{here}", _progress(run)


def _progress(run: GridRun) -> dict[str, str]:
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
