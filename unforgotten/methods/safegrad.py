"""Take the conflict with safety out of the user's gradient, and always add safety's own. [SafeGrad, arXiv 2508.07172]

    g_u ← g_u − (g_u·g_a / ‖g_a‖²) g_a    where g_u·g_a < 0
    g   = g_u + ρ · g_a

g_u is the user's gradient of the whole step, averaged over ranks and not yet clipped; g_a that of the mean
KL(p_θsafe ‖ p_θ) over the response tokens of memory rows drawn for the step, at temperature 1. All trained tensors are
*one* vector in the test of conflict. A-GEM has the first line alone, with cross-entropy on the memory.

The paper's code could not be had: rule and ρ are as SafeTune (Lexsi-Labs) states Algorithm 1. The size of its alignment
batch is not known; `replay` is A-GEM's. At θ_safe g_a is exactly 0, and what arithmetic leaves of it points anywhere:
a g_a of no more than rounding beside g_u is taken for no conflict. As with A-GEM, the promise is one of plain gradient
descent: AdamW steps elsewhere. `safegrad/projected` in the log is the share of steps in conflict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from unforgotten.methods.base import MOST_REPLAY, Method, overlap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from unforgotten.methods.base import Run, Term

ROUNDING = 100.0
"""‖g_a‖ / ‖g_u‖ in units of the gradients' rounding, up to which g_a has no direction."""


def conflict(dot: Tensor, safe_squared: Tensor, user_squared: Tensor, eps: float) -> Tensor:
    """How much of g_a to add so that g_u no longer opposes it: −g_u·g_a / ‖g_a‖² in conflict, else 0. Scalars.

    eps: the relative rounding of the gradients.
    """
    has_direction = safe_squared > (ROUNDING * eps) ** 2 * user_squared
    return -overlap(dot, safe_squared) * has_direction


@dataclass(kw_only=True)
class SafeGrad(Method):
    """SafeGrad: project the conflict out of the user's gradient, and add the gradient of KL. [arXiv 2508.07172]"""

    family: ClassVar[str] = "projection"
    neutral: ClassVar[dict[str, Any]] = {"rho": 0.0, "project": False}
    faint: ClassVar[dict[str, Any]] = {"rho": 1e-30, "project": False}
    cost: ClassVar[float] = 2.0

    rho: Annotated[float, Ge(0)] = 1.0
    """ρ, the factor of the safety gradient that each step adds. [2508.07172: 1]"""
    project: bool = True
    """Whether the part of the user's gradient against the safety gradient is taken out first. Without it and with
    `rho` 0 the method is SFT at no extra cost."""
    replay: Annotated[float, Gt(0), Le(MOST_REPLAY)] = 1.0
    """Memory rows per user row for the safety gradient of each step, as A-GEM's; 2508.07172's batch is not known."""
    chunk_tokens: Annotated[int, Gt(0)] = 64
    """Number of tokens whose logits are in memory at once. Ours, as `kl` has it."""

    def start(self, run: Run) -> None:
        if self.rho or self.project:
            self._head = run.weights.head()
            run.memory.store_states()

    def gradients(self, run: Run) -> None:
        if not (self.rho or self.project):
            return
        import torch

        safe = run.weights.gradient(self._terms(run))
        user = {name: p.grad for name, p in run.weights.params().items() if p.grad is not None}
        share = torch.zeros((), dtype=torch.float64)
        if self.project:
            dot = run.weights.dot
            eps = max(torch.finfo(g.dtype).eps for g in user.values())
            share = conflict(dot(user, safe), dot(safe, safe), dot(user, user), eps)
            run.log(projected=(share > 0).float())
        for name, grad in user.items():
            grad.add_(((self.rho + share) * safe[name].double()).to(grad.dtype))

    def _terms(self, run: Run) -> Iterator[Term]:
        """KL on the step's memory rows, a micro-batch of them at a time."""
        n = max(1, round(self.replay * run.user.step_rows))
        tokens = run.memory.drawn_tokens(n)
        for rows in run.memory.draw_in_pieces(n):
            nats = self._head.kl(run.weights.states(rows), run.memory.stored_states(rows), self.chunk_tokens)  # (N,)
            if len(nats):
                run.log(nats=nats.mean())
            yield nats.sum(), tokens
