"""The opponents, each written the way that peers do it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unforgotten.methods.der import DER

if TYPE_CHECKING:
    from unforgotten.methods.base import Term
    from unforgotten.training.run import TrainingRun


@dataclass(kw_only=True)
class StoredLogits(DER):
    """DER with θ_safe's logits in the memory and a second forward through the whole head (mammoth, Avalanche).

    The whole output is stored and compared, the prompt's positions too, as there.
    """

    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}

    answers_alone: bool = False
    """Kinder than those: logits are stored and compared where they predict a token of the answer. DER's very loss."""

    def start(self, run: TrainingRun) -> None:
        def build(i: int) -> dict[str, Tensor]:
            rows = run.batch(run.memory.rows, [i])
            with run.weights.teacher() as model:
                logits = model(**rows.inputs, use_cache=False).logits  # (1, T, V)
            return {str(i): (logits[rows.predicts] if self.answers_alone else logits[0]).clone()}

        stored = run.once.shards("states", len(run.memory.rows), build)
        self.stored = {int(i): z.to(run.ranks.device) for i, z in stored.items()}

    def loss(self, run: TrainingRun, batch: dict[str, Tensor], out: Any) -> Term | None:
        rows = run.memory.draw(run.user.step_rows)
        logits = run.ranks.wrapped(**rows.inputs, use_cache=False).logits  # (B, T, V)
        logits = logits[rows.predicts] if self.answers_alone else logits.flatten(0, 1)  # (N, V); rows are of one length
        kept = torch.cat([self.stored[i] for i in rows.row_ids])  # (N, V)
        mean = torch.nn.functional.mse_loss(logits.float(), kept.float())
        return self.weight * mean, 1


def safelora_dense(aligned: Tensor, base: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, float]:
    """IBM/SafeLoRA, model.py: P = V Vᵀ / ‖V‖, d × d; returns P B and the cosine of P B A with B A."""
    v = aligned - base  # (d, d)
    p = v @ v.T / torch.norm(v)
    projected = p @ b  # (d, r)
    new, old = projected @ a, b @ a  # (d, d)
    return projected, float(torch.nn.functional.cosine_similarity(new.flatten(), old.flatten(), dim=0))
