"""DirectHarm4: 400 direct harmful requests, to be refused, 100 of each of 4 kinds (arXiv 2402.18540).

Columns and counts as on its card; the set is used so in vfleaking/PTST:README.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import columns, files, kinds
from unforgotten.registry import Count, Seed


@dataclass(kw_only=True)
class Directharm4(Dataset):
    """Direct harmful requests of four kinds: malware, drugs, phishing, disinformation; 100 of each."""

    path: str = "vfleaking/DirectHarm4"
    """A Hub id, or a local file with instruction and category, such as its repository's
    data/test-00000-of-00001.parquet."""
    split: str = "test"
    """The Hub split; there is only this one. It is not used for a local file."""
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
        """The requests alone, each with its kind as category."""
        records = files.read_columns(
            self.path,
            {"instruction": ("instruction",), "category": ("category",)},
            split=self.split,
            given=columns.renamed(self.columns, prompt="instruction"),
            instead="its repository's data/test-00000-of-00001.parquet",
        )
        self.notes = kinds.check(self.path, records, "harmful", split="" if files.local(self.path) else self.split)
        rows = [
            ask(value["instruction"], kind="harmful", category=value["category"], source=source)
            for _, source, value in records
        ]
        return files.sample(rows, self.n_rows, self.seed, self.path, self.most_rows)
