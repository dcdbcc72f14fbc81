"""A plan (plan.py) as `--dry-run` prints it: what each stage takes, what it reads, and what is to be downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unforgotten.report.table import Column, Table, name, prose, table_of
from unforgotten.report.writers import terminal
from unforgotten.runs import safe_text as display

if TYPE_CHECKING:
    from unforgotten.verbs.plan.result import Needed, Plan


def show(plan: Plan, console: Any = None) -> None:
    """Prints the plan."""
    console = console or display.console()
    for line in lines(plan, display.room(console), terminal.rule_of(console)):
        console.print(line, soft_wrap=True)


def lines(plan: Plan, width: int | None = None, rule: str = "─") -> list[str]:
    """The plan as it is printed, line by line. width: of the terminal; None where a line may have any length."""
    runs = ", ".join(f"{n} {what if n != 1 else what[:-1]}" for what, n in plan.count.items())
    start = [f"{plan.name}: {runs}. Nothing is loaded or downloaded. Time, memory and disk are estimates."]
    start += [f"On {plan.machine.name}: {plan.machine.how}."] if plan.machine else []
    parts = [_wrapped(start, width)]
    parts += [_drawn(stages(plan), width, rule)] if plan.stages else []
    parts += [_drawn(sets(plan), width, rule)] if plan.sets else []
    if plan.needed:
        parts.append(_wrapped(["To download:", *map(_needed, plan.needed)], width))
    parts += [_wrapped(plan.notes, width)] if plan.notes else []
    parts.append(_wrapped([ASSUMED], width))
    return [line for i, part in enumerate(parts) for line in ([""] if i else []) + part]


def stages(plan: Plan) -> Table:
    """What each stage takes, and all of them."""
    columns = [name("stage"), *map(Column, ("rows", "tokens", "steps", "time", "memory", "disk"))]
    rows = []
    for stage in plan.stages:
        counts = [f"{stage.rows:,}", _short(stage.tokens), str(stage.steps or "")]
        rows.append([stage.title, *counts, _time(stage.seconds), _size(stage.memory), _size(stage.disk)])
    most = max((stage.memory or 0 for stage in plan.stages), default=0)
    rows.append(["all", "", "", "", _time(plan.seconds), _size(most), _size(plan.disk)])
    return table_of(columns, rows)


def sets(plan: Plan) -> Table:
    """The data sets: rows, and tokens of a row's prompt and answer."""
    columns = [name("data set"), *map(Column, ("rows", "prompt tokens", "answer tokens")), prose("source")]
    rows = [
        [some.name, f"{some.rows:,}" if some.rows else "?", f"{some.prompt:.0f}", f"{some.response:.0f}", some.how]
        for some in plan.sets
    ]
    return table_of(columns, rows)


def _needed(thing: Needed) -> str:
    size = f", {_size(thing.size)}" if thing.size else ""
    terms = f" Accept first: {thing.terms}." if thing.terms else ""
    return f"- {thing.what} {thing.name}{size}{', in the cache' if thing.cached else ''}. {thing.url}{terms}"


def _drawn(table: Table, width: int | None, rule: str) -> list[str]:
    return [line.plain for line in terminal.lines(table, width, rule)]


def _wrapped(sentences: Sequence[str], width: int | None) -> list[str]:
    return [line for sentence in sentences for line in terminal.wrapped(sentence, width, chop=False)]


ASSUMED = (
    "Each reply counts as evaluate.max_new_tokens tokens; most replies are shorter. Time does not include padding, "
    "loading, a method's work before its first step (Fisher information, stored states), or running code. Memory is "
    "that of one device: the model, the adapter with AdamW in fp32, and activations of the longest micro-batch. If "
    "no row is on this machine, that batch is assumed to be full (max_length). Attention is assumed to be fused. "
    "`?`: not known here. Finished stages are included; a command that finds their results takes less time."
)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for limit, unit, sign in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {sign}"
    return f"{seconds / 86_400:.1f} d"


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _short(tokens: float) -> str:
    return f"{tokens / 1e6:.1f} M" if tokens >= 1e5 else f"{tokens:,.0f}"
