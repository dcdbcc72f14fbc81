"""DER, and cross-entropy on the stored refusals as well. [DER++, arXiv 2004.07211 §3.3]

L = CE(user) + λ · ‖z − z′‖² (DER's term, see methods/der.py) + β · CE(memory), the latter a mean over response tokens.
mammoth (models/derpp.py) draws the two batches of memory independently; Avalanche (training/supervised/der.py) uses
one for both and saves a forward. 2512.10150 does not run DER++.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from unforgotten.methods.der import DER

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Run, Term


@dataclass(kw_only=True)
class DERpp(DER):
    """Dark Experience Replay++: DER, and cross-entropy on the stored refusals as well. [arXiv 2004.07211]"""

    neutral: ClassVar[dict[str, Any]] = {"weight": 0.0, "beta": 0.0}
    faint: ClassVar[dict[str, Any]] = {"weight": 1e-30, "beta": 1e-30}
    cost: ClassVar[float] = 3.0

    beta: Annotated[float, Ge(0)] = 0.5
    """β, the weight of the cross-entropy on memory rows. 0.5 is Avalanche's; mammoth requires a value and uses 0.5
    to 1."""
    draws: Literal["independent", "shared"] = "independent"
    """`independent` draws a second memory batch for the cross-entropy, as in mammoth. `shared` uses DER's batch, as
    in Avalanche."""

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        if self.beta == 0 or self.draws == "independent":
            term = super().loss(run, batch, out)
            return self._and(term, run, "cross-entropy") if self.beta else term
        rows = run.memory.draw(self._n(run))
        h = run.weights.states(rows)  # (N, d): one forward for both terms
        return self._and(self._distance(run, rows, h) if self.present_weight(run) else None, run, "", h)

    def _and(self, term: Term | None, run: Run, draw: str, h: Tensor | None = None) -> Term:
        """DER's term and β times the mean cross-entropy of a draw of memory; h: its states (N, d), where known."""
        n = self._n(run)
        nll = run.weights.nll(run.memory.draw(n, draw), self.chunk_tokens, h)
        total = self.beta * nll / run.memory.drawn_tokens(n, draw)
        return (total if term is None else total + term[0] / term[1]), 1
