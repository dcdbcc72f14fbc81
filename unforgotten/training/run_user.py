"""`run.user`: the user's rows, the micro-batches of this step, and what θ_safe gave for each row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unforgotten.errors import TrainingError, UnsupportedError
from unforgotten.methods.base import RowBatch, UserBatches
from unforgotten.training import likelihood, replay_memory
from unforgotten.training.chunked import Forward
from unforgotten.training.collate import predicts
from unforgotten.training.row_store import row_values

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, Term
    from unforgotten.training.run_base import RunState
    from unforgotten.training.run_weights import RunWeights


class RunUser(UserBatches):
    """The user rows of one run. B rows, T tokens, N response tokens."""

    def __init__(self, run: RunState, rows: list[EncodedRow], weights: RunWeights) -> None:
        self.rows = rows
        self.trained_rows: list[EncodedRow] = []
        self.places: list[int] = []
        self._run, self._weights = run, weights
        self._values: dict[str, list[Tensor]] = {}
        self._row_weights: Tensor | None = None
        self._weighing = ""
        self.forget_counts()

    def forget_counts(self) -> None:
        """Another step, or other micro-batches in it: its rows and tokens are counted anew."""
        self._step_rows: int | None = None
        self._step_tokens: int | None = None
        self._counts: dict[str, int] = {}

    @property
    def batch_size(self) -> int:
        """User rows of a whole step by the settings; an epoch's last step may have fewer."""
        return self._run.ranks.batch_size

    @property
    def step_rows(self) -> int:
        """User rows of this optimizer step, over all micro-batches and ranks."""
        if self._step_rows is None:
            self._step_rows = self._run.ranks.sum_number(sum(len(b["input_ids"]) for b in self._run.micro_batches))
        return self._step_rows

    @property
    def step_tokens(self) -> int:
        """Response tokens of the user rows of this optimizer step, over all micro-batches and ranks."""
        if self._step_tokens is None:
            local = sum(int(predicts(b["labels"]).sum()) for b in self._run.micro_batches)
            self._step_tokens = self._run.ranks.sum_number(local)
        return self._step_tokens

    def count(self, mask: Callable[[dict[str, Tensor]], Tensor]) -> int:
        """True elements of `mask(micro-batch)` over all micro-batches of this step and all ranks."""
        who = self._run.method
        if who not in self._counts:
            self._counts[who] = self._run.ranks.sum_number(sum(int(mask(b).sum()) for b in self._run.micro_batches))
        return self._counts[who]

    def terms(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[Term]:
        """The user's cross-entropy on these micro-batches, each with the step's count of tokens."""
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
            rows = RowBatch(inputs, batch["labels"], predicts(batch["labels"]), [])
            yield self._weights.nll(rows), self.step_tokens

    def micro_batches(self, rows: Sequence[EncodedRow], like: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The micro-batches of a step made of these rows instead (all ranks' rows; each takes its share).

        like: the micro-batches that came. A row's `row_id` finds its stored values; -1 for rows that have none.
        """
        world, rank = self._run.ranks.world, self._run.ranks.rank
        batches = []
        for position in range(len(like)):
            part = replay_memory.deal(list(range(len(rows))), position * world + rank, len(like) * world)
            batch = self._run.batch(rows, part)
            ids = torch.tensor(batch.row_ids, device=self._run.ranks.device)
            batches.append({**batch.inputs, "labels": batch.labels, "row_id": ids})
        return batches

    def store(self, name: str, read: Callable[[Any, RowBatch], Sequence[Tensor]]) -> None:
        """Stores what `read(θ_safe, rows)` gives for each row that is trained on: one tensor a row, read by `stored`.

        To be called in `start`. Stored in the run folder, so that a resumed run reads it back.
        """
        self._values[name] = row_values(self._run, self._weights, name, self.trained_rows, read)

    def stored(self, name: str, row_ids: Tensor) -> Tensor:
        """What `store` stored for these rows, concatenated in their order."""
        values = self._values[name]
        tensors = [values[i] for i in row_ids.tolist()] or [values[0][:0]]
        return torch.cat(tensors).to(self._run.ranks.device)

    def set_row_weights(self, weights: Tensor | Mapping[int, float]) -> None:
        """Weights in [0, 1] by `row_id`, for methods later in the list; to be called in `start` by one method.

        Checkpoints do not hold them: `start` sets them again on a resume, from what it stored.
        weights: (rows trained on,), or a mapping whose missing rows have weight 1. Raises TrainingError where they are
        of another number or range, and where another method has set some.
        """
        who, count = self._run.method, len(self.trained_rows)
        if self._weighing not in ("", who):
            raise TrainingError(f"{who} sets row weights, but {self._weighing} has set them. Name one of the two.")
        if isinstance(weights, Mapping):
            if odd := [i for i in weights if not 0 <= i < count]:
                raise TrainingError(
                    f"{who} sets a weight for row {odd[0]}, but the rows trained on are 0 to {count - 1}."
                )
            weights = torch.tensor([float(weights.get(i, 1.0)) for i in range(count)])
        if weights.shape != (count,):
            raise TrainingError(f"{who} sets weights of shape {tuple(weights.shape)} for {count} rows trained on.")
        if not bool(((weights >= 0) & (weights <= 1)).all()):
            raise TrainingError(f"{who} sets row weights outside of 0 to 1, or NaN.")
        self._row_weights, self._weighing = weights.detach().to(self._run.ranks.device), who

    @property
    def has_row_weights(self) -> bool:
        """Whether a method has set row weights."""
        return self._row_weights is not None

    def row_weights(self, batch: dict[str, Tensor]) -> Tensor:
        """(B,): the weights of a micro-batch's rows; 1 where none are set, and for rows without a `row_id` (-1)."""
        ids = batch["row_id"]
        if self._row_weights is None:
            return torch.ones(len(ids), device=ids.device)
        weights = self._row_weights[ids.clamp_min(0)]
        return torch.where(ids >= 0, weights, torch.ones_like(weights))

    def predicts(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, T): the positions of a user's micro-batch that predict a token of the loss."""
        return predicts(batch["labels"])

    def token_logp(self, batch: dict[str, Tensor], out: Any) -> Tensor:
        """log p of each response token of the user's micro-batch, (N,), from its forward.

        Raises UnsupportedError where the Trainer in use returns no logits.
        """
        if isinstance(out, Forward):
            return out.token_logp
        if getattr(out, "logits", None) is None:
            raise UnsupportedError(
                f"{self._run.method} needs the logits of the training forward pass, but this Trainer does not return "
                "them. Use MethodTrainer."
            )
        return likelihood.token_logp(out.logits, batch["labels"])
