"""All that a method imports: `Method`, its turns, and what a run offers in them. Not a method itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unforgotten.methods.base.auto_weight import AutoWeight, Weight
from unforgotten.methods.base.method import MODELS, MOST_REPLAY, TURNS, Method, Weights, needs, papers, turns
from unforgotten.methods.base.replies import AskedReplies, OwnReply, ReplySource
from unforgotten.methods.base.run import (
    AlignedHead,
    Drift,
    EncodedRow,
    MemoryRows,
    RowBatch,
    Run,
    TrainedWeights,
    UserBatches,
)
from unforgotten.methods.base.tensors import first_weights, overlap, ranks_in_turn, squared_gap

if TYPE_CHECKING:
    from unforgotten.methods.base.run import Term

__all__ = [
    "MODELS",
    "MOST_REPLAY",
    "TURNS",
    "AlignedHead",
    "AskedReplies",
    "AutoWeight",
    "Drift",
    "EncodedRow",
    "MemoryRows",
    "Method",
    "OwnReply",
    "ReplySource",
    "RowBatch",
    "Run",
    "Term",
    "TrainedWeights",
    "UserBatches",
    "Weight",
    "Weights",
    "first_weights",
    "needs",
    "overlap",
    "papers",
    "ranks_in_turn",
    "squared_gap",
    "turns",
]
