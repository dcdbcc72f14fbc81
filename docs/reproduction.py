"""Fills docs/results/tables.md with the world's tables and claims, from docs/results/*.json.

    python docs/reproduction.py                        rewrites what stands between the two marks; --check only compares
    python docs/reproduction.py keep NAME RESULTS …    keeps the figures of comparisons as docs/results/NAME.json

What is kept is a results file of the same schema, a row on a line, without what only its run folder can explain.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import claims

from unforgotten.evaluation.statistics.rates import over_seeds
from unforgotten.recipe.read import load_recipe
from unforgotten.report import aggregate
from unforgotten.report.comparison import neither, table
from unforgotten.report.table import Column, name, table_of
from unforgotten.report.writers import markdown
from unforgotten.runs import results
from unforgotten.runs.result_types import UNMEASURED, NamedSpec, Rate

DOCS = Path(__file__).parent
PAGE = DOCS / "results" / "tables.md"
START, END = "<!-- world tables: from docs/results by `make docs` -->", "<!-- end of world tables -->"
KEPT = ("method", "methods", "task", "poison", "seed", "stage", "asr", "refusal", "utility", "cost", "model",
        "memory_rows", "replay", "run", "flags")  # fmt: skip
TABLES = {
    1: "No poison, three tasks",
    2: "p = 0.1, three tasks",
    3: "More and more poison, sums",
    4: "Over-refusal, p = 0.1",
    5: "Size of the memory, sums, p = 0.1",
    6: "Models of other shapes, sums, p = 0.1",
}
USER_ROWS = 1400


def keep(called: str, files: Iterable[Path]) -> Path:
    """Rows of several comparisons as one small file; a run that is in two of them is kept once."""
    rows = {json.dumps([row.run, row.task]): row for file in files for row in results.read(file)}
    slim = [results.ResultRow(**{field: getattr(row, field) for field in KEPT}) for row in rows.values()]
    lines = [json.dumps(row.json(), ensure_ascii=False) for row in slim]
    target = DOCS / "results" / f"{called}.json"
    target.parent.mkdir(exist_ok=True)
    body = ",\n".join(lines)
    target.write_text(f'{{"schema": {results.SCHEMA}, "rows": [\n{body}\n]}}\n', encoding="utf-8")
    results.read(target)
    return target


def _rows(pattern: str) -> list[results.ResultRow]:
    """All rows of the kept files, each run once."""
    actual = [row for file in sorted((DOCS / "results").glob(pattern)) for row in results.read(file)]
    return list({json.dumps([row.run, row.task]): row for row in actual}.values())


@dataclass
class Candidate:
    """A method's setting on the development split, at p = 0 and p = 0.1."""

    spec: NamedSpec
    clean: results.ResultRow
    poisoned: results.ResultRow

    @property
    def asr(self) -> float:
        """The mean over both ratios."""
        return sum(float(_headline(row, "asr").value or 0) for row in (self.clean, self.poisoned)) / 2

    @property
    def accuracy(self) -> float:
        """Without poison."""
        return float(_headline(self.clean, "utility").value or 0)


def candidates(rows: list[results.ResultRow]) -> dict[str, list[Candidate]]:
    """The settings that were tried, by method, in the sweep's order."""
    actual: dict[str, list[Candidate]] = {}
    for clean in rows:
        if clean.stage == "tuned" and clean.poison == 0:
            [poisoned] = [row for row in rows if row.methods == clean.methods and row.poison == 0.1]
            actual.setdefault(clean.method, []).append(Candidate(clean.methods[0], clean, poisoned))
    return actual


def choose(tried: list[Candidate], sft: float) -> Candidate:
    """world-sweep.yaml's rule: the safest of those within 5 points of SFT's accuracy, else the most accurate."""
    near = [c for c in tried if c.accuracy >= sft - 5]
    return min(near, key=lambda c: c.asr) if near else max(tried, key=lambda c: c.accuracy)


