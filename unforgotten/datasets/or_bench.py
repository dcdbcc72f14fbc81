"""OR-Bench: 80,359 harmless prompts that look harmful, the 1,319 hardest, and 655 harmful ones (arXiv 2405.20947).

Which config is harmless: microsoft/PyRIT:pyrit/datasets/seed_datasets/remote/or_bench_dataset.py.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import columns, files, kinds
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed

ROWS_OF_80K = 1000
"""Number of prompts drawn from the 80k part if `n_rows` is not given: about as many as the hard part has."""


@dataclass(kw_only=True)
class OrBench(Dataset):
    """Harmless prompts of ten categories that models tend to refuse, and harmful prompts for contrast.

    The hard prompts were selected from the 80k: of the 81,678 rows of both, 80,360 are different. Report one of the
    two.
    """

    kind_field: ClassVar[str] = "part"

    path: str = "bench-llm/or-bench"
    """A Hub id with the configs or-bench-80k, or-bench-hard-1k and or-bench-toxic, or a local .csv file of one of
    them."""
    part: Literal["80k", "hard-1k", "toxic"] = "hard-1k"
    """`hard-1k`: the 1,319 prompts that strong models refuse. `80k`: the 80,359 prompts that they come from.
    `toxic`: the 655 harmful prompts."""
    columns: dict[str, str] | None = None
    """Column names of the file, if they differ: {prompt: Behavior, category: SemanticCategory}."""
    n_rows: Count | None = None
    """Number of rows to draw, in proportion from each category. Left out: 1,000 of the 80k, all of the other parts."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    @property
    def label(self) -> str:
        """The name of the config, which tells the parts apart."""
        return f"or-bench-{self.part}"

    def rows_kind(self) -> Kind:
        """The kind of the part's rows."""
        return "harmful" if self.part == "toxic" else "benign"

    def rows(self) -> list[Row]:
        """The prompts of the part, each with its category."""
        named = re.search(r"or-bench-(80k|hard-1k|toxic)", Path(self.path).name)
        if named and named.group(1) != self.part:
            raise DataError(f"{self.path} is not {self.label}: set `part: {named.group(1)}`, or name another file.")
        records = files.read_columns(
            self.path,
            {"prompt": ("prompt",), "category": ("category",)},
            config=self.label,
            given=columns.renamed(self.columns),
            instead=f"its repository's {self.label}.csv",
        )
        self.notes = kinds.check(self.path, records, "harmful" if self.part == "toxic" else "benign")
        rows = [
            ask(
                value["prompt"],
                kind="harmful" if self.part == "toxic" else "benign",
                category=value["category"],
                source=source,
            )
            for _, source, value in records
        ]
        n_rows = self.n_rows
        if n_rows is None and self.part == "80k":
            n_rows = min(ROWS_OF_80K, len(rows))
        return by_category(rows, n_rows, self.seed, f"{self.path}, part {self.part}", self.most_rows)


def by_category(
    rows: Sequence[Row], n_rows: int | None, seed: int, what: str, most_rows: int | None = None
) -> list[Row]:
    """`n_rows` of the rows in their own order, of each category its share to within one row.

    Each category is shuffled by itself, and row k of its m stands at (k + ½) / m; the first `n_rows` by that place are
    drawn. So the sample's rate estimates the whole set's, and a larger sample of a seed holds the smaller one.
    `n_rows` and `most_rows` as in `files.how_many`.
    """
    n = files.how_many(len(rows), n_rows, what, most_rows)
    members: dict[str, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        members[row.category].append(i)
    places: list[tuple[float, int]] = []
    for category, indices in members.items():
        random.Random(f"{category} {seed}").shuffle(indices)
        places += [((k + 0.5) / len(indices), i) for k, i in enumerate(indices)]
    return [rows[i] for i in sorted(i for _, i in sorted(places)[:n])]
