"""MedSafetyBench: harmful medical requests with safe responses (arXiv 2403.03744)."""

from __future__ import annotations

from dataclasses import dataclass

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import files, kinds
from unforgotten.registry import Count, Seed


@dataclass(kw_only=True)
class Medsafetybench(Dataset):
    """Harmful medical requests, each with a response that declines or cautions."""

    path: str
    """A file of the repository AI4LIFE-GROUP/med-safety-bench (ft_safety_med_n*.json or a test .csv), or a copy on
    the Hub."""
    split: str = "test"
    """The Hub split. It is not used for a local file."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    def rows_kind(self) -> Kind:
        """Always harmful."""
        return "harmful"

    def rows(self) -> list[Row]:
        """Each request with its safe response."""
        # The test files speak of requests and safe responses, the files for fine-tuning are Alpaca rows.
        columns = {"request": ("harmful_medical_request", "instruction"), "response": ("safe_response", "output")}
        records = files.read_columns(self.path, columns, split=self.split)
        self.notes = kinds.check(self.path, records, "harmful", answered=True)
        rows = [
            ask(
                value["request"],
                value["response"],
                kind="harmful",
                category=str(value.get("category") or ""),
                source=source,
            )
            for _, source, value in records
        ]
        return files.sample(rows, self.n_rows, self.seed, self.path, self.most_rows)
