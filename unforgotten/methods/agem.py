"""Never step against the gradient of the safety data: project the conflict out. [A-GEM, arXiv 1812.00420]

    g ← g − (g·g_safe / ‖g_safe‖²) g_safe    where g·g_safe < 0            [2512.10150 §4.1.2]

g is the user's gradient of the whole step, averaged over ranks and not yet clipped; g_safe that of the mean
cross-entropy of memory rows drawn for the step (mammoth's own file keeps one mini-batch as its whole memory).

What is guaranteed: to first order, *plain gradient descent* along g does not raise the loss of *these* memory rows.
Under AdamW the step is not along g: moments mix in earlier gradients and every weight is scaled by itself, so the loss
may still rise. 2512.10150's "formally ensures L_safe(θ) ≤ L_safe(θ_safe)" does not follow. The share of steps that
were projected is logged as `method/agem/projected`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Le

from unforgotten.methods.base import MOST_REPLAY, Method, overlap

if TYPE_CHECKING:
    from unforgotten.methods.base import Run


@dataclass(kw_only=True)
class AGEM(Method):
    """Averaged Gradient Episodic Memory: never step against the safety data's gradient. [1812.00420, 2512.10150]"""

    family: ClassVar[str] = "projection"
    neutral: ClassVar[dict[str, Any]] = {"replay": 0.0}
    cost: ClassVar[float] = 2.0

    replay: Annotated[float, Ge(0), Le(MOST_REPLAY)] = 1.0
    """Memory rows per user row for the safety gradient of each step, as in mammoth. With 0 the method is SFT at no
    extra cost."""

    def gradients(self, run: Run) -> None:
        if self.replay == 0:
            return
        n = max(1, round(self.replay * run.user.step_rows))
        tokens = run.memory.drawn_tokens(n)
        safe = run.weights.gradient((run.weights.nll(rows), tokens) for rows in run.memory.draw_in_pieces(n))
        params = run.weights.params()
        user = {name: p.grad for name, p in params.items() if p.grad is not None}
        scale = overlap(run.weights.dot(user, safe), run.weights.dot(safe, safe))
        for name, grad in user.items():
            grad.sub_((scale * safe[name].double()).to(grad.dtype))
        run.log(projected=(scale < 0).float())
