"""A plan (plan.py) as `--dry-run` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unforgotten.verbs.plan.result import Plan


def lines(plan: Plan) -> list[str]:
    """The plan as it is printed, line by line."""
    runs = ", ".join(f"{n} {what if n != 1 else what[:-1]}" for what, n in plan.count.items())
    printed = [f"{plan.name}: {runs}. Nothing is loaded or downloaded; time, memory and disk are estimates."]
    if plan.machine:
        printed.append(f"On {plan.machine.name}: {plan.machine.how}.")
    width = max(len(stage.title) for stage in plan.stages) if plan.stages else 10
    head = f"{'':{width}} {'rows':>8} {'tokens':>9} {'steps':>7} {'time':>8} {'memory':>9} {'disk':>9}"
    printed += ["", head] if plan.stages else []
    for stage in plan.stages:
        sizes = f"{_time(stage.seconds):>8} {_size(stage.memory):>9} {_size(stage.disk):>9}"
        printed.append(
            f"{stage.title:{width}} {stage.rows:>8,} {_short(stage.tokens):>9} {stage.steps or '':>7} {sizes}".rstrip()
        )
    most = max((stage.memory or 0 for stage in plan.stages), default=0)
    printed.append(f"{'all':{width}} {'':26} {_time(plan.seconds):>8} {_size(most):>9} {_size(plan.disk):>9}")
    printed += ["", "Data, and tokens of a row's prompt and answer:"] if plan.sets else []
    for some in plan.sets:
        printed.append(f"  {some.name}: {some.rows or '?'} rows, {some.prompt:.0f} + {some.response:.0f} ({some.how})")
    printed += ["", "To be had from the Hub:"] if plan.needed else []
    for thing in plan.needed:
        size = f", {_size(thing.size)}" if thing.size else ""
        terms = f" Accept first: {thing.terms}." if thing.terms else ""
        printed.append(
            f"  {thing.what} {thing.name}{size}{', in the cache' if thing.cached else ''}. {thing.url}{terms}"
        )
    printed += ["", *plan.notes] if plan.notes else []
    return [*printed, "", *ASSUMED]


ASSUMED = (
    "Replies are reckoned at evaluate.max_new_tokens each, which most do not reach. Time leaves out padding, loading,",
    "what a method does before its first step (Fisher, stored states), and running code. Memory is of one device:",
    "model, adapter with AdamW in fp32, activations of the longest micro-batch (where no row is here: of",
    "max_length); attention is taken to be fused. `?` is not known here. What is done already is counted too: a",
    "command that finds it takes less.",
)


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "?"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86_400:.1f} d"


def _size(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _short(tokens: float) -> str:
    return f"{tokens / 1e6:.1f} M" if tokens >= 1e5 else f"{tokens:,.0f}"
