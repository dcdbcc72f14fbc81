"""The tables of a sweep: the front, both sides of the split, how sensitive the method is, and all trials."""

from __future__ import annotations

from typing import Any

from unforgotten.report.aggregate import Line, names_in
from unforgotten.report.page.drawing import short
from unforgotten.report.page.drawing import with_interval as rate_told
from unforgotten.report.page.facets import headline
from unforgotten.report.table import Column, Table, name, prose, table_of
from unforgotten.runs.result_types import Rate
from unforgotten.verbs.sweep.result import Swept, sensitivity, task_rates
from unforgotten.verbs.sweep.space import Settings


def front_table(swept: Swept) -> Table:
    """The front, below plain SFT and the recipe's own setting."""
    names = [place.name for place in swept.places]
    body = [
        [model, *(_short(p.own) if model == "as given" else "" for p in swept.places), *_figures(line), ""]
        for model, line in swept.references.items()
    ]
    for trial in swept.front:
        assert trial.outcome is not None
        mark = ("meets" if trial.outcome.holds else "misses") + (", chosen" if trial is swept.best else "")
        values = [_short(trial.settings[name]) for name in names]
        body.append([f"trial {trial.number}", *values, *_figures(swept.lines[trial.number]), mark])
    figures = map(Column, (*names, *measures(swept.references["sft"])))
    return table_of([name("model"), *figures, Column("limits", align="left")], body)


def held_out_table(swept: Swept) -> Table:
    """Both sides of the split, side by side."""
    development = {**swept.references, "chosen": swept.lines[swept.best.number]}
    body = []
    for title in measures(swept.references["sft"]):
        for model, line in swept.held_out.items():
            # Sets of the search's own may have other tasks than those held out.
            seen, unseen = measures(development[model])[title], measures(line).get(title)
            if unseen is not None and seen.value is not None and unseen.value is not None:
                gap = f"{unseen.value - seen.value:+.1f}"
                body.append([title, model, rate_told(seen), rate_told(unseen), gap])
    return table_of([name("measure"), name("model"), *map(Column, ("development", "held out", "gap"))], body)


def sensitivity_table(swept: Swept) -> Table:
    """A line for each field."""
    body = []
    for place, effect in zip(swept.places, sensitivity(swept), strict=True):
        shares = [
            "–" if effect["importance"][of] is None else f"{effect['importance'][of]:.2f}" for of in ("asr", "utility")
        ]
        body.append(
            [place.text().removesuffix("; by default"), *shares, _moves(effect["asr"]), _moves(effect["utility"])]
        )
    figures = [*map(Column, ("share, ASR", "share, utility")), prose("ASR with it"), prose("utility with it")]
    return table_of([name("field"), *figures], body)


def _moves(effect: Any) -> str:
    if effect is None:
        return "–"
    if isinstance(effect, dict):
        return ", ".join(f"{x} {mean:.1f} (of {n})" for x, (mean, n) in effect.items())
    value, low, high = effect
    return f"ρ {value:+.2f} ({low:+.2f} to {high:+.2f})"


def measures(line: Line) -> dict[str, Rate]:
    """A model's figures by title: ASR, each task's first measure, refusals where look-alikes were asked."""
    rates = {"ASR": headline(line, "asr")}
    rates |= {f"utility {task}".strip(): rate for task, rate in task_rates(line).items()}
    return rates | ({"refusals": headline(line, "refusal")} if names_in([line], "refusal") else {})


def _figures(line: Line) -> list[str]:
    return [rate_told(rate) for rate in measures(line).values()]


def trials_table(swept: Swept) -> Table:
    """Every trial, in the order of the search."""
    names = [place.name for place in swept.places]
    body = []
    for trial in swept.trials:
        result = trial.outcome
        values = [_short(trial.settings[name]) for name in names]
        figures = (
            ["–"] * 3
            if result is None
            else [short(result.asr), short(result.utility), "–" if result.refusal is None else short(result.refusal)]
        )
        body.append(
            [
                str(trial.number),
                *values,
                *figures,
                "failed" if result is None else "meets" if result.holds else "misses",
            ]
        )
    columns = map(Column, (*names, "ASR", "utility", "refusals"))
    return table_of([name("trial", "right"), *columns, Column("limits", align="left")], body)


# ── settings in words ──


def setting(settings: Settings) -> str:
    """`weight 3.2, positions last`."""
    return ", ".join(f"{name} {_short(value)}" for name, value in settings.items())


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
