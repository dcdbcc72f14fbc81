"""`Run`: all that a method sees of the trainer. Only this room knows of wrapping, ranks and adapters."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unforgotten.errors import TrainingError
from unforgotten.training import memory as mem
from unforgotten.training.collate import Collator
from unforgotten.training.head import Head, read_head
from unforgotten.training.once import Once
from unforgotten.training.policy import Policy, aligned_only

if TYPE_CHECKING:
    from unforgotten.training.trainer import MethodMixin

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 8


class Run:
    """One fine-tuning run. B rows, T tokens, d hidden size, m memory rows."""

    def __init__(
        self,
        trainer: MethodMixin,
        user: list[Any],
        memory: list[dict[str, Any]],
        policy: Policy,
        seed: int,
        pad_id: int,
    ) -> None:
        self.user = user
        self.memory = memory
        self.policy: Policy = policy
        self.seed = seed
        self.notes: list[str] = []
        self.logged: dict[str, list[float | Tensor]] = {}
        self.once: Once
        self._trainer: Any = trainer
        self._collator = Collator(pad_id)
        self._who, self._turn = "", ""
        self._slot, self._slots = 0, 1
        self._local_rows = 0
        self._rows: int | None = None
        self._states: list[Tensor] = []
        self._head: Head | None = None

    # Where the run stands.

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return int(self._trainer.state.global_step)

    @property
    def rows(self) -> int:
        """User rows of this optimizer step, over all micro-batches and ranks."""
        if self._rows is None:
            self._rows = self._trainer.sum_over_ranks(self._local_rows)
        return self._rows

    @property
    def slots(self) -> int:
        """Shares that the step's safety rows are dealt into: micro-batches × ranks in `loss`, else ranks."""
        return self._slots

    # Models and weights.

    @property
    def model(self) -> Any:
        """The model as trained, wrapped: only through it are gradients averaged over ranks."""
        return self._trainer.model_wrapped

    @property
    def bare(self) -> Any:
        """The model without wrapping: for forwards without gradient."""
        return self._trainer.accelerator.unwrap_model(self._trainer.model_wrapped)

    @contextmanager
    def teacher(self) -> Iterator[Any]:
        """θ_safe in eval mode, without gradient.

        Raises TrainingError after the first step where nothing of θ_safe is left in the model (`continue`, `full`).
        """
        if self.policy in ("continue", "full") and (self.step > 0 or not self.once.may_build):
            raise TrainingError(
                f"Under the policy {self.policy!r} the aligned model is gone after the first step: store what the "
                "method needs of it in `start`, through `run.once`."
            )
        with aligned_only(self.bare, self.policy) as model:
            yield model

    def params(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return {n: p for n, p in self.bare.named_parameters() if p.requires_grad}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the trained tensors as they are now."""
        return {n: p.detach().clone() for n, p in self.params().items()}

    def head(self) -> Head:
        """How θ_safe turns hidden states into logits; checked once against a real forward."""
        if self._head is None:
            self._head = self._read_head()
        return self._head

    # Safety rows.

    def sample(self, n: int | None = None) -> list[dict[str, Any]]:
        """n memory rows to train on (all of them for None), chosen by the seed and the method's name."""
        n = len(self.memory) if n is None else n
        return [dict(self.memory[i]) for i in mem.draw(len(self.memory), n, self.seed, self._who, "sample")]

    def safety(self, n: int) -> mem.Replay:
        """This micro-batch's share (in `loss`; elsewhere this rank's) of n memory rows drawn for the whole step."""
        rows = mem.deal(self._drawn(n), self._slot, self._slots)
        return mem.replay(self.memory, rows, self._collator, self._trainer.args.device)

    def safety_tokens(self, n: int) -> int:
        """Response tokens in the n rows that `safety(n)` draws for this step, over all micro-batches and ranks."""
        return mem.tokens_of(self.memory, self._drawn(n))

    @property
    def memory_tokens(self) -> int:
        """Response tokens in the whole memory."""
        return mem.tokens_of(self.memory, range(len(self.memory)))

    def states(self, replay: mem.Replay) -> Tensor:
        """θ_safe's last hidden states where these rows predict their response, (N, d), in the order of `predicts`.

        Stored before the first step, `ROWS_PER_SHARD` rows at a time, so that a kill while filling loses little.
        """
        if not self._states:
            self.store_states()
        found = [
            self._states[i] for i, some in zip(replay.row_ids, replay.predicts.any(1).tolist(), strict=True) if some
        ]
        return torch.cat(found) if found else self._states[0][:0]

    def store_states(self) -> None:
        """Fills (or reads back) the store of θ_safe's last hidden states over the whole memory."""
        shards = [
            range(at, min(at + ROWS_PER_SHARD, len(self.memory))) for at in range(0, len(self.memory), ROWS_PER_SHARD)
        ]

        def build(i: int) -> dict[str, Tensor]:
            rows = mem.replay(self.memory, list(shards[i]), self._collator, self._trainer.args.device)
            with self.teacher() as model:
                hidden = self._hidden(model, rows)  # (B, T, d)
            return {str(row): h[p] for row, h, p in zip(rows.row_ids, hidden, rows.predicts, strict=True)}

        stored = self._trainer.share_shards(self.once, "states", len(shards), build)
        self._states = [stored[str(i)].to(self._trainer.args.device) for i in range(len(self.memory))]

    def hidden(self, rows: mem.Replay) -> Tensor:
        """Last hidden states (B, T, d) of the model under training, with gradient and without logits."""
        return self._hidden(self.model, rows)

    def predicting(self, hidden: Tensor, rows: mem.Replay) -> Tensor:
        """(B, T, d) -> (N, d): the positions that predict the response, in the order of `states`."""
        return hidden[rows.predicts]

    # Talking.

    def log(self, **values: float | Tensor) -> None:
        """Means of these until the next log line, under `method/<name>`; tensors are read only then (no sync here)."""
        for name, value in values.items():
            kept = value.detach() if isinstance(value, Tensor) else value
            self.logged.setdefault(f"{self._who}/{name}", []).append(kept)

    def note(self, text: str) -> None:
        """A fact that the results should carry, such as what a weight is called elsewhere."""
        if text not in self.notes:
            self.notes.append(text)
            logger.info(text)

    # For the trainer.

    def new_step(self, local_rows: int, micro_batches: int) -> None:
        self._local_rows, self._rows, self._micro_batches = local_rows, None, micro_batches

    @contextmanager
    def turn(self, who: str, turn: str, position: int | None = None) -> Iterator[None]:
        """A method's turn: its own random stream, the trainer's put back after.

        Without it a weight of 0 drifts from SFT as soon as there is dropout, and resume is not exact.
        """
        rank, world = self._trainer.args.process_index, self._trainer.args.world_size
        before = self._who, self._turn, self._slot, self._slots
        self._who, self._turn = who, turn
        if position is None:
            self._slot, self._slots = rank, world
        else:
            self._slot, self._slots = position * world + rank, self._micro_batches * world
        device = self._trainer.args.device
        devices = [device] if device.type not in ("cpu", "mps") else []
        try:
            with torch.random.fork_rng(devices=devices, device_type=device.type if devices else "cuda"):
                seed = mem.seed_of(self.seed, self.step, who, turn, position, rank)
                torch.default_generator.manual_seed(seed)
                for at in devices:
                    getattr(torch, at.type).manual_seed(seed)
                yield
        finally:
            self._who, self._turn, self._slot, self._slots = before

    def _drawn(self, n: int) -> list[int]:
        return mem.draw(len(self.memory), n, self.seed, self._who, self.step)

    def _hidden(self, model: Any, rows: mem.Replay) -> Tensor:
        extra = {"logits_to_keep": 1} if self._keeps_logits(model) else {}
        out = model(**rows.inputs, **extra, output_hidden_states=True, use_cache=False)
        return out.hidden_states[-1]

    def _keeps_logits(self, model: Any) -> bool:
        inner = self._trainer.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        return "logits_to_keep" in inspect.signature(type(inner).forward).parameters

    def _read_head(self) -> Head:
        rows = mem.replay(self.memory, [0], self._collator, self._trainer.args.device)
        bare = self.bare
        was_training = bare.training
        bare.eval()
        try:
            with torch.no_grad():
                out = bare(**rows.inputs, output_hidden_states=True, use_cache=False)
                inner = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
                head = read_head(inner, out.hidden_states[-1][0], out.logits[0])
            if head.trained:
                # The live head moves, so θ_safe's is copied while it is still there.
                def build() -> dict[str, Tensor]:
                    with self.teacher() as model:
                        base = model.get_base_model() if hasattr(model, "get_base_model") else model
                        found = read_head(base, out.hidden_states[-1][0], out.logits[0])
                        kept = {"weight": found.weight.clone()}
                        return kept if found.bias is None else kept | {"bias": found.bias.clone()}

                kept = self.once("head", build)
                device = self._trainer.args.device
                head.weight, head.bias = kept["weight"].to(device), kept.get("bias", None)
                head.bias = head.bias.to(device) if head.bias is not None else None
        finally:
            bare.train(was_training)
        return head


def combine(values: Sequence[float | Tensor]) -> float:
    """Mean of logged values."""
    return sum(float(v) for v in values) / len(values)
