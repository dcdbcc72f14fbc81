"""Match the aligned model's last hidden states on the user's own data. [LwF, arXiv 1606.09282; 2512.10150 §4.1.1]

L = CE(user) + β · E‖h_θ(x) − h_safe(x)‖², h the last hidden states, the square summed over their d numbers and averaged
over positions. No safety data is used. 2512.10150 gives neither β nor the positions: "x ∼ D_user" may mean the prompt,
its last token (h ∈ ℝ^d is one vector), or every token; `positions` chooses. The response's own states must move for the
task to be learned, so a pull on them costs utility; the prompt's last one says how the model begins its answer. It is
the default: in the embedded world it alone keeps refusals under poison and the task with it (REPRODUCTION.md).

Two units of the square: its sum over d, as printed, whose size differs between models by orders of magnitude; or that
sum over ‖h_safe‖², which does not (`unit: relative`). In runs whose rows another method has weighed, w from 0 (suspect)
to 1 (trusted), `gate` multiplies each row's term by w or by 1 − w: a task whose answer is the first token can be learnt
from trusted rows, while suspect rows hold the model. The mean stays one over all positions.

θ_safe's states are stored before the first step (one forward of the data, once) and read back: a step then costs no
teacher, and nothing of θ_safe need stay in the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from unforgotten.errors import RecipeError
from unforgotten.methods.base import AutoWeight, Weight, squared_gap

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import RowBatch, Run, Term

Positions = Literal["all", "prompt", "last", "response"]


def chosen(labels: Tensor, attention_mask: Tensor, positions: Positions) -> Tensor:
    """Which positions are matched, (B, T) booleans, from labels (B, T; -100 outside the loss) and attention_mask.

    response: those that predict a token of the loss. last: the first of them in each turn, which is the prompt's last
    token. prompt: every real position up to the first of all. all: every real position.
    """
    import torch

    real = attention_mask.bool()
    if positions == "all":
        return real
    predicts = torch.zeros_like(real)
    predicts[:, :-1] = labels[:, 1:] != -100
    if positions == "response":
        return predicts
    if positions == "last":
        starts = predicts.clone()
        starts[:, 1:] &= ~predicts[:, :-1]
        return starts
    first = predicts & (predicts.cumsum(1) == 1)
    return real & (predicts.cumsum(1) - first.long() == 0) & predicts.any(1, keepdim=True)


@dataclass(kw_only=True)
class LwF(AutoWeight):
    """Learning without Forgetting: keep the aligned hidden states on the user's own data. [1606.09282, 2512.10150]"""

    family: ClassVar[str] = "regularization"
    later: ClassVar[tuple[str, ...]] = ("unit", "gate")
    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30}
    needs_safety: ClassVar[bool] = False
    reads_forward: ClassVar[bool] = True
    reads_hidden: ClassVar[bool] = True

    weight: Weight = 1.0
    """β, the weight of the squared distance of hidden states, averaged over positions (see `unit`). With 0 the
    method is SFT. `auto` holds the drift on held-out safety rows at `hold`, so it needs such rows."""
    positions: Positions = "last"
    """Tokens whose states are matched: `last` (only the token before each answer), `prompt`, `response` or `all`."""
    unit: Literal["sum", "relative"] = "sum"
    """`sum` sums the square over the hidden size, as 2512.10150 prints it. `relative` divides that sum by ‖h‖² of
    θ_safe's state, so that β does not depend on the model. Ours, after 2605.05995."""
    gate: Literal["none", "trusted", "suspect"] = "none"
    """Factor of each row's term, where a method named earlier sets row weights w: 1, w (`trusted`) or 1 − w
    (`suspect`). Ours, after 2505.17196."""

    def start(self, run: Run) -> None:
        super().start(run)
        if self.weight and self.gate != "none" and not run.user.has_row_weights:
            raise RecipeError(
                f"lwf's gate: {self.gate} needs row weights, but no method before it in the list sets them. Name one "
                "first, or leave out `gate`."
            )
        if self.weight:
            run.user.store(f"lwf-{self.positions}", lambda model, rows: self._states(run, model, rows))

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        if not (weight := self.present_weight(run)):
            return None
        known = batch["row_id"] >= 0  # rows that another method put in have no stored states
        mask = self._mask(batch) & known[:, None]
        h = out.hidden_states[-1][mask]  # (N, d)
        stored = run.user.stored(f"lwf-{self.positions}", batch["row_id"][known]).to(h.dtype)
        terms = squared_gap(h, stored, self.unit == "relative")
        if self.gate != "none":
            w = run.user.row_weights(batch)[:, None].expand(mask.shape)[mask].to(h.dtype)  # (N,)
            terms = terms * (w if self.gate == "trusted" else 1 - w)[:, None]
        return weight * terms.sum(), run.user.count(lambda b: self._mask(b) & (b["row_id"] >= 0)[:, None])

    def _mask(self, batch: dict[str, Tensor]) -> Tensor:
        return chosen(batch["labels"], batch["attention_mask"], self.positions)

    def _states(self, run: Run, model: Any, rows: RowBatch) -> Sequence[Tensor]:
        mask = chosen(rows.labels, rows.inputs["attention_mask"], self.positions)
        return [h[m] for h, m in zip(run.weights.hidden_of(model, rows), mask, strict=True)]
