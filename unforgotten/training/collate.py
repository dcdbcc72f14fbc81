"""Encoded rows -> a padded batch that still knows its rows.

B rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""The label that cross-entropy skips."""


@dataclass(frozen=True)
class Collator:
    """Pads on the right; `row_id` says which row of the data each line is (stored states are found by it)."""

    pad_id: int

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, fill: int) -> Tensor:
            return torch.tensor([list(row[name]) + [fill] * (longest - len(row[name])) for row in rows])

        batch = {
            "input_ids": padded("input_ids", self.pad_id),  # (B, T)
            "attention_mask": torch.tensor(
                [[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows]
            ),  # (B, T)
        }
        if any(row.get("labels") is not None for row in rows):  # rows that are only predicted on have none
            batch["labels"] = padded("labels", IGNORED)  # (B, T)
        if all("row_id" in row for row in rows):
            batch["row_id"] = torch.tensor([row["row_id"] for row in rows])  # (B,)
        return batch


def predicts(labels: Tensor) -> Tensor:
    """Which positions predict a token of the loss: t where labels[t + 1] counts; the prompt's last one is among them.

    labels: (B, T) with -100 outside the loss. Returns (B, T) booleans, the last column False.
    """
    mask = torch.zeros_like(labels, dtype=torch.bool)
    mask[:, :-1] = labels[:, 1:] != IGNORED
    return mask


def response_tokens(row: dict[str, Any]) -> int:
    """Number of tokens of one encoded row that the loss counts (the first position predicts nothing)."""
    return sum(label != IGNORED for label in row["labels"][1:])


def pad_token(processing_class: Any, model: Any) -> int:
    """The id that fills short rows; masked everywhere, so any id will do where a tokenizer has no pad token."""
    for owner in (processing_class, model.config):
        token = getattr(owner, "pad_token_id", None)
        if isinstance(token, int) and token >= 0:
            return token
    return 0
