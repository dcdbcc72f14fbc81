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

from annotated_types import Ge, Gt

from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import RowBatch, Run, Term


def gram_distance(h: Tensor, stored: Tensor, gram: Tensor) -> Tensor:
    """Σ over tokens of ‖W(h − h′)‖², from the Gram matrix WᵀW.

    h, stored: (N, d); gram: (d, d). Returns a scalar in the precision of `gram`.
    """
    gap = h.to(gram.dtype) - stored.to(gram.dtype)  # (N, d)
    return ((gap @ gram) * gap).sum()


def logit_distance(
    h: Tensor,
    stored: Tensor,
    logits: Callable[[Tensor], Tensor],
    target: Callable[[Tensor], Tensor],
    chunk_tokens: int,
) -> Tensor:
    """Σ over tokens of ‖f(h) − f′(h′)‖² through the logits, no more than `chunk_tokens` × V of them alive at once.

    h, stored: (N, d); logits, target: (n, d) -> (n, V), made again in the backward.
    """
    from torch.utils.checkpoint import checkpoint

    def part(some: Tensor, some_kept: Tensor) -> Tensor:
        return (logits(some) - target(some_kept)).square().sum()

    total = h.sum() * 0.0
    for some, some_kept in zip(h.split(chunk_tokens), stored.split(chunk_tokens), strict=True):
        total = total + checkpoint(part, some, some_kept, use_reentrant=False)
    return total


def equivalents(weight: float, vocabulary: int, mean_tokens: float) -> dict[str, float]:
    """The same strength in other conventions."""
    return {
        "mean over tokens and vocabulary (mammoth, Avalanche, here)": weight,
        "sum over the vocabulary, mean over tokens": weight / vocabulary,
        "sum over both, mean over rows (2512.10150 as printed)": weight / (vocabulary * mean_tokens),
    }


@dataclass(kw_only=True)
class DER(Method):
    """Dark Experience Replay: keep the aligned model's logits on safety prompts. [arXiv 2004.07211, 2512.10150]"""

    family: ClassVar[str] = "memory"
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30}
    cost: ClassVar[float] = 2.0

    weight: Annotated[float, Ge(0)] = 1.0
    """λ, the weight of the mean squared difference of logits over response tokens and vocabulary. With 0 the method
    is SFT at no extra cost."""
    replay: Annotated[float, Gt(0)] = 1.0
    """Memory rows per user row in each step. With 1.0 the replay batch is as large as the user batch, as in mammoth."""
    chunk_tokens: Annotated[int, Gt(0)] = 64
    """Number of tokens whose logits are in memory at once, if the head is trained or soft-capped."""

    def start(self, run: Run) -> None:
        if self.weight == 0:
            return
        self._head = run.weights.head()
        self._gram = self._head.gram() if self._head.linear else None
        run.memory.store_states()
        tokens = run.memory.tokens / len(run.memory.rows)
        for convention, value in equivalents(self.weight, self._head.vocabulary, tokens).items():
            run.note(f"der weight, {convention}: {value:.3g}")

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        if self.weight == 0:
            return None
        rows = run.memory.draw(self._n(run))
        return self._distance(run, rows, run.weights.states(rows))

    def _n(self, run: Run) -> int:
        """Memory rows of this step."""
        return max(1, round(self.replay * run.user.step_rows))

    def _distance(self, run: Run, rows: RowBatch, h: Tensor) -> Term:
        """λ ‖z − z′‖² of these rows, summed, with its count; h: (N, d), of the model in training."""
        stored = run.memory.stored_states(rows)  # (N, d)
        head = self._head
        if self._gram is not None:
            total = gram_distance(h, stored, self._gram)
        elif head.closed:
            total = head.distance(h, stored, self.chunk_tokens)
        else:
            total = logit_distance(h, stored, head.logits, head.aligned_logits, self.chunk_tokens)
        return self.weight * total, run.memory.drawn_tokens(self._n(run)) * self._head.vocabulary
