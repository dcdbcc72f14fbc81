"""What each method's training took, beside plain fine-tuning's: time, tokens and memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from markupsafe import Markup

from unforgotten.report import templates
from unforgotten.report.page.facets import Facet
from unforgotten.runs.result_types import Cost


@dataclass(frozen=True, slots=True)
class CostRow:
    """What one method took."""

    name: str
    bar: str
    """Its seconds, in percent of the slowest method's."""
    values: Sequence[str]


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "train_seconds": ("seconds", lambda v: f"{v:,.0f}"),
    "step_seconds": ("ms a step", lambda v: f"{1000 * v:,.0f}"),
    "tokens": ("tokens", lambda v: f"{v:,.0f}"),
    "peak_memory_bytes": ("peak memory, GiB", lambda v: f"{v / 2**30:.1f}"),
}
"""Of a run's cost, the title and how a value is written."""
WORDS = (
    "Training alone, the mean over each method’s runs. Runs that shared a machine took longer than they would have by "
    "themselves."
)


def cost(facets: Sequence[Facet]) -> Markup:
    """What each method took, the mean over all of its runs, beside sft's; empty where no run recorded it."""
    runs: dict[str, list[Cost]] = {}
    for line in {id(line): line for facet in facets for line in facet.tuned}.values():
        runs.setdefault(line.name, []).extend(row.cost for row in line.rows if row.cost)
    means = {method: {key: _mean(costs, key) for key in COLUMNS} for method, costs in runs.items() if costs}
    longest = max((mean["train_seconds"] or 0.0 for mean in means.values()), default=0.0)
    if not longest:
        return Markup("")
    plain = means.get("sft", {}).get("train_seconds")
    rows = []
    for method, mean in means.items():
        seconds = mean["train_seconds"]
        times = f"{seconds / plain:.1f}×" if plain and seconds else "–"
        written = ["–" if (v := mean[key]) is None else write(v) for key, (_, write) in COLUMNS.items()]
        rows.append(CostRow(method, f"{100 * (seconds or 0) / longest:.1f}", [times, *written]))
    titles = ["× sft’s time", *(title for title, _ in COLUMNS.values())]
    return templates.html("report/page/cost", words=WORDS, titles=titles, rows=rows)


def _mean(costs: Sequence[Cost], key: str) -> float | None:
    known = [float(value) for cost in costs if (value := getattr(cost, key)) is not None]
    return fmean(known) if known else None
