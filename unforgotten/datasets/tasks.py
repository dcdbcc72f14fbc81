"""Everyday tasks of our own: 390 harmless instructions with a short text, so that alignment keeps such tasks answered.

A model aligned on refusals, look-alikes and questions alone took every imperative with a text below for a request to
refuse: SmolLM2 refused 177 of 200 prompts of SST-2. No prompt has an answer: the model answers it itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import files
from unforgotten.registry import Count, Seed

FILE = Path(__file__).with_name("tasks.jsonl")


@dataclass(kw_only=True)
class Tasks(Dataset):
    """Harmless instructions of 11 categories, each with a short text, without answers; they ship with the package."""

    n_rows: Count | None = None
    """Number of prompts to draw, in their order. Left out, all 390 are used."""
    seed: Seed = 0
    """Random seed that chooses the prompts for `n_rows`."""

    def rows_kind(self) -> Kind:
        """Always harmless."""
        return "benign"

    def rows(self) -> list[Row]:
        """The prompts in the file's order, each with its category."""
        names = {name: (name,) for name in ("prompt", "category")}
        rows = [
            ask(r.value["prompt"], kind="benign", category=r.value["category"], source=f"{FILE.name}:{r.line}")
            for r in files.read_columns(str(FILE), names)
        ]
        return files.sample(rows, self.n_rows, self.seed, "tasks", self.most_rows)
