"""XSTest: 250 harmless requests that look harmful, and 200 harmful ones beside them (arXiv 2308.01263)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import columns, files
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed


@dataclass(kw_only=True)
class Xstest(Dataset):
    """Harmless look-alikes of harmful requests, to measure over-refusal."""

    kind_field: ClassVar[str] = "part"
    published: ClassVar[Mapping[str, str]] = {"train": "xstest/xstest_prompts.csv"}

    path: str = "Paul/XSTest"
    """A Hub id, or the local xstest_prompts.csv."""
    split: str = "train"
    """The Hub split. The gated copy walledai/XSTest calls it test."""
    part: Literal["safe", "unsafe"] = "safe"
    """`safe`: the 250 harmless look-alikes. `unsafe`: the 200 harmful contrasts."""
    columns: dict[str, str] | None = None
    """Column names of the file, if they differ: {prompt: Behavior, category: SemanticCategory}."""
    n_rows: Count | None = None
    """Number of rows of the part to draw, in their order. Left out, all are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    @property
    def label(self) -> str:
        """xstest for the look-alikes, which the name stands for everywhere; the contrasts say so."""
        return "xstest" if self.part == "safe" else "xstest-unsafe"

    def rows_kind(self) -> Kind:
        """The kind of the part's rows."""
        return _KIND[self.part]

    def rows(self) -> list[Row]:
        """The prompts of the part, each with its type as category."""
        names = {"prompt": ("prompt",), "type": ("type",), "label": ("label",)}
        given = columns.renamed(self.columns, category="type", label="label")
        records = files.read_columns(self.reads_from, names, split=self.split, given=given)
        strange = [(r.line, f"label {r.value['label']!r} is neither safe nor unsafe") for r in records]
        if strange := [s for s, r in zip(strange, records, strict=True) if r.value["label"] not in _KIND]:
            raise DataError(f"{self.reads_from} is not XSTest:", strange)
        rows = [
            ask(value["prompt"], kind=_KIND[self.part], category=value["type"], source=source)
            for _, source, value in records
            if value["label"] == self.part
        ]
        return files.sample(rows, self.n_rows, self.seed, f"{self.reads_from}, part {self.part}", self.most_rows)


_KIND: dict[str, Literal["benign", "harmful"]] = {"safe": "benign", "unsafe": "harmful"}
