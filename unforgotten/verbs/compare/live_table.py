"""A comparison while it runs. On a terminal: a line for each run, read from the files that are written anyway.

Without a terminal: one line on all runs, said again and again.
"""

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

EVERY_SECONDS = 10.0
"""How often the line is said."""

NAMED = 4
"""Runs at work that the line names; more are counted."""

FIGURES = ("step", "loss", "left")
"""Of a run's training."""

LAST_BYTES = 8192
"""Of metrics.jsonl: enough for the last lines, however long a run is."""


@contextmanager
def board(runs: Sequence[GridRun], say: Say) -> Iterator[Say]:
    """Shows the table and yields what says a line above it; without a terminal `say` is given `sentence` at times."""
    from rich.live import Live

    from unforgotten.runs import bars

    console = display.console(stderr=True)
    if bars.speaks() or not console.is_terminal:
        with bars.in_lines(say, "", EVERY_SECONDS, line=lambda: f"  {sentence(runs)}"):
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


def sentence(runs: Sequence[GridRun]) -> str:
    """Where all runs stand, on one line: how many are done, and what is done on those at work."""
    states = [(run, *state(run)) for run in runs]
    counts = {word: sum(known == word for _, known, _ in states) for word in ("done", "failed", "waits")}
    parts = [f"{counts['done']} of {len(runs)} runs done"]
    parts += [f"{counts['failed']} failed"] if counts["failed"] else []
    busy = [known for known in states if known[0].doing or known[1] not in counts]
    parts += [_at_work(*known) for known in busy[:NAMED]]
    parts += [f"{len(busy) - NAMED} more at work"] if len(busy) > NAMED else []
    waiting = counts["waits"] - sum(how == "waits" for _, how, _ in busy)
    parts += [f"{waiting} wait" if waiting > 1 else "1 waits"] if waiting else []
    return display.line("; ".join(parts))


def _at_work(run: GridRun, how: str, facts: dict[str, str]) -> str:
    """A run's name, and its own progress, or what its files say of it."""
    doing = run.doing() if run.doing else ""
    if not doing:
        doing = "begins" if how == "waits" else f"{how}, step {facts['step']}" if "step" in facts else how
    elif "left" in facts and "steps" in doing:  # not while the trained model is being saved
        doing += f", {facts['left']} left"
    return f"{run.title}: {doing}"


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
