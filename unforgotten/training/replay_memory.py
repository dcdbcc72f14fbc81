"""The memory: the m safety rows kept for replay, and which of them each step draws.

Rows are a function of (seed, stream, step), never of an iterator: the split into micro-batches, the number of ranks
and a resume then agree without a cursor.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Le

from unforgotten.errors import RecipeError
from unforgotten.methods.base import EncodedRow, RowBatch
from unforgotten.registry import Component, Count
from unforgotten.training import held_out_rows
from unforgotten.training.collate import IGNORED, Collator, predicts, response_tokens
from unforgotten.training.held_out_rows import Split

Choose = Callable[[Sequence[int], int], list[int]]
"""`choose(places, n)`: n of these places in the safety data."""


@dataclass(kw_only=True)
class Memory(Component):
    """How many safety rows are kept for replay, and in which mix."""

    n_rows: Count | None = None
    """Number of rows kept. None: `share` of the user rows and at least `at_least`, if the safety data has that many."""
    share: Annotated[float, Ge(0)] = 0.05
    """Rows kept, as a share of the number of user rows. [arXiv 2512.10150: m = 5 %]"""
    at_least: Count = 100
    """Least number of rows kept, if the safety data has that many. Our choice: 5 % of a small upload is too few to
    replay."""
    refusals: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of refusals among the rows kept; the rest are answered look-alikes. None keeps the data's own mix."""
    choose: Literal["random", "relevance"] = "random"
    """`random`: by the seed. `relevance`: rows near to the user's prompts and unlike each other, under θ_safe, kind by
    kind. [SPARD, arXiv 2605.28030]"""
    relevance_power: Annotated[float, Ge(0)] = 4.0
    """β: how much relevance counts beside diversity. [SPARD: 4]"""
    held_out: Annotated[float, Ge(0), Le(0.5)] | None = None
    """Safety rows that are never trained on, as a share of the rows kept and beside them; they measure how far the
    model moves from θ_safe. None: 0, or what a method needs (0.2 for `weight: auto`)."""
    held_out_rows: Annotated[int, Gt(1)] = 32
    """Most held-out rows of one measurement during training; the last one takes all of them."""
    held_out_every_steps: Count | None = None
    """Optimizer steps between two measurements. None: a twentieth of the run for `weight: auto`; else they are at step
    0 and at the end."""

    def split(
        self,
        safety: Sequence[EncodedRow],
        user: Sequence[EncodedRow],
        seed: int,
        needed: float = 0.0,
        choose: Choose | None = None,
    ) -> Split:
        """The rows that are replayed and those held out, as places in the safety data.

        needed: the share that methods need. choose: by what rows are chosen; None is by the seed alone. Raises
        RecipeError where less is set.
        """
        share = needed if self.held_out is None else self.held_out
        if share < needed:
            raise RecipeError(
                f"memory.held_out is {share:g}, but `weight: auto` measures on held-out rows and needs {needed:g} at "
                "least. Raise it, or leave it out."
            )
        replay = self._places(safety, len(user), seed, choose)
        if not share:
            return Split(replay, [])
        parts = held_out_rows.split(safety, replay, user, share, seed)
        if not parts.held_out:
            raise RecipeError(
                f"{len(replay)} safety rows are too few to hold some out for measuring: of refusals or of look-alikes "
                "two are needed. Give more safety rows, or raise memory.n_rows."
            )
        return parts

    def replayed(self, safety: Sequence[EncodedRow], n_user_rows: int, seed: int) -> list[EncodedRow]:
        """The rows kept, in a fixed order; a row's `kind` tells refusals ("harmful") from look-alikes."""
        return numbered(safety, self._places(safety, n_user_rows, seed))

    def _places(
        self, safety: Sequence[EncodedRow], n_user_rows: int, seed: int, choose: Choose | None = None
    ) -> list[int]:
        wanted = self.n_rows if self.n_rows is not None else max(round(self.share * n_user_rows), self.at_least)
        rng = random.Random(f"memory {seed}")
        if self.n_rows is not None and wanted > len(safety):
            raise RecipeError(
                f"memory.n_rows is {wanted}, but the safety data has {len(safety)} rows. Lower it, or give more rows."
            )
        wanted = min(wanted, len(safety))
        if self.refusals is None and choose is None:
            return sorted(rng.sample(range(len(safety)), wanted))
        refusals = [i for i, row in enumerate(safety) if row.get("kind") == "harmful"]
        others = [i for i, row in enumerate(safety) if row.get("kind") != "harmful"]
        share = len(refusals) / len(safety) if self.refusals is None else self.refusals  # None: the data's own mix
        n_refusals = round(share * wanted)
        if n_refusals > len(refusals) or wanted - n_refusals > len(others):
            raise RecipeError(
                f"memory.refusals = {self.refusals} of {wanted} rows needs {n_refusals} refusals and "
                f"{wanted - n_refusals} look-alikes. The safety data has {len(refusals)} and {len(others)}."
            )
        choose = choose or (lambda places, n: rng.sample(places, n))
        parts = ((refusals, n_refusals), (others, wanted - n_refusals))
        return sorted(i for places, n in parts if n for i in choose(places, n))


