"""What θ_safe gives for each of some rows, one tensor a row, made once and read back on resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from unforgotten.runs import bars
from unforgotten.training import ranks
from unforgotten.training.aligned_store import digest

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, RowBatch
    from unforgotten.training.run_base import RunState
    from unforgotten.training.run_weights import RunWeights

ROWS_PER_SHARD = 64
"""Stored values are written in chunks of this many rows: a kill loses one chunk at most."""

Read = Callable[[Any, "RowBatch"], Sequence[Tensor]]
"""`read(θ_safe, rows)`: one tensor for each of these rows."""


def row_values(run: RunState, weights: RunWeights, name: str, rows: Sequence[EncodedRow], read: Read) -> list[Tensor]:
    """What `read` gives for each row, in their order; ranks share the work."""
    count = -(-len(rows) // ROWS_PER_SHARD)
    size = run.ranks.micro_batch_rows

    def build(shard: int) -> dict[str, Tensor]:
        values_by_row: dict[str, Tensor] = {}
        last = min(len(rows), (shard + 1) * ROWS_PER_SHARD)
        for at in range(shard * ROWS_PER_SHARD, last, size):
            ids = list(range(at, min(at + size, last)))
            batch = run.batch(rows, ids)
            with weights.teacher() as model:
                values = read(model, batch)
            report("reading rows with the aligned model", ids[-1] + 1, len(rows))
            values_by_row |= {str(i): v.clone() for i, v in zip(ids, values, strict=True)}
        return values_by_row

    key = digest([(r["input_ids"], r["labels"]) for r in rows])
    with bars.quiet_bar() as report:
        stored = ranks.share_shards(run.ranks, run.once, f"{name}-{key}", count, build)
    return [stored[str(i)] for i in range(len(rows))]
