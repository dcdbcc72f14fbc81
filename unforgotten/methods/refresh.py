"""Unlearn a little before each step, least where safety leans, then relearn with replay. [arXiv 2403.13249; 2512.10150]

mode: paper        θ ← θ + γ F⁻¹ ∇L_user + √(2γ F⁻¹) ε         [2512.10150 §4.1.2]
mode: reference    θ ← θ + δ (‖θ‖/‖∇L‖ · ∇L + 0.001 ε) / (1 + 0.001 F), tensor by tensor
                                                                [joey-wang123/CL-refresh-learning, models/derpp.py]

Both climb the loss of the step's user rows, with F the diagonal Fisher of θ_safe on the memory; the usual step then
goes down on user *and* memory rows. They differ much. The printed rule divides by F, which is 0 for many weights:
`damping` is added to it, and `temperature` scales the noise, whose printed size √(2γ/F) drowns any model (1 is as
printed, 0 is none; both are ours). The code damps by 1 + 0.001 F instead, which hardly varies, has noise of a fixed
size, and makes a tensor's move as long as the tensor: it leaves a fresh LoRA's B, whose norm is 0, to the noise alone,
and its inner learning rate cancels. No public text gives γ; δ is the code's 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from unforgotten.methods.base import MOST_REPLAY, Method

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run, Term


def unlearn_paper(
    gradient: Tensor, fisher: Tensor, noise: Tensor, rate: float, damping: float, temperature: float
) -> Tensor:
    """The move γ (F + d)⁻¹ ∇L + T √(2γ (F + d)⁻¹) ε. All tensors have one shape."""
    inverse = 1 / (fisher + damping)
    return rate * inverse * gradient + temperature * (2 * rate * inverse).sqrt() * noise


def unlearn_reference(weights: Tensor, gradient: Tensor, fisher: Tensor, noise: Tensor, rate: float) -> Tensor:
    """The move δ (‖θ‖/‖∇L‖ ∇L + 0.001 ε) / (1 + 0.001 F) of one tensor. All tensors have one shape."""
    scaled = weights.norm() / (gradient.norm() + 1e-20) * gradient
    return rate * (scaled + 0.001 * noise) / (1 + 0.001 * fisher)


@dataclass(kw_only=True)
class Refresh(Method):
    """Unlearn a little before each step, least in weights that safety needs, then relearn with replay. [2403.13249]"""

    family: ClassVar[str] = "memory"
    neutral: ClassVar[dict[str, Any]] = {"rate": 0.0, "replay": 0.0}
    faint: ClassVar[dict[str, Any]] = {"rate": 1e-30, "temperature": 0.0, "weight": 1e-30}
    cost: ClassVar[float] = 3.0

    mode: Literal["paper", "reference"] = "paper"
    """Unlearning rule: `paper` as 2512.10150 prints it, with damping; `reference` as in the authors' code."""
    rate: Annotated[float, Ge(0)] = 1e-5
    """γ in the paper, δ in the code. 1e-5 is the code's value, since no text gives γ. With 0 nothing is unlearned."""
    damping: Annotated[float, Gt(0)] = 1e-2
    """Added to the Fisher F in mode `paper`, since F is 0 for many weights. The default is ours."""
    temperature: Annotated[float, Ge(0)] = 1e-3
    """Scale of the noise in mode `paper`: 1 is the printed rule, 0 is no noise. The default is ours, close to the
    code's 0.001."""
    replay: Annotated[float, Ge(0), Le(MOST_REPLAY)] = 1.0
    """Memory rows per user row to relearn in each step. With 0 the method relearns on user rows alone."""
    weight: Annotated[float, Ge(0)] = 1.0
    """Weight of the mean cross-entropy on memory rows. With 1 it counts as much as the user's."""

    def start(self, run: Run) -> None:
        if self.rate:
            self._fisher = run.weights.fisher("adapter")

    def before_step(self, run: Run, batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        if self.rate:
            uphill = run.weights.gradient(run.user.terms(batches))
            squares = []
            for name, p in run.weights.params().items():
                noise, f, g = run.weights.noise(name, p), self._fisher[name].to(p.dtype), uphill[name]
                if self.mode == "paper":
                    move = unlearn_paper(g, f, noise, self.rate, self.damping, self.temperature)
                else:
                    move = unlearn_reference(p.detach(), g, f, noise, self.rate)
                p.data += move
                squares += [move.double().square().sum()] if run.logs_this_step else []
            if squares:
                run.log(unlearned_norm=sum(squares[1:], squares[0]).sqrt())
        return batches

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        if self.replay == 0:
            return None
        n = max(1, round(self.replay * run.user.step_rows))
        return self.weight * run.weights.nll(run.memory.draw(n)), run.memory.drawn_tokens(n)