def numbered(safety: Sequence[EncodedRow], places: Sequence[int]) -> list[EncodedRow]:
    """The rows at these places; `row_id` is each one's place in the result."""
    return [{**safety[i], "row_id": at} for at, i in enumerate(places)]


def seed_of(*facts: Any) -> int:
    """A 63-bit seed from anything printable: the same on every rank, in every process."""
    return int.from_bytes(hashlib.sha256(repr(facts).encode()).digest()[:8], "big") >> 1


def draw(n_memory: int, n: int, *facts: Any) -> list[int]:
    """n row numbers for one step: without replacement while the memory lasts, then from a new shuffle."""
    generator = torch.Generator().manual_seed(seed_of("draw", *facts))
    rows: list[int] = []
    while len(rows) < n:
        rows += torch.randperm(n_memory, generator=generator).tolist()
    return rows[:n]


def deal(rows: list[int], slot: int, slots: int) -> list[int]:
    """The rows of one of `slots` equal shares, in order; shares differ by one row at most."""
    return rows[len(rows) * slot // slots : len(rows) * (slot + 1) // slots]


def as_batch(rows: Sequence[EncodedRow], places: Sequence[int], collator: Collator, device: Any) -> RowBatch:
    """The rows at these places as a batch.

    No row at all becomes one row without loss: every rank must run the same forwards.
    """
    chosen = [rows[i] for i in places] or [{**rows[0], "labels": [IGNORED] * len(rows[0]["labels"])}]
    batch = collator(chosen)
    mask = predicts(batch["labels"])  # (B, T), on the host
    labels = batch["labels"].to(device)
    return RowBatch(
        inputs={name: batch[name].to(device) for name in ("input_ids", "attention_mask")},
        labels=labels,
        predicts=predicts(labels),
        row_ids=[row["row_id"] for row in chosen],
        at=mask.flatten().nonzero()[:, 0].to(device),
        counts=tuple(mask.sum(1).tolist()),
    )


def as_prompts(rows: Sequence[EncodedRow], places: Sequence[int], collator: Collator, device: Any) -> RowBatch:
    """The rows at these places, cut before their first token in the loss; `predicts` marks the last token left.

    No row at all becomes one prompt with nothing marked: every rank must run the same forwards.
    """
    chosen = [rows[i] for i in places]
    batch = collator([prompt_of(row) for row in chosen or rows[:1]])
    last = batch["attention_mask"].sum(1, keepdim=True) - 1  # (B, 1)
    mask = torch.zeros_like(batch["labels"], dtype=torch.bool)  # (B, T)
    if chosen:
        mask.scatter_(1, last, True)
    return RowBatch(
        inputs={name: batch[name].to(device) for name in ("input_ids", "attention_mask")},
        labels=batch["labels"].to(device),
        predicts=mask.to(device),
        row_ids=[row["row_id"] for row in chosen],
        at=mask.flatten().nonzero()[:, 0].to(device),
        counts=(1,) * len(chosen),
    )


def prompt_of(row: EncodedRow) -> EncodedRow:
    """A row up to its first token in the loss; without loss. Of a row without any, all but the last token."""
    end = next((t for t, label in enumerate(row["labels"]) if t and label != IGNORED), max(1, len(row["labels"]) - 1))
    return {**row, "input_ids": list(row["input_ids"][:end]), "labels": [IGNORED] * end}


def tokens_of(rows: Sequence[EncodedRow], places: Sequence[int]) -> int:
    """Response tokens in the rows at these places."""
    return sum(response_tokens(rows[i]) for i in places)
