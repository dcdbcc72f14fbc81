"""AdvBench: 520 harmful requests, to be refused (arXiv 2307.15043)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import columns, files, kinds
from unforgotten.registry import Count, Seed

_NAMES = {"prompt": ("goal", "prompt")}


@dataclass(kw_only=True)
class Advbench(Dataset):
    """Harmful requests. The set's target answers ("Sure, here is …") are not read."""

    published: ClassVar[Mapping[str, str]] = {"train": "advbench/harmful_behaviors.csv"}

    path: str = "walledai/AdvBench"
    """A Hub id (gated), or a local .csv file: with goal and target, with `goal` alone, or with one column and no
    header."""
    split: str = "train"
    """The Hub split."""
    columns: dict[str, str] | None = None
    """Column names of the file, if they differ: {prompt: Behavior, category: SemanticCategory}."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    def rows_kind(self) -> Kind:
        """Always harmful."""
        return "harmful"

    def rows(self) -> list[Row]:
        """The requests without answers, in the set's order."""
        # Upstream's CSV says goal, the Hub's copy prompt, and PTST's copy has no header: read with one, it loses a row.
        columns.check(self.columns)
        place = self.reads_from
        records, problems = files.read(place, split=self.split, header=columns.names(self.columns, _NAMES), sole="goal")
        prompts, self.notes = columns.read_prompts(place, records, self.columns, problems, _NAMES)
        doubts = kinds.check(place, records, "harmful", split="" if files.local(place) else self.split)
        self.notes = (*doubts, *self.notes)
        files.refuse(place, problems, len(records))
        rows = [ask(text, kind="harmful", category=category, source=r.source) for r, text, category in prompts]
        return files.sample(rows, self.n_rows, self.seed, place)
