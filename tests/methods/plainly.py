"""Losses of a model written out, for tests: transformers' own loss rounds its logits to float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def row_nll(model: Any, row: dict[str, Any]) -> Tensor:
    """Σ over one row's response tokens of −log p, from a forward of that row alone."""
    logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
    logp = torch.log_softmax(logits, -1)
    return -sum(
        (logp[t - 1, label] for t, label in enumerate(row["labels"]) if t and label != -100), start=logp.sum() * 0
    )


def tokens(row: dict[str, Any]) -> int:
    """Response tokens of one row."""
    return sum(label != -100 for label in row["labels"][1:])
