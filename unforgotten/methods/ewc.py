"""Hold the weights that safety leans on, as told by the Fisher diagonal. [EWC, arXiv 1612.00796; 2512.10150 §4.1.1]

L = CE(user) + Σ_i (λ/2) F_i (θ_i − θ_i^safe)². The penalty is written as its gradient, λ F (θ − θ_safe), once a step.

Which F. Ours is the mean over *sequences* of the squared gradient of each sequence's summed log-likelihood, on the
memory rows, at θ_safe, without dropout. λ differs between codes by twelve orders of magnitude because F does:
Avalanche (training/plugins/ewc.py) squares batch gradients and has no ½; mammoth (models/ewc_on.py) weighs by p(y|x)
and adds 2λF(θ − θ*); git-disl's EWC sums squared batch means and has no ½. `equivalents` prints ours in those terms.
2512.10150 gives neither λ nor its F.

Which θ. With a fresh LoRA, B = 0 makes the Fisher of A exactly 0, so that penalising the factors (`space: adapter`,
what those codes do under LoRA) leaves A free. `space: weights` penalises the dense change ΔW = s·B·A with the Fisher of
W itself: the paper's θ. It keeps one number for each adapted weight, and is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt

from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run


def penalty_gradient(fisher: Tensor, gap: Tensor, weight: float) -> Tensor:
    """The gradient of Σ (λ/2) F (θ − θ_safe)²: λ F ∘ (θ − θ_safe), of the shape of `gap`."""
    return weight * fisher.to(gap.dtype) * gap


def penalty(slope: Tensor, gap: Tensor) -> Tensor:
    """½ λ Σ F·gap², by its own slope λ F·gap; a scalar."""
    return (slope.double() * gap.double()).sum() / 2


def factor_gradients(dense: Tensor, a: Tensor, b: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """What a gradient of ΔW = s·B·A, (out, in), is to A, (r, in), and to B, (out, r)."""
    return scale * b.T @ dense, scale * dense @ a.T


def equivalents(weight: float, n_rows: int, batch_rows: int, mean_tokens: float) -> dict[str, float]:
    """The same strength in other conventions; those that square batch means hold for independent gradients only."""
    return {
        "½, mean over sequences (1612.00796, here)": weight,
        "no ½, mean over sequences (as mammoth, which adds 2λF)": weight / 2,
        "no ½, batch gradients squared, mean over batches (Avalanche)": weight / 2 * batch_rows,
        "no ½, batch means squared, summed over batches (git-disl)": weight / 2 * batch_rows**2 / n_rows,
        "½, log-likelihood as a mean over tokens": weight * mean_tokens**2,
    }


@dataclass(kw_only=True)
class EWC(Method):
    """Elastic Weight Consolidation: penalise changes to weights that safety needs (Fisher). [1612.00796, 2512.10150]"""

    family: ClassVar[str] = "regularization"
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30}

    weight: Annotated[float, Ge(0)] = 1.0
    """λ, the weight of half the Fisher-weighted squared change of weights. With 0 the method is SFT and computes no
    Fisher."""
    space: Literal["weights", "adapter"] = "weights"
    """`weights` penalises the dense weights that the adapter changes. `adapter` penalises the adapter's factors; a
    new A then has no penalty."""
    fisher_rows: Annotated[int, Gt(0)] | None = None
    """Number of memory rows for the Fisher. None uses all of them."""

    def start(self, run: Run) -> None:
        if self.weight == 0:
            return
        dense = self.space == "weights" and run.adapter_mode != "full"
        self._fisher = run.weights.fisher(self.space, self.fisher_rows)
        self._anchor = run.weights.anchor()
        self._deltas = run.weights.deltas() if dense else {}
        memory = len(run.memory.rows)
        n_rows, tokens = min(self.fisher_rows or memory, memory), run.memory.tokens / memory
        for convention, value in equivalents(self.weight, n_rows, run.user.batch_size, tokens).items():
            run.note(f"ewc weight, {convention}: {value:.3g}")

    def gradients(self, run: Run) -> None:
        if self.weight == 0:
            return
        parts: list[Tensor] = []
        if not self._deltas:
            for name, p in run.weights.params().items():
                if p.grad is not None and name in self._fisher:
                    gap = p.detach() - self._anchor[name]
                    slope = penalty_gradient(self._fisher[name], gap, self.weight)
                    p.grad += slope
                    parts += [penalty(slope, gap)] if run.logs_this_step else []
        for name, delta in self._deltas.items():
            a, b = self._anchor[delta.a_name], self._anchor[delta.b_name]
            gap = delta.dense() - delta.scale * (b @ a)  # (out, in)
            dense = penalty_gradient(self._fisher[name], gap, self.weight)
            parts += [penalty(dense, gap)] if run.logs_this_step else []
            to_a, to_b = factor_gradients(dense, delta.a.detach(), delta.b.detach(), delta.scale)
            for p, g in ((delta.a, to_a), (delta.b, to_b)):
                if p.grad is not None:
                    p.grad += g.to(p.grad.dtype)
        if parts:
            run.log(penalty=sum(parts[1:], parts[0]))
