"""How far the model has moved from θ_safe on held-out safety rows, in units that do not depend on the model.

    kl        KL(θ_safe ‖ θ) over the whole vocabulary, nats per response token
    kl_first  the same over the first 4 tokens of each answer
    state     ‖h − h′‖² / ‖h′‖² of the last hidden state before the answer, mean over rows
    logits    squared difference of logits, mean over response tokens and vocabulary (DER's unit)
    nll       −log p of the stored answers, nats per token, less θ_safe's own

Each for refusals and for look-alikes. θ_safe's hidden states are stored once; logits follow through the head, a few
tokens at a time. A measurement is one forward of its rows in eval mode. `weight: auto` steers by twenty of them: 32
rows each cost what 640 rows cost without a backward. Other runs measure at step 0 and at the end. A measurement draws
no random number and changes no weight.

N response tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from unforgotten.errors import RecipeError
from unforgotten.methods.base import Drift, EncodedRow, RowBatch
from unforgotten.runs import bars
from unforgotten.training import likelihood, replay_memory
from unforgotten.training.head import base
from unforgotten.training.held_out_rows import kind_of

if TYPE_CHECKING:
    from unforgotten.training.head import Head
    from unforgotten.training.run_base import RunState
    from unforgotten.training.run_weights import RunWeights

FIRST_TOKENS = 4
"""Tokens of an answer in which it turns into a refusal or not. [arXiv 2406.05946: alignment is a few tokens deep]"""
LOGITS = 2**23
"""Logits in memory at once, of each of the two models: 32 MB in fp32."""
KINDS = {"harmful": "refusals", "other": "lookalikes"}
MEASUREMENTS = 20
"""Of one run, where a method steers by them."""
UNITS = ("kl", "kl_first", "state", "logits", "nll")


class HeldOut:
    """The held-out rows of one run: measured every so many steps, at step 0 and at the end."""

    def __init__(
        self,
        run: RunState,
        weights: RunWeights,
        rows: list[EncodedRow],
        at_once: int = 32,
        every: int | None = None,
        steers: bool = False,
    ) -> None:
        """at_once: rows of one measurement. every: steps between two; None for a twentieth of the run if a method
        steers by them, else for none between step 0 and the end."""
        self.rows = rows
        self.course: list[Drift] = []
        """Every measurement on schedule, by step; a resumed run goes on from those of its checkpoint."""
        self._run, self._weights, self._at_once, self._every, self._steers = run, weights, at_once, every, steers
        self._states: list[Tensor] = []
        self.result: Drift | None = None
        """Of the weights that are saved, on all rows."""
        self.seconds = 0.0
        """Time of all measurements of this process."""
        self._now: dict[tuple[int, int], Drift] = {}
        """What was measured since the last step, by step and number of rows."""
        by_kind = [[i for i, row in enumerate(rows) if kind_of(row) == kind] for kind in KINDS]
        pairs = ((at, i) for places in by_kind for at, i in enumerate(places))
        self._order = [i for _, i in sorted(pairs, key=lambda pair: pair[0])]
        """Refusals and look-alikes in turns, so that the first few rows have as many of one as of the other."""

    @property
    def kinds(self) -> list[str]:
        """`refusals`, `lookalikes`, or one of them."""
        there = {kind_of(row) for row in self.rows}
        return [name for kind, name in KINDS.items() if kind in there]

    @property
    def every(self) -> int:
        """Steps between two measurements."""
        return self._every or max(1, self._run.steps // (MEASUREMENTS if self._steers else 1))

    def due(self, step: int) -> bool:
        """Whether the rows are measured after so many steps."""
        return bool(self.rows) and (step % self.every == 0 or step >= self._run.steps)

    def store(self, states: Sequence[Tensor]) -> None:
        """θ_safe's states on all rows, (N, d) each."""
        self._states = list(states)
        self._weights.head()  # read while the model is θ_safe: of a trained head θ_safe's own is kept

    def scheduled(self, step: int) -> Drift:
        """The measurement of this step: all rows at the end of the run, else no more than `at_once`."""
        drift = self.measure(step, None if step >= self._run.steps else self._at_once)
        self.course.append(drift)
        return drift

    def measure(self, step: int, rows: int | None, model: Any = None) -> Drift:
        """How far the model is from θ_safe after so many steps, on the first `rows` rows (all for None)."""
        if not self.rows:
            raise RecipeError(f"{self._run.method} measures held-out safety rows. Set memory.held_out, such as 0.2.")
        places = self._order[:rows]
        key = step, len(places)
        if model is not None or key not in self._now:
            self._now = {k: v for k, v in self._now.items() if k[0] == step}
            began = time.monotonic()
            with self._run.turn("held_out", "measure"):
                self._now[key] = self._measured(step, places, model or self._weights.model)
            self.seconds += time.monotonic() - began
        return self._now[key]

    def finish(self, model: Any) -> Drift:
        """Measures what is saved: the model after methods' `finish`."""
        self.result = self.measure(self._run.step, None, model)
        return self.result

    def record(self) -> dict[str, Any]:
        """Every measurement, for held_out.json."""
        kinds = Counter(KINDS[kind_of(row)] for row in self.rows)
        return {
            "rows": dict(kinds),
            "rows_at_once": min(self._at_once, len(self.rows)),
            "every_steps": self.every,
            "seconds": round(self.seconds, 3),
            "course": [line(drift) for drift in self.course],
            "result": line(self.result) if self.result else None,
        }

    def _measured(self, step: int, places: list[int], model: Any) -> Drift:
        ranks = self._run.ranks
        head = dataclasses.replace(self._weights.head(), module=base(model).get_output_embeddings())
        mine, size = replay_memory.deal(places, ranks.rank, ranks.world), ranks.micro_batch_rows
        sums = torch.zeros(len(KINDS), len(UNITS) + 3, dtype=torch.float64)
        training = model.training
        model.eval()
        try:
            with torch.no_grad(), bars.quiet_bar() as report:
                for at in range(0, len(mine), size):
                    batch = self._run.batch(self.rows, mine[at : at + size])
                    h = batch.select(self._weights.hidden_of(model, batch))  # (N, d)
                    stored = torch.cat([self._states[i] for i in batch.row_ids]).to(h.device)  # (N, d)
                    self._add(sums, batch, values(head, h, stored, likelihood.targets(batch.labels, batch.at)))
                    report("measuring held-out rows", min(at + size, len(mine)), len(mine))
        finally:
            model.train(training)
        if ranks.world > 1:
            sums = ranks.sum_tensor(sums.to(ranks.device)).cpu()
        return _drift(step, sums)

    def _add(self, sums: Tensor, batch: RowBatch, tokens: Tensor) -> None:
        """Adds a batch's values, (N, 4), row by row to the sums of its kind."""
        kinds = list(KINDS)
        for row, each in zip(batch.row_ids, tokens.cpu().double().split(list(batch.counts)), strict=True):
            first = each[:FIRST_TOKENS, 0]
            kl, logits, nll = each[:, 0].sum(), each[:, 1].sum(), each[:, 2].sum()
            line = [kl, first.sum(), each[0, 3], logits, nll, len(each), len(first), 1]
            sums[kinds.index(kind_of(self.rows[row]))] += torch.tensor(line, dtype=torch.float64)


