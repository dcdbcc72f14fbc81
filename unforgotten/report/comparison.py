"""A comparison as a table: a row for each run, or, as papers print it, a row for each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from unforgotten.report.aggregate import Line, names_in, words
from unforgotten.report.table import Cell, Column, Table, name
from unforgotten.runs.result_types import Rate
from unforgotten.runs.results import Kind

if TYPE_CHECKING:
    from unforgotten.recipe.compare import Layout

MARK = "⚠"
NEITHER = 10
"""A footnote names replies that neither answer nor refuse from this percentage on."""


def table(lines: Sequence[Line], layout: Layout | None = None) -> Table:
    """Everything that was measured, or what `layout` sets side by side."""
    return _of_runs(lines) if layout is None else _of_methods(lines, layout)


# ── a row for each run ──


def _of_runs(lines: Sequence[Line]) -> Table:
    columns = _columns(lines)
    where = [(line.stage, line.model, line.task, line.poison, line.attack, line.memory) for line in lines]
    return Table(
        [column for column, _ in columns], [[cell(line) for _, cell in columns] for line in lines], _ends(where)
    )


def _ends(groups: Sequence[Any]) -> frozenset[int]:
    """The last row of each group of equal neighbours."""
    return frozenset(i for i, after in enumerate([*groups[1:], None]) if after != groups[i])


def _columns(lines: Sequence[Line]) -> list[tuple[Column, Callable[[Line], Cell]]]:
    """Columns and what stands in them; empty ones are left out."""
    tuned = [line for line in lines if line.stage == "tuned"]
    models = len({line.model for line in lines}) > 1
    columns: list[tuple[Column, Callable[[Line], Cell]]] = [(name("model"), lambda line: Cell(line.name))]
    if models:
        columns.append((name("of"), lambda line: Cell(line.model or "")))
    if len({line.task for line in lines} - {None}) > 1:
        columns.append((name("task"), lambda line: Cell(line.task or "")))
    if tuned:
        columns.append((name("p", "right"), lambda line: Cell("" if line.poison is None else f"{line.poison:g}")))
    if any(line.attack for line in tuned):
        columns.append((name("attack"), lambda line: Cell(line.attacked)))
    if len({line.memory for line in tuned}) > len({line.task for line in tuned}):
        columns.append((name("m", "right"), lambda line: Cell("" if line.memory is None else str(line.memory))))
    suites = names_in(lines, "asr")
    for suite in suites if len(suites) > 2 else [s for s in suites if s != "mean"]:
        columns.append((Column(f"{words(lines).short} {suite}"), _rated("asr", suite)))
    if any(_is_prefilled(line) for line in lines):
        columns.append((Column(f"{words(lines).short} prefill"), lambda line: _cell(line.prefilled())))
    if any((line.flagged("off_task").value or 0) > 0 for line in lines):
        columns.append((Column("off task"), lambda line: _cell(line.flagged("off_task"))))
    looks = names_in(lines, "refusal")
    for suite in looks if len(looks) > 2 else [s for s in looks if s != "mean"]:
        columns.append((Column(f"refusal {suite}"), _rated("refusal", suite)))
    for metric in names_in(lines, "utility"):
        columns.append((Column(f"utility {metric}"), _rated("utility", metric)))
    if any(line.seconds() is not None for line in lines):
        columns.append((Column("s", meaning="seconds of training"), _seconds))
    return columns


def _is_prefilled(line: Line) -> bool:
    return any("prefill" in (row.conditions or {}) for row in line.rows)


def _seconds(line: Line) -> Cell:
    return Cell("" if (s := line.seconds()) is None else f"{s:.0f}")


# ── a row for each method ──


def neither(lines: Sequence[Line], layout: Layout) -> str:
    """Which methods' replies to harmful requests neither answer nor refuse, and how: a low ASR is then no safety."""
    methods = []
    for line in lines:
        for flag, what in (("off_task", "off task"), ("degenerate", "repeating")):
            share = line.flagged(flag).value or 0
            if line.stage == "tuned" and share >= NEITHER:
                methods.append(f"{line.name} ({_title(_group(line, layout), '', layout).strip()}) {share:.0f} % {what}")
    return f"Replies to harmful requests that are neither answer nor refusal: {', '.join(methods)}." if methods else ""


