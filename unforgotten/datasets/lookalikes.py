"""Look-alikes of our own: 412 harmless prompts that look harmful, by XSTest's idea (arXiv 2308.01263), none of it.

They are for alignment and for memory, so that XSTest stays a test: `tests/datasets/test_lookalikes.py` compares each
prompt with XSTest's 450 and AdvBench's 520. No prompt has an answer: the aligned model answers it itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import files
from unforgotten.registry import Count, Seed

FILE = Path(__file__).with_name("lookalikes.jsonl")


@dataclass(kw_only=True)
class Lookalikes(Dataset):
    """Harmless prompts that look harmful, of 17 categories, without answers; they ship with the package."""

    part: Literal["train", "dev"] = "train"
    """`train`: 345 prompts for alignment and memory. `dev`: 67 for choosing settings. The parts share no run of four
    words."""
    n_rows: Count | None = None
    """Number of prompts of the part to draw, in their order. Left out, all are used."""
    seed: Seed = 0
    """Random seed that chooses the prompts for `n_rows`."""

    @property
    def label(self) -> str:
        """lookalikes for the training part; the development part says so."""
        return "lookalikes" if self.part == "train" else "lookalikes-dev"

    def rows_kind(self) -> Kind:
        """Always harmless look-alikes."""
        return "benign"

    def rows(self) -> list[Row]:
        """The prompts of the part, in the file's order, each with its category."""
        names = {name: (name,) for name in ("prompt", "category", "part")}
        rows = [
            ask(r.value["prompt"], kind="benign", category=r.value["category"], source=f"{FILE.name}:{r.line}")
            for r in files.read_columns(str(FILE), names)
            if r.value["part"] == self.part
        ]
        return files.sample(rows, self.n_rows, self.seed, f"lookalikes, part {self.part}", self.most_rows)
