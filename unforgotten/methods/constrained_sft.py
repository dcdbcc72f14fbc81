"""Weigh each token of the answer, so that the first ones hardly move. [Constrained SFT, arXiv 2406.05946]

    L = Σ_t −(2/β_t) log σ(β_t log(π_θ/π_safe)(y_t)),  whose gradient is cross-entropy weighted by
    w_t = 2 (1 − σ(β_t log(π_θ/π_safe)(y_t)))

w is 1 where the model still agrees with θ_safe and falls as a token becomes likelier than θ_safe had it: the larger
β_t, the sooner that token stops learning. As in Unispac/shallow-vs-deep-alignment (finetuning_buckets/trainer/
trainer.py), w is detached and at least 1e-3, β = 0.1, five times that on the first token and twenty times on the next
four, and the mean is over tokens, not rows. θ_safe's log-probabilities are stored before the first step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from unforgotten.methods.base import Method, ranks_in_turn

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run, Term


MOST = 1_000_000
"""Of β and its factors: their product stays finite, since ∞ · 0 is no weight."""


def token_weights(logp: Tensor, aligned_logp: Tensor, beta: Tensor) -> Tensor:
    """w = 2 (1 − σ(β (log π_θ − log π_safe))), at least 1e-3. All (N,)."""
    return (2 * (1 - (beta * (logp - aligned_logp)).sigmoid())).clamp_min(1e-3)


@dataclass(kw_only=True)
class ConstrainedSFT(Method):
    """Constrained SFT: weight each answer token's loss so that the first tokens hardly change. [arXiv 2406.05946]"""

    family: ClassVar[str] = "tokens"
    neutral: ClassVar[dict[str, Any]] = {"beta": 0.0}
    needs_safety: ClassVar[bool] = False
    reads_forward: ClassVar[bool] = True

    beta: Annotated[float, Ge(0), Le(MOST)] = 0.1
    """β of the tokens after `early_tokens`. With 0 the method is SFT for all tokens."""
    first_factor: Annotated[float, Ge(0), Le(MOST)] = 5.0
    """β of each answer's first token, as a multiple of `beta`."""
    early_factor: Annotated[float, Ge(0), Le(MOST)] = 20.0
    """β of the second token up to token `early_tokens`, as a multiple of `beta`."""
    early_tokens: Annotated[int, Ge(1)] = 5
    """Number of tokens at the start of each answer that get a larger β, including the first."""

    def start(self, run: Run) -> None:
        if self.beta:
            run.user.store("logp", run.weights.logp_of)

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        """(w − 1) · (−log π_θ), summed: added to cross-entropy it makes it the weighted one, over the same tokens."""
        if not self.beta:
            return None
        known = (batch["row_id"] >= 0)[:, None] & run.user.predicts(batch)  # (B, T)
        taken = known[run.user.predicts(batch)]  # (N,)
        logp = run.user.token_logp(batch, out)[taken]
        aligned_logp = run.user.stored("logp", batch["row_id"][batch["row_id"] >= 0]).to(logp.dtype)
        w = token_weights(logp.detach(), aligned_logp, self._betas(ranks_in_turn(known)).to(logp.dtype))
        run.log(token_weight=w.mean() if len(w) else 1.0)
        return ((1 - w) * logp).sum(), run.user.step_tokens

    def _betas(self, rank: Tensor) -> Tensor:
        import torch

        beta = torch.full(rank.shape, self.beta, dtype=torch.float64, device=rank.device)
        beta[rank < self.early_tokens] = self.beta * self.early_factor
        beta[rank == 0] = self.beta * self.first_factor
        return beta