def line(drift: Drift) -> dict[str, Any]:
    """As JSON."""
    return {"step": drift.step, "rows": drift.rows, **drift.means}


def of_line(facts: Mapping[str, Any]) -> Drift:
    """What `line` wrote."""
    means = {name: float(value) for name, value in facts.items() if name not in ("step", "rows")}
    return Drift(int(facts["step"]), int(facts["rows"]), means)


def values(head: Head, h: Tensor, stored: Tensor, tokens: Tensor) -> Tensor:
    """Of each token: KL in nats, the mean squared difference of logits, the rise of −log p, ‖h − h′‖² / ‖h′‖².

    h, stored: (N, d), of the model and of θ_safe. tokens: (N,), the answer's. Returns (N, 4) in fp32 at least.
    """
    chunk = max(1, LOGITS // head.vocabulary)
    parts = []
    for live, aligned, token in zip(h.split(chunk), stored.split(chunk), tokens.split(chunk), strict=True):
        z, aligned_z = head.logits(live), head.aligned_logits(aligned)  # (n, V)
        rise = cross_entropy(z, token, reduction="none") - cross_entropy(aligned_z, token, reduction="none")  # (n,)
        gap = z - aligned_z  # (n, V)
        square = gap.square().mean(1)  # (n,)
        kl, _ = likelihood.divergence(aligned_z, gap)  # (n,)
        wide = aligned.to(z.dtype)
        moved = (live.to(z.dtype) - wide).square().sum(1) / wide.square().sum(1)  # (n,)
        parts.append(torch.stack([kl, square, rise, moved], 1))
    return torch.cat(parts)


def _drift(step: int, sums: Tensor) -> Drift:
    """sums: (kinds, units, then tokens, first tokens, rows)."""
    means: dict[str, float] = {}
    for kind, (kl, first, state, logits, nll, tokens, first_tokens, rows) in zip(
        KINDS.values(), sums.tolist(), strict=True
    ):
        if rows:
            totals = (kl / tokens, first / first_tokens, state / rows, logits / tokens, nll / tokens)
            means |= {f"{unit}_{kind}": value for unit, value in zip(UNITS, totals, strict=True)}
    return Drift(step, int(sums[:, -1].sum()), means)