def _sweep() -> list[str]:
    tried = candidates(_rows("world-sweep.json"))
    [sft] = tried["sft"]
    measured = ("ASR p = 0", "ASR p = 0.1", "look-alikes refused p = 0", "accuracy p = 0", "accuracy p = 0.1")
    text = []
    for settings in tried.values():
        best = choose(settings, sft.accuracy)
        for c in settings:
            varied = [f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in c.spec.settings.items()
                      if len({str(other.spec.settings[k]) for other in settings}) > 1]  # fmt: skip
            rates = [_headline(c.clean, "asr"), _headline(c.poisoned, "asr"), _headline(c.clean, "refusal"),
                     _headline(c.clean, "utility"), _headline(c.poisoned, "utility")]  # fmt: skip
            mark = "chosen" if c is best and len(settings) > 1 else ""
            text.append([f"{c.spec.name} {', '.join(varied)}".strip(), *(f"{r.value:.1f}" for r in rates), mark])
    columns = [name("setting"), *map(Column, measured), Column("", align="left")]
    return markdown.lines(table_of(columns, text))


def page() -> str:
    """What stands between the marks."""
    text: list[str] = []
    if _rows("world-sweep.json"):
        text += ["**Settings** (`unforgotten compare world-sweep`, seed 103, the development split)", "", *_sweep()]
    for number, title in TABLES.items():
        if not (rows := _rows(f"world-table{number}*.json")):
            continue
        grid = load_recipe(f"world-table{number}").compare
        actual = aggregate.lines(_in_order(rows, grid))
        seeds = sorted({row.seed for row in rows if row.stage == "tuned"})
        text += [
            "",
            f"**Table {number}. {title}** (`unforgotten compare world-table{number}`, {_told(seeds, rows)})",
            "",
        ]
        text += markdown.lines(table(actual, grid.table if grid else None))
        if grid and grid.table and (note := neither(actual, grid.table)):
            text += ["", note]
    if rows := [row for row in _rows("world-table[1-5]*.json") if row.stage == "tuned"]:
        text += ["", "**What holds of the paper's orders**", ""]
        text += claims.lines([(task, _figures(rows, task)) for task in claims.TASKS])
    return "\n".join(text).strip() + "\n"


def _in_order(rows: list[results.ResultRow], grid: object) -> list[results.ResultRow]:
    """As the recipe names its methods; base and aligned first."""
    methods = [spec if isinstance(spec, str) else spec["name"] for spec in getattr(grid, "method", [])]
    tasks = ["sums", "sentiment", "code"]
    return sorted(
        rows,
        key=lambda row: (
            results.STAGES.index(row.stage),
            methods.index(row.method) if row.method in methods else -1,
            tasks.index(row.task),
            row.poison or 0,
            row.memory_rows or 0,
            row.seed or 0,
        ),
    )


def _told(seeds: list[int], rows: list[results.ResultRow]) -> str:
    by_task = {t: {row.seed for row in rows if row.stage == "tuned" and row.task == t} for t in claims.TASKS}
    counts = {task: len(item) for task, item in by_task.items() if item}
    if len(set(counts.values())) == 1:
        return "seed 0" if seeds == [0] else f"seeds {', '.join(map(str, seeds))}"
    return ", ".join(f"{task}: {n} seed{'s' * (n > 1)}" for task, n in counts.items())


def _figures(rows: list[results.ResultRow], task: str) -> Callable[[claims.Claim], claims.Figure]:
    own = [row for row in rows if row.task == task]

    def of(claim: claims.Claim) -> claims.Figure:
        def figure(method_at: str, field: claims.Field) -> Rate:
            method, *rest = method_at.split()
            facts = dict(word.split("=") for word in rest)
            poison = float(facts.get("p", 0.0 if claim.table == 1 else 0.1))
            memory = round(float(facts.get("m", "5%").rstrip("%")) / 100 * USER_ROWS)
            wanted = (method, poison, memory)
            actual = [row for row in own if (row.method, row.poison, row.memory_rows) == wanted]
            if not actual:
                raise KeyError(f"table {claim.table}, {task}: there are no figures of {method_at}")
            return over_seeds([_headline(row, field) for row in actual])

        return figure

    return of


def _headline(row: results.ResultRow, field: results.Kind) -> Rate:
    rates = row.rates(field)
    return rates.get("mean", UNMEASURED) if field != "utility" else next(iter(rates.values()), UNMEASURED)


def main() -> int:
    """Keep figures, or write the page; with --check, return 1 where it is stale."""
    if sys.argv[1:2] == ["keep"]:
        print(keep(sys.argv[2], map(Path, sys.argv[3:])))
        return 0
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    fresh = f"{before}{START}\n\n{page()}\n{END}{after}"
    if fresh != text and "--check" in sys.argv:
        print("stale: docs/results/tables.md; run `make docs`", file=sys.stderr)
        return 1
    if fresh != text:
        PAGE.write_text(fresh, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
