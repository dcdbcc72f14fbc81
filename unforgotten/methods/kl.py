"""Hold what the aligned model says on replayed answers: KL to it, in nats per token. [arXiv 1503.02531]

    L = CE(user) + λ · mean over response tokens of KL(p_θsafe ‖ p_θ)

DER's replay (2512.10150 §4.1) with distillation's loss in place of squared logits, at temperature 1: what θ_safe finds
likely counts, however large this model's logits are, so that λ is in the unit of the cross-entropy beside it. The
memory stores θ_safe's last hidden states; logits are made again, `chunk_tokens` × V at a time. There is no Gram matrix
for it, so that its cost grows with the vocabulary.

Near θ_safe the divergence is of second order, and its gradient exactly 0 at θ_safe: it holds the model where it is
going, not where it stands. `kl/nats` in the log is the divergence itself, without λ and `first_weight`.
N response tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from unforgotten.methods.base import MOST_REPLAY, AutoWeight, Weight, first_weights

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run, Term


@dataclass(kw_only=True)
class KL(AutoWeight):
    """Replay safety prompts and keep the aligned model's probabilities: KL in nats per token. [arXiv 1503.02531]"""

    family: ClassVar[str] = "memory"
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30}
    cost: ClassVar[float] = 2.0

    weight: Weight = 1.0
    """λ, the weight of the mean KL in nats per response token. With 0 the method is SFT at no extra cost. The default
    is ours: as much as the user's cross-entropy. `auto` holds the drift on held-out rows at `hold`."""
    replay: Annotated[float, Gt(0), Le(MOST_REPLAY)] = 1.0
    """Memory rows per user row in each step, as DER's. [mammoth]"""
    chunk_tokens: Annotated[int, Gt(0)] = 64
    """Number of tokens whose logits are in memory at once. Ours; about five buffers of this many rows are alive."""
    first_weight: Annotated[float, Ge(0)] = 1.0
    """Factor of the first `first` tokens of each answer, in which a refusal is decided. For studies; ours, after
    2406.05946."""
    first: Annotated[int, Gt(0)] = 4
    """Number of tokens at the start of each answer that `first_weight` multiplies."""

    def start(self, run: Run) -> None:
        super().start(run)
        if self.weight:
            self._head = run.weights.head()
            run.memory.store_states()

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        if (weight := self.present_weight(run)) == 0:
            return None
        n = max(1, round(self.replay * run.user.step_rows))
        rows = run.memory.draw(n)
        nats = self._head.kl(run.weights.states(rows), run.memory.stored_states(rows), self.chunk_tokens)  # (N,)
        if len(nats):
            run.log(nats=nats.mean())
        if self.first_weight != 1:
            nats = nats * first_weights(rows.predicts, self.first, self.first_weight).to(nats.dtype)
        return weight * nats.sum(), run.memory.drawn_tokens(n)
