"""`run.memory`: the m safety rows kept for replay, which of them a step draws, and θ_safe's states on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unforgotten.errors import RecipeError
from unforgotten.methods.base import MemoryRows
from unforgotten.runs import bars
from unforgotten.training import ranks, replay_memory
from unforgotten.training.aligned_store import digest
from unforgotten.training.row_store import row_values

if TYPE_CHECKING:
    from unforgotten.methods.base import Drift, EncodedRow, RowBatch
    from unforgotten.training.drift import HeldOut
    from unforgotten.training.run_base import RunState
    from unforgotten.training.run_weights import RunWeights

BatchOf = Callable[[Sequence["EncodedRow"], Sequence[int]], "RowBatch"]

MOST_REPEATS = 1000
"""Times that a step may draw each row of the memory: a larger draw is a slip of the pen, and would fill the memory."""
ROWS_PER_SHARD = 8
"""Stored states are written in chunks of this many rows: a kill loses one chunk at most."""


class RunMemory(MemoryRows):
    """The memory of one run. N response tokens of a batch, d hidden size."""

    def __init__(self, run: RunState, rows: list[EncodedRow], weights: RunWeights, held_out: HeldOut) -> None:
        self.rows, self.held_out = rows, held_out
        self._run, self._weights = run, weights
        self._states: list[Tensor] = []
        self._prompt_states: list[Tensor] = []
        self._values: dict[str, list[Tensor]] = {}

    @property
    def tokens(self) -> int:
        """Response tokens in the whole memory."""
        return replay_memory.tokens_of(self.rows, range(len(self.rows)))

    def sample(self, n: int | None = None) -> list[EncodedRow]:
        """n rows to train on (all of them for None), chosen by the seed and the method's name."""
        n = len(self.rows) if n is None else n
        places = replay_memory.draw(len(self.rows), n, self._run.seed, self._run.method, "sample")
        return [dict(self.rows[i]) for i in places]

    def draw(self, n: int, name: str = "") -> RowBatch:
        """This micro-batch's share (in `loss`; elsewhere this rank's) of n rows drawn for the whole step.

        name: of a second, independent draw in the same step.
        """
        return self._run.batch(self.rows, replay_memory.deal(self.places(n, name), self._run.slot, self._run.slots))

    def draw_in_pieces(self, n: int) -> Iterator[RowBatch]:
        """`draw(n)` in pieces of a micro-batch each; every rank gets as many pieces as the others."""
        places = replay_memory.deal(self.places(n), self._run.slot, self._run.slots)
        size = self._run.ranks.micro_batch_rows
        for at in range(0, max(1, -(-n // self._run.slots)), size):
            yield self._run.batch(self.rows, places[at : at + size])

    def drawn_rows(self, n: int) -> list[EncodedRow]:
        """The n rows that `draw(n)` draws for this step, all of them, as `run.user.micro_batches` takes them."""
        return [{**self.rows[i], "row_id": -1} for i in self.places(n)]

    def drawn_tokens(self, n: int, name: str = "") -> int:
        """Response tokens in the n rows that `draw(n, name)` draws, over all micro-batches and ranks."""
        return replay_memory.tokens_of(self.rows, self.places(n, name))

    def places(self, n: int, name: str = "") -> list[int]:
        """Which rows `draw(n, name)` draws for this step, all of them."""
        return self._drawn(range(len(self.rows)), n, "safety rows", *([name] if name else []))

    def draw_prompts(self, n: int, refusals: float | None = None) -> RowBatch:
        """This micro-batch's share of n prompts drawn for the whole step: rows cut before their first answer.

        refusals: share of harmful prompts among them; None draws from all rows alike. Raises RecipeError where the
        memory has none of a kind that is asked for, and where n is too small to hold both kinds.
        """
        places = replay_memory.deal(self.prompt_places(n, refusals), self._run.slot, self._run.slots)
        return self._run.prompts(self.rows, places)

    def prompt_places(self, n: int, refusals: float | None = None) -> list[int]:
        """Which rows `draw_prompts(n, refusals)` draws for this step, all of them."""
        if refusals is None:
            return self._drawn(range(len(self.rows)), n, "prompts", "prompts")
        harmful = round(refusals * n)
        if 0 < refusals < 1 and harmful in (0, n):
            raise RecipeError(
                f"{self._run.method} draws {n} prompts, which cannot hold a share of {refusals:g} harmful ones and the "
                "rest look-alikes. Raise `prompts`, or set the share to 0 or 1."
            )
        places: list[int] = []
        for kind, wanted in (("harmful", harmful), ("look-alike", n - harmful)):
            pool = [i for i, row in enumerate(self.rows) if (row.get("kind") == "harmful") == (kind == "harmful")]
            if wanted and not pool:
                raise RecipeError(f"{self._run.method} draws {kind} prompts, but the memory has none. Add such rows.")
            places += self._drawn(pool, wanted, f"{kind} prompts", kind)
        return places

    def _drawn(self, pool: Sequence[int], n: int, what: str, *names: str) -> list[int]:
        """n of the pool's places, by seed, method, step and names."""
        if n > MOST_REPEATS * len(pool):
            raise RecipeError(
                f"{self._run.method} draws {n} {what} in a step, but the memory has {len(pool)}. Draw fewer, or give "
                "more safety rows."
            )
        if n > len(pool):
            self._run.note(
                f"{self._run.method} replays {n} {what} in a step, but the memory has {len(pool)}, so rows repeat "
                "within a step. Raise memory.n_rows, or give more safety rows"
            )
        facts = (self._run.seed, self._run.method, self._run.step, *names)
        return [pool[i] for i in replay_memory.draw(len(pool), n, *facts)] if n else []

    def store_states(self) -> None:
        """Fills (or reads back) the store of θ_safe's last hidden states over the whole memory."""
        self._states = self._aligned_states("states", self.rows)

    def store_prompt_states(self) -> Tensor:
        """Fills (or reads back) the store of θ_safe's last hidden state at the end of each prompt: (rows, d)."""
        self._prompt_states = self._aligned_states("prompt-states", self.rows, self._run.prompts)
        return torch.cat(self._prompt_states)

    def store_held_out(self) -> None:
        """The same over the held-out rows."""
        rows = self.held_out.rows
        name = f"held-out-states-{digest([(r['input_ids'], r['labels']) for r in rows])}"
        self.held_out.store(self._aligned_states(name, rows))

    @property
    def measures_drift(self) -> bool:
        """Whether held-out rows are measured after this step."""
        return self.held_out.due(self._run.step + 1)

    def drift(self, rows: int | None = None) -> Drift:
        """How far the model is from θ_safe on held-out rows, after the optimizer's step that is under way.

        rows: the first so many of them. None: this step's measurement, which is to be due.
        """
        if rows is None:
            return self.held_out.course[-1]
        return self.held_out.measure(self._run.step + 1, rows)

    def _aligned_states(self, name: str, rows: list[EncodedRow], batch_of: BatchOf | None = None) -> list[Tensor]:
        """θ_safe's last hidden states where each row predicts its response, (N, d) each, stored under a name.

        batch_of: makes other batches of the rows than whole ones.
        """
        batch_of = batch_of or self._run.batch
        count = len(rows)
        shards = [range(at, min(at + ROWS_PER_SHARD, count)) for at in range(0, count, ROWS_PER_SHARD)]

        def build(i: int) -> dict[str, Tensor]:
            batch = batch_of(rows, list(shards[i]))
            with self._weights.teacher() as model:
                hidden = self._weights.hidden_of(model, batch)  # (B, T, d)
            report("storing states of the aligned model", shards[i].stop, count)
            return {str(row): h[p] for row, h, p in zip(batch.row_ids, hidden, batch.predicts, strict=True)}

        with bars.quiet_bar() as report:
            stored = ranks.share_shards(self._run.ranks, self._run.once, name, len(shards), build)
        return [stored[str(i)].to(self._run.ranks.device) for i in range(count)]

    def store(self, name: str, read: Callable[[Any, RowBatch], Sequence[Tensor]]) -> None:
        """Stores what `read(θ_safe, rows)` gives for each memory row: one tensor a row. To be called in `start`."""
        self._values[name] = row_values(self._run, self._weights, name, self.rows, read)

    def stored(self, name: str) -> list[Tensor]:
        """What `store` stored, one tensor a row, in the memory's order."""
        return self._values[name]

    def stored_states(self, batch: RowBatch) -> Tensor:
        """θ_safe's last hidden states where these rows predict their response, (N, d), as `batch.select` orders them.

        Stored before the first step, `ROWS_PER_SHARD` rows at a time, so that a kill while filling loses little.
        """
        if not self._states:
            self.store_states()
        states = [self._states[i] for i, some in zip(batch.row_ids, batch.counts, strict=True) if some]
        return torch.cat(states) if states else self._states[0][:0]

    def prompt_states(self, batch: RowBatch) -> Tensor:
        """θ_safe's last hidden state at the end of these prompts, (B, d), of a batch that `draw_prompts` gave."""
        if not self._prompt_states:
            self.store_prompt_states()
        states = [self._prompt_states[i] for i in batch.row_ids]
        return torch.cat(states) if states else self._prompt_states[0][:0]