def _of_methods(lines: Sequence[Line], layout: Layout) -> Table:
    """Tasks and models each have their figures together; over ratios and sizes a figure's course stands together."""
    groups: list[Any] = list(dict.fromkeys(_group(line, layout) for line in lines if line.stage == "tuned"))
    if layout.across in ("poison", "memory"):
        places = [(group, field) for field in layout.of for group in groups]
    else:
        places = [(group, field) for group in groups for field in layout.of]
    # Whatever else differs makes rows of its own.
    keys = dict.fromkeys(_rest(line, layout) for line in lines)
    at: dict[tuple[Any, ...], Line] = {(*_rest(line, layout), _group(line, layout)): line for line in lines}
    body = []
    for key in keys:
        # θ₀ and θ_safe know no poison or memory: their figures stand in every group.
        cells = [_headline(at.get((*key, group)) or at.get((*key, None)), field) for group, field in places]
        body.append([Cell(_named(key, list(keys))), *cells])
    called = {"asr": words(lines).short, "prefill": f"{words(lines).short} prefill"}
    titles = [_title(group, called.get(field, field), layout) for group, field in places]
    return Table([name("method"), *map(Column, titles)], body, _ends([key[0] for key in keys]))


def _group(line: Line, layout: Layout) -> Any:
    if layout.across == "attack":
        return line.attacked or None
    return getattr(line, layout.across)


def _rest(line: Line, layout: Layout) -> tuple[Any, ...]:
    """Stage, name and all that distinguishes lines within a group; a task has a memory of its own size."""
    facts = {
        "model": line.model,
        "task": line.task,
        "poison": line.poison,
        "memory": line.memory,
        "attack": line.attack,
    }
    # An identity attack has a share of its own. A recipe varies either attack or ratio in such a table.
    left = {"task": ("task", "memory"), "poison": ("poison", "attack"), "attack": ("attack", "poison")}.get(
        layout.across, (layout.across,)
    )
    return (line.stage, line.name, *(fact for what, fact in facts.items() if what not in left))


def _named(key: tuple[Any, ...], keys: Sequence[tuple[Any, ...]]) -> str:
    """The name, with what else differs among the lines of its stage."""
    stage, method, *facts = key
    alike = [k[2:] for k in keys if k[0] == stage]
    differing = [str(fact) for i, fact in enumerate(facts) if fact is not None and len({k[i] for k in alike}) > 1]
    return f"{method} ({', '.join(differing)})" if differing else str(method)


def _title(group: Any, field: str, layout: Layout) -> str:
    if layout.across == "poison":
        return f"{field} p = {group:g}"
    if layout.across == "attack" and group == "none":
        return f"no attack {field}"
    return f"{field} m = {group}" if layout.across == "memory" else f"{group} {field}"


def _headline(line: Line | None, field: Kind | Literal["prefill"]) -> Cell:
    """The mean of the suites, or the task's first measure."""
    if line is None:
        return Cell("–")
    if field == "prefill":
        return _cell(line.prefilled())
    names = names_in([line], field)
    suite = "mean" if "mean" in names and field != "utility" else next(iter(names), None)
    return Cell("–") if suite is None else _rated(field, suite)(line)


# ── cells ──


def _rated(field: Kind, suite: str) -> Callable[[Line], Cell]:
    def cell(line: Line) -> Cell:
        touched = line.touched()
        suites = {s for row in line.rows for s in row.rates(field)} if suite == "mean" else {suite}
        mark = any(s in touched for s in suites)
        return _cell(line.rate(field, suite), f" {MARK}" if mark else "")

    return cell


def _cell(rate: Rate, mark: str = "") -> Cell:
    if rate.low is None or rate.high is None:
        return Cell("–")
    value = "?" if rate.value is None else _short(rate.value)
    brief = f"{math.floor(rate.low + 1e-9)}–{math.ceil(rate.high - 1e-9)}"
    return Cell(value, f"{_short(rate.low)}–{_short(rate.high)}", brief, marks=mark)


def _short(percent: float) -> str:
    return "100" if percent > 99.95 else f"{percent:.1f}"
