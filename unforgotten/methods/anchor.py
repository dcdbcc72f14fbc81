"""Hold the state before the answer at the aligned model's, on prompts of the memory. [Safety Anchor, arXiv 2605.05995]

    L = CE(user) + λ · mean over the step's prompts of ‖h_θ(x) − h_safe(x)‖² / ‖h_safe(x)‖²

h is the last hidden state, after the final norm, at a prompt's last token: what the first token of the answer is read
from. 2605.05995 (SBR) anchors harmful prompts, whose state is one of refusing. Look-alikes are anchored here as well:
their state is one of answering, so that the same term bounds over-refusal. A prompt is what stands before the *first*
answer of a row; later turns are not read, and no token of an answer is run through the model.

Units. 2605.05995 prints a sum of squares; its code (soyoaaa/SBR) takes their mean over d, with λ 50. Then
λ_SBR = λ · d / ‖h′‖², and LwF's β, on the sum over d, is λ / ‖h′‖². `equivalents` prints both: a state's size differs
between models, its share does not.

The term says nothing of tokens after the first, nor of a head that is trained: add `kl` or `der` for those. θ_safe's
states are stored before the first step. d hidden size, n prompts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from unforgotten.methods.base import AutoWeight, Weight, squared_gap

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run, Term


def equivalents(weight: float, stored: Tensor) -> dict[str, float]:
    """The same strength in other conventions, at the mean ‖h′‖² of the stored states (n, d)."""
    size = float(stored.double().square().sum(1).mean())
    return {
        "relative to ‖h‖² (here)": weight,
        "mean over the hidden size (SBR's code)": weight * stored.shape[1] / size,
        "sum over the hidden size (lwf's unit sum)": weight / size,
    }


@dataclass(kw_only=True)
class Anchor(AutoWeight):
    """Safety Anchor (SBR): keep the aligned state before the answer on memory prompts. [arXiv 2605.05995]"""

    family: ClassVar[str] = "memory"
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30}
    cost: ClassVar[float] = 1.1

    weight: Weight = 1.0
    """λ, the weight of the squared distance of states relative to ‖h‖², averaged over prompts. With 0 the method is
    SFT at no extra cost. The default is ours; SBR's code has 50 on a mean over the hidden size. `auto` holds
    the drift on held-out rows at `hold`."""
    prompts: Annotated[int, Gt(0)] = 8
    """Memory prompts in each step. [2605.05995: K = 8]"""
    refusals: Annotated[float, Ge(0), Le(1)] | None = None
    """Share of harmful prompts among them; the rest are look-alikes. None draws from the memory as it is; 1 is
    2605.05995's."""

    def start(self, run: Run) -> None:
        super().start(run)
        if self.weight == 0:
            return
        states = run.memory.store_prompt_states()
        if self.weight != "auto":
            for convention, value in equivalents(self.weight, states).items():
                run.note(f"anchor weight, {convention}: {value:.3g}")
        head = run.weights.model.get_output_embeddings()
        if head is not None and any(p.requires_grad for p in head.parameters()):
            run.note("anchor holds states before the output head, but the head is trained, too: nothing holds it")

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        if (weight := self.present_weight(run)) == 0:
            return None
        rows = run.memory.draw_prompts(self.prompts, self.refusals)
        h, stored = run.weights.states(rows), run.memory.prompt_states(rows)  # (n, d)
        return weight * squared_gap(h, stored.to(h.dtype), relative=True).sum(), self.prompts
