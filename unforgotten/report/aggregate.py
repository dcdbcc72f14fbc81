"""Rows of results.json summed up: one line for the seeds of one setting. Figures only."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unforgotten.evaluation.statistics import rates
from unforgotten.runs import results
from unforgotten.runs.result_types import UNMEASURED, Flags, Rate, as_json
from unforgotten.runs.results import Kind

TOUCHED = 0.01
"""Share of a suite's prompts that may touch training rows before the table says so."""
NOT_FLAGGED = Flags()


@dataclass
class Line:
    """One line of the table: what differs in nothing but the seed."""

    name: str
    stage: str
    task: str | None
    poison: float | None
    model: str | None = None
    memory: int | None = None
    """Rows that were kept for replay."""
    rows: list[results.ResultRow] = field(default_factory=list)
    attack: str | None = None
    """How the harmful rows attack; None for harmful rows as they are, and where there are none."""

    @property
    def attacked(self) -> str:
        """The attack in a word; empty for models that nobody fine-tuned."""
        return self.attack or ("plain" if self.poison else "none" if self.stage == "tuned" else "")

    def rate(self, field: Kind, name: str) -> Rate:
        """Over the line's seeds."""
        return rates.over_seeds([row.rates(field).get(name, UNMEASURED) for row in self.rows])

    def prefilled(self) -> Rate:
        """Harmful prompts answered where replies are forced to begin with given words: mean of suites, over seeds."""
        each = [(row.conditions or {}).get("prefill") for row in self.rows]
        return rates.over_seeds([((c.asr if c else None) or {}).get("mean", UNMEASURED) for c in each])

    def flagged(self, flag: str) -> Rate:
        """Replies flagged so (off_task, degenerate …) among those to harmful requests."""
        counts = [
            (
                sum(getattr((row.flags or {}).get(s, NOT_FLAGGED), flag) for s in harm),
                sum(row.rates("asr")[s].n or 0 for s in harm),
            )
            for row in self.rows
            if (harm := [s for s in row.rates("asr") if s != "mean"])
        ]
        return rates.over_seeds([rates.rate(hits, n) for hits, n in counts])

    def seconds(self) -> float | None:
        """Of training, the mean over seeds."""
        known = [s for row in self.rows if row.cost and (s := row.cost.train_seconds) is not None]
        return sum(known) / len(known) if known else None

    def touched(self) -> dict[str, tuple[int, int]]:
        """Suites of which over 1 % touches training rows: how many prompts, of how many.

        Of a task's own prompts only copies count: its questions share a form by nature.
        """
        touched_suites: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            for suite, counts in (row.overlap or {}).items():
                asked = suite in row.rates("asr") or suite in row.rates("refusal")
                touched = counts.touched if asked else max(counts.exact.values(), default=0)
                if touched > TOUCHED * counts.n:
                    touched_suites[suite] = max(touched_suites.get(suite, (0, 0)), (touched, counts.n))
        return touched_suites


def words(lines: Iterable[Line]) -> results.Words:
    """What the share of harmful prompts is called in these lines: ASR, or non-refusal."""
    return results.words_of(row for line in lines for row in line.rows)


def lines(rows: Sequence[results.ResultRow]) -> list[Line]:
    """Rows that differ in nothing but the seed become one line; base and aligned first, then as the rows came.

    Two rows of one seed are two models, whatever they have in common: each has its own line, named by its run.
    """
    names = _names(rows)
    by_setting: dict[tuple[Any, ...], Line] = {}
    for row, name in zip(rows, names, strict=True):
        facts = (row.stage, row.task, row.poison, row.model, row.memory_rows)
        line = Line(name, *facts, attack=row.attack)
        by_setting.setdefault((results.STAGES.index(row.stage), *facts, row.attack, name), line).rows.append(row)
    order = {key: i for i, key in enumerate(by_setting)}
    ordered = [by_setting[key] for key in sorted(by_setting, key=lambda key: (key[0], order[key]))]
    return [part for line in ordered for part in _apart(line)]


def _apart(line: Line) -> list[Line]:
    seeds = [row.seed for row in line.rows]
    if len(set(seeds)) == len(seeds):
        return [line]
    return [replace(line, name=f"{line.name} ({Path(str(row.run)).name})", rows=[row]) for row in line.rows]


def _names(rows: Sequence[results.ResultRow]) -> list[str]:
    """As `setting_names`; what is replayed differs like a field. A model without methods has a name of its own."""
    named = setting_names([_specs(row) for row in rows])
    return [name or results.called(row) for name, row in zip(named, rows, strict=True)]


def setting_names(settings: Sequence[Sequence[Mapping[str, Any]]]) -> list[str]:
    """der, or der(weight=5) where methods of one name differ in it; "" for a setting of no methods.

    settings: of each run its methods, each a mapping with a name.
    """
    plain = ["+".join(str(spec["name"]) for spec in specs) for specs in settings]
    seen: dict[str, dict[str, Sequence[Mapping[str, Any]]]] = {}
    for specs, name in zip(settings, plain, strict=True):
        seen.setdefault(name, {}).setdefault(json.dumps(specs, sort_keys=True, default=str), specs)
    named = []
    for own, name in zip(settings, plain, strict=True):
        parts = []
        for i, spec in enumerate(own):
            others = [specs[i] for specs in seen[name].values()]
            fields = [f"{k}={v}" for k, v in spec.items() if any(other.get(k) != v for other in others)]
            own_name = title(str(spec["name"]))
            parts.append(f"{own_name}({', '.join(fields)})" if fields else own_name)
        named.append("+".join(parts))
    return named


def title(method: str) -> str:
    """A method's name in a table: of a class in a file of the user's own, `./mine.py:Mine`, the class."""
    return method.rpartition(":")[2] if ".py:" in method else method


def _specs(row: results.ResultRow) -> list[dict[str, Any]]:
    specs = as_json(row.methods or ())
    return [*specs[:-1], {**specs[-1], "replay": as_json(row.replay)}] if specs and row.replay is not None else specs


def names_in(lines: Sequence[Line], field: Kind) -> list[str]:
    """Suites or metrics that any of the lines has, in their order; the mean last."""
    keys = dict.fromkeys(key for line in lines for row in line.rows for key in row.rates(field))
    return [key for key in keys if key != "mean"] + (["mean"] if "mean" in keys else [])
