"""Replay safety prompts and hold their logits at the aligned model's. [DER, arXiv 2004.07211; 2512.10150 §4.1]

The memory stores the aligned model's last hidden states h′ (d numbers a token), not its logits (V numbers): with a
frozen head W, ‖Wh − Wh′‖² = (h − h′)ᵀ(WᵀW)(h − h′), so the d×d Gram matrix replaces every product with the vocabulary.
A head that is trained, or logits that are soft-capped (Gemma 2), take a path through logits, a few tokens at a time.

Normalisation. λ multiplies the mean over response tokens *and* vocabulary, as in mammoth (models/der.py) and Avalanche
(training/supervised/der.py). 2512.10150 prints ‖·‖², a sum over both, averaged over rows: its λ is ours / (V·T), with T
the mean response length; `equivalents` prints it. 2512.10150 states no value of λ.

N response tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from unforgotten.methods.base import MOST_REPLAY, AutoWeight, Weight, first_weights

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import RowBatch, Run, Term


def gram_distance(h: Tensor, stored: Tensor, gram: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ over tokens of ‖W(h − h′)‖², from the Gram matrix WᵀW.

    h, stored: (N, d); gram: (d, d); weights: (N,), None for ones. Returns a scalar in the precision of `gram`.
    """
    gap = h.to(gram.dtype) - stored.to(gram.dtype)  # (N, d)
    product = (gap @ gram) * gap
    return product.sum() if weights is None else (product.sum(1) * weights.to(gram.dtype)).sum()


def logit_distance(
    h: Tensor,
    stored: Tensor,
    logits: Callable[[Tensor], Tensor],
    target: Callable[[Tensor], Tensor],
    chunk_tokens: int,
    weights: Tensor | None = None,
) -> Tensor:
    """Σ over tokens of ‖f(h) − f′(h′)‖² through the logits, no more than `chunk_tokens` × V of them alive at once.

    h, stored: (N, d); logits, target: (n, d) -> (n, V), made again in the backward; weights: (N,), None for ones.
    """
    from torch.utils.checkpoint import checkpoint

    def part(some: Tensor, some_kept: Tensor, some_weights: Tensor | None) -> Tensor:
        square = (logits(some) - target(some_kept)).square()
        return square.sum() if some_weights is None else (square.sum(1) * some_weights).sum()

    total = h.sum() * 0.0
    for at in range(0, len(h), chunk_tokens):
        some = slice(at, at + chunk_tokens)
        share = None if weights is None else weights[some]
        total = total + checkpoint(part, h[some], stored[some], share, use_reentrant=False)
    return total


def equivalents(weight: float, vocabulary: int, mean_tokens: float) -> dict[str, float]:
    """The same strength in other conventions."""
    return {
        "mean over tokens and vocabulary (mammoth, Avalanche, here)": weight,
        "sum over the vocabulary, mean over tokens": weight / vocabulary,
        "sum over both, mean over rows (2512.10150 as printed)": weight / (vocabulary * mean_tokens),
    }


@dataclass(kw_only=True)
class DER(AutoWeight):
    """Dark Experience Replay: keep the aligned model's logits on safety prompts. [arXiv 2004.07211, 2512.10150]"""

    family: ClassVar[str] = "memory"
    later: ClassVar[tuple[str, ...]] = ("first_weight", "first")
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30}
    cost: ClassVar[float] = 2.0

    weight: Weight = 1.0
    """λ, the weight of the mean squared difference of logits over response tokens and vocabulary. With 0 the method
    is SFT at no extra cost. `auto` holds the drift on held-out rows at `hold`."""
    replay: Annotated[float, Gt(0), Le(MOST_REPLAY)] = 1.0
    """Memory rows per user row in each step. With 1.0 the replay batch is as large as the user batch, as in mammoth."""
    chunk_tokens: Annotated[int, Gt(0)] = 64
    """Number of tokens whose logits are in memory at once, if the head is trained or soft-capped."""
    first_weight: Annotated[float, Ge(0)] = 1.0
    """Factor of the first `first` tokens of each answer, in which a refusal is decided. 1 is DER. For studies; ours,
    after 2406.05946."""
    first: Annotated[int, Gt(0)] = 4
    """Number of tokens at the start of each answer that `first_weight` multiplies."""

    def start(self, run: Run) -> None:
        super().start(run)
        if self.weight == 0:
            return
        self._head = run.weights.head()
        self._gram = self._head.gram() if self._head.linear else None
        run.memory.store_states()
        if self.weight == "auto":
            return
        tokens = run.memory.tokens / len(run.memory.rows)
        for convention, value in equivalents(self.weight, self._head.vocabulary, tokens).items():
            run.note(f"der weight, {convention}: {value:.3g}")

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        if self.present_weight(run) == 0:
            return None
        rows = run.memory.draw(self._n(run))
        return self._distance(run, rows, run.weights.states(rows))

    def _n(self, run: Run) -> int:
        """Memory rows of this step."""
        return max(1, round(self.replay * run.user.step_rows))

    def _distance(self, run: Run, rows: RowBatch, h: Tensor) -> Term:
        """λ ‖z − z′‖² of these rows, summed, with its count; h: (N, d), of the model in training."""
        stored = run.memory.stored_states(rows)  # (N, d)
        head, chunk = self._head, self.chunk_tokens
        weights = None if self.first_weight == 1 else first_weights(rows.predicts, self.first, self.first_weight)
        if self._gram is not None:
            total = gram_distance(h, stored, self._gram, weights)
        elif head.closed:
            total = head.distance(h, stored, chunk, weights)
        else:
            total = logit_distance(h, stored, head.logits, head.aligned_logits, chunk, weights)
        return self.present_weight(run) * total, run.memory.drawn_tokens(self._n(run)) * self._head.vocabulary
