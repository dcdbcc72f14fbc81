"""`Run`: all that a method sees of the trainer. Only this room knows of wrapping, ranks and adapters."""

# Long because this one class is the whole of what methods may use.

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from unforgotten.errors import TrainingError, UnsupportedError
from unforgotten.models.adapters import AdapterMode, aligned_only, trained_adapter
from unforgotten.models.lora import Delta, deltas
from unforgotten.training import fisher, likelihood
from unforgotten.training import memory as mem
from unforgotten.training.aligned_store import Once, digest
from unforgotten.training.chunked import PROOF_TOKENS, Forward
from unforgotten.training.collate import Collator, predicts
from unforgotten.training.head import Head, read_head

if TYPE_CHECKING:
    from unforgotten.methods.base import Term
    from unforgotten.training.ranks import Ranks

logger = logging.getLogger(__name__)

ROWS_PER_SHARD = 8
USER_ROWS_PER_SHARD = 64
"""Stored states of safety rows and of user rows are written so many rows at a time: a kill loses no more."""


class Run:
    """One fine-tuning run. B rows, T tokens, d hidden size, m memory rows."""

    def __init__(
        self,
        trainer: Ranks,
        user: list[Any],
        memory: list[dict[str, Any]],
        adapter_mode: AdapterMode,
        args: Any,
        pad_id: int,
    ) -> None:
        self.user = user
        self.trained: list[dict[str, Any]] = []
        self.memory = memory
        self.adapter_mode: AdapterMode = adapter_mode
        self.seed = int(args.seed)
        self.of: str | None = None
        """Digest of the run in whose checkpoints it stands; None outside of a recipe."""
        self.notes: list[str] = []
        self.ratios: dict[str, tuple[float, int]] = {}
        """By method: the largest ‖gradient of its term‖ / ‖gradient of the user's loss‖ so far, and its step."""
        self.logged: dict[str, list[float | Tensor]] = {}
        self.once: Once
        self._trainer: Any = trainer
        self._args = args
        self._collator = Collator(pad_id)
        self._who, self._turn = "", ""
        self._slot, self._slots = 0, 1
        self._batches: list[dict[str, Tensor]] = []
        self._rows: int | None = None
        self._user_tokens: int | None = None
        self._counts: dict[str, int] = {}
        self._states: list[Tensor] = []
        self._kept: dict[str, dict[str, Tensor]] = {}
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
            self._rows = self._trainer.sum_over_ranks(sum(len(b["input_ids"]) for b in self._batches))
        return self._rows

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return int(self._trainer.state.max_steps)

    @property
    def batch_rows(self) -> int:
        """User rows of a whole step by the settings; an epoch's last step may have fewer."""
        args = self._args
        return int(args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size)

    @property
    def user_tokens(self) -> int:
        """Response tokens of the user rows of this optimizer step, over all micro-batches and ranks."""
        if self._user_tokens is None:
            local = sum(int(predicts(b["labels"]).sum()) for b in self._batches)
            self._user_tokens = self._trainer.sum_over_ranks(local)
        return self._user_tokens

    @property
    def slots(self) -> int:
        """Shares that the step's safety rows are dealt into: micro-batches × ranks in `loss`, else ranks."""
        return self._slots

    @property
    def logs(self) -> bool:
        """Whether this step has a line of the log: what is made for the log alone is made then."""
        return bool(self._trainer.logs_this_step())

    # Models and weights.

    @property
    def model(self) -> Any:
        """The model as trained, wrapped: only through it are gradients averaged over ranks."""
        return self._trainer.model_wrapped

    @property
    def bare(self) -> Any:
        """The model without wrapping: for forwards without gradient, and for its names, which are one model's."""
        model = self._trainer.accelerator.unwrap_model(self._trainer.model_wrapped)
        return getattr(model, "_orig_mod", model)  # of torch.compile, which puts a prefix before each name

    @contextmanager
    def teacher(self) -> Iterator[Any]:
        """θ_safe in eval mode, without gradient.

        Raises TrainingError after the first step where nothing of θ_safe is left in the model (`continue`, `full`).
        """
        if self.adapter_mode in ("continue", "full") and (self.step > 0 or not self.once.may_build):
            raise TrainingError(
                f"Under the adapter mode {self.adapter_mode!r} the aligned model is gone after the first step: store "
                "what the method needs of it in `start`, through `run.once`."
            )
        with aligned_only(self.bare, self.adapter_mode) as model:
            yield model

    def params(self) -> dict[str, Tensor]:
        """The trained tensors by name."""
        return {n: p for n, p in self.bare.named_parameters() if p.requires_grad}

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of the trained tensors as they are now."""
        return {n: p.detach().clone() for n, p in self.params().items()}

    def anchor(self) -> dict[str, Tensor]:
        """The trained tensors' first values, those of θ_safe; to be called in `start` before anything moves them."""
        params = self.params()
        return {n: t.to(params[n].device) for n, t in self.once("anchor", self.snapshot).items()}

    def deltas(self) -> dict[str, Delta]:
        """The trained LoRA factors by module. Raises UnsupportedError where something else is trained with them."""
        return deltas(self.bare, trained_adapter(self.bare) or "")

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

    def safety(self, n: int, draw: str = "") -> mem.Replay:
        """This micro-batch's share (in `loss`; elsewhere this rank's) of n memory rows drawn for the whole step.

        draw: names a second, independent draw in the same step.
        """
        rows = mem.deal(self._drawn(n, draw), self._slot, self._slots)
        return mem.replay(self.memory, rows, self._collator, self._trainer.args.device)

    def safety_tokens(self, n: int, draw: str = "") -> int:
        """Response tokens in the n rows that `safety(n)` draws for this step, over all micro-batches and ranks."""
        return mem.tokens_of(self.memory, self._drawn(n, draw))

    def safety_rows(self, n: int) -> list[dict[str, Any]]:
        """The n rows that `safety(n)` draws for this step, all of them, as `batches` takes them."""
        return [{**self.memory[i], "row_id": -1} for i in self._drawn(n)]

    def replays(self, n: int) -> Iterator[mem.Replay]:
        """`safety(n)` in pieces of a micro-batch each; every rank gets as many pieces as the others."""
        rows = mem.deal(self._drawn(n), self._slot, self._slots)
        size = self._trainer.args.per_device_train_batch_size
        for at in range(0, max(1, -(-n // self._slots)), size):
            yield mem.replay(self.memory, rows[at : at + size], self._collator, self._trainer.args.device)

    def batches(self, rows: Sequence[dict[str, Any]], like: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """The micro-batches of a step made of these rows instead (all ranks' rows; each takes its share).

        like: the micro-batches that came. A row's `row_id` tells stored states; -1 for rows that have none.
        """
        world, rank = self._trainer.args.world_size, self._trainer.args.process_index
        batches = []
        for position in range(len(like)):
            part = mem.deal(list(range(len(rows))), position * world + rank, len(like) * world)
            replay = mem.replay(rows, part, self._collator, self._trainer.args.device)
            ids = torch.tensor(replay.row_ids, device=self._trainer.args.device)
            batches.append({**replay.inputs, "labels": replay.labels, "row_id": ids})
        return batches

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
        states = [self._states[i] for i, some in zip(replay.row_ids, replay.counts, strict=True) if some]
        return torch.cat(states) if states else self._states[0][:0]

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
        # DDP counts its own forwards: one whose gradients are taken by hand must go round it.
        return self._hidden(self.model if self._turn == "loss" else self.bare, rows)

    def hidden_of(self, model: Any, rows: mem.Replay) -> Tensor:
        """Last hidden states (B, T, d) of a model such as `teacher` gives."""
        return self._hidden(model, rows)

    def logp_of(self, model: Any, rows: mem.Replay) -> list[Tensor]:
        """log p of each response token under a model such as `teacher` gives: one tensor a row."""
        out = model(**rows.inputs, use_cache=False)
        flat = likelihood.token_logp(out.logits, rows.labels)
        return list(flat.split(rows.predicts.sum(1).tolist()))

    def predicting(self, hidden: Tensor, rows: mem.Replay) -> Tensor:
        """(B, T, d) -> (N, d): the positions that predict the response, in the order of `states`."""
        return hidden[rows.predicts] if rows.at is None else hidden.flatten(0, 1).index_select(0, rows.at)

    def nll(self, rows: mem.Replay, chunk_tokens: int = 256, h: Tensor | None = None) -> Tensor:
        """Σ over the response tokens of these rows of −log p under the model in training, with gradient.

        h: (N, d), their last hidden states as `predicting` gives them, where a forward has made them already.
        """
        if h is None:
            h = self.predicting(self.hidden(rows), rows)  # (N, d)
        return self.head().nll(h, likelihood.targets(rows.labels, rows.at), chunk_tokens)

    # User rows.

    def user_terms(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[Term]:
        """The user's cross-entropy on the micro-batches of this step, each with the step's count of tokens."""
        for batch in batches:
            inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask")}
            rows = mem.Replay(inputs, batch["labels"], [])
            yield self.nll(rows), self.user_tokens

    def keep(self, name: str, read: Callable[[Any, mem.Replay], Sequence[Tensor]]) -> None:
        """Stores what `read(θ_safe, rows)` gives for each row that is trained on: one tensor a row, read by `kept`.

        To be called in `start`. Stored in the run folder, so that a resumed run reads it back.
        """
        count = -(-len(self.trained) // USER_ROWS_PER_SHARD)
        size = self._trainer.args.per_device_train_batch_size

        def build(shard: int) -> dict[str, Tensor]:
            values_by_row: dict[str, Tensor] = {}
            last = min(len(self.trained), (shard + 1) * USER_ROWS_PER_SHARD)
            for at in range(shard * USER_ROWS_PER_SHARD, last, size):
                ids = list(range(at, min(at + size, last)))
                rows = mem.replay(self.trained, ids, self._collator, self._trainer.args.device)
                with self.teacher() as model:
                    values = read(model, rows)
                values_by_row |= {str(i): v.clone() for i, v in zip(ids, values, strict=True)}
            return values_by_row

        key = digest([(r["input_ids"], r["labels"]) for r in self.trained])
        self._kept[name] = self._trainer.share_shards(self.once, f"{name}-{key}", count, build)

    def kept(self, name: str, row_ids: Tensor) -> Tensor:
        """What `keep` stored for these rows, concatenated in their order."""
        stored = self._kept[name]
        tensors = [stored[str(i)] for i in row_ids.tolist()] or [next(iter(stored.values()))[:0]]
        return torch.cat(tensors).to(self._trainer.args.device)

    def predicts(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, T): the positions of a user's micro-batch that predict a token of the loss."""
        return predicts(batch["labels"])

    def count(self, mask: Callable[[dict[str, Tensor]], Tensor]) -> int:
        """True elements of `mask(micro-batch)` over all micro-batches of this step and all ranks."""
        if self._who not in self._counts:
            local = sum(int(mask(b).sum()) for b in self._batches)
            self._counts[self._who] = self._trainer.sum_over_ranks(local)
        return self._counts[self._who]

    def token_logp(self, batch: dict[str, Tensor], out: Any) -> Tensor:
        """log p of each response token of the user's micro-batch, (N,), from its forward."""
        if isinstance(out, Forward):
            return out.token_logp
        if getattr(out, "logits", None) is None:
            raise UnsupportedError(
                f"{self._who} reads the logits of the training forward, which this Trainer does not return. "
                "Use MethodTrainer."
            )
        return likelihood.token_logp(out.logits, batch["labels"])

    # Gradients and curvature.

    def grads_of(self, terms: Iterable[Term]) -> dict[str, Tensor]:
        """The gradient of Σ total / count over these terms and all ranks, whole, by parameter; `p.grad` is left alone.

        terms: (sum over a piece, count over the whole step and all ranks), made one after the other.
        """
        params = self.params()
        sums = {n: torch.zeros_like(p) for n, p in params.items()}
        for total, count in terms:
            grads = torch.autograd.grad(total / max(count, 1), list(params.values()), allow_unused=True)
            for name, g in zip(params, grads, strict=True):
                if g is not None:
                    sums[name] += g
        return {n: self._trainer.add_over_ranks(g) for n, g in sums.items()}

    def dot(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        """Σ over all tensors of a · b, summed in fp64; a scalar on the device."""
        return torch.stack([(a[n].double() * b[n].double()).sum() for n in a]).sum()

    def fisher(self, space: Literal["weights", "adapter"], rows: int | None = None) -> dict[str, Tensor]:
        """The diagonal Fisher of θ_safe on `rows` memory rows (all for None), built once; to be called in `start`.

        adapter: of each trained tensor, by its name. weights: of each adapted dense weight (out, in), by its module;
        with full fine-tuning the two are one. [arXiv 1612.00796; per sequence, see training/fisher.py]
        """
        chosen = list(range(len(self.memory)))[:rows]
        name = f"fisher-{space}-{len(chosen)}"
        world = self.once.count(name) or self._trainer.args.world_size

        def build(rank: int) -> dict[str, Tensor]:
            return {f"{rank}:{n}": f / len(chosen) for n, f in self._squares(space, chosen[rank::world]).items()}

        def summed() -> dict[str, Tensor]:
            total: dict[str, Tensor] = {}
            for key, part in self._trainer.share_shards(self.once, name, world, build).items():
                of = key.partition(":")[2]
                total[of] = total[of] + part if of in total else part
            return total

        # One file, whatever the number of ranks: a run may go on with more or fewer of them.
        squares = self._trainer.sum_of_shards(self.once, name, summed)
        return {n: f.to(self._trainer.args.device) for n, f in squares.items()}

    def noise(self, name: str, like: Tensor) -> Tensor:
        """Standard normal values in the shape of `like`, fixed by (seed, step, method, name): equal on all ranks."""
        generator = torch.Generator().manual_seed(mem.seed_of(self.seed, self.step, self._who, self._turn, name))
        return torch.randn(like.shape, generator=generator, dtype=torch.float32).to(like)

    # Talking.

    def log(self, **values: float | Tensor) -> None:
        """Means of these until the next log line, under `method/<name>`; tensors are read only then (no sync here)."""
        for name, value in values.items():
            logged = value.detach() if isinstance(value, Tensor) else value
            self.logged.setdefault(f"{self._who}/{name}", []).append(logged)

    def note(self, text: str) -> None:
        """A fact that the results should carry, such as what a weight is called elsewhere."""
        if text not in self.notes:
            self.notes.append(text)
            logger.info(text)

    def warn(self, text: str) -> None:
        """A note that cannot wait for the end: the first rank says it at once, too."""
        if text not in self.notes:
            self.notes.append(text)
            if self._trainer.args.process_index == 0:
                logger.warning("Note: %s.", text)

    # For the trainer.

    def new_step(self, batches: Sequence[dict[str, Tensor]]) -> None:
        self._batches, self._micro_batches = list(batches), len(batches)
        self._rows = self._user_tokens = None
        self._counts = {}

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

    def _squares(self, space: str, chosen: list[int]) -> dict[str, Tensor]:
        """Σ over these memory rows of the squared gradient of their log-likelihood under θ_safe."""
        model = self.bare
        params = self.params()
        self.head()  # read once, by a forward that must not be taken for the rows'
        dense = space == "weights" and self.adapter_mode != "full"
        layers: dict[str, Any] | None = None
        if dense:
            deltas = self.deltas()
            layers = {n: d.layer for n, d in deltas.items()}
            shapes = {n: (d.b.shape[0], d.a.shape[1]) for n, d in deltas.items()}
        else:
            layers = fisher.linear_owners(model, params)
            shapes = {n: tuple(p.shape) for n, p in params.items()}
        size = self._trainer.args.per_device_train_batch_size

        def likelihoods(size: int) -> Iterator[Callable[[], Tensor]]:
            for at in range(0, len(chosen), size):
                rows = mem.replay(self.memory, chosen[at : at + size], self._collator, self._trainer.args.device)
                yield functools.partial(self.nll, rows)

        def shape_of(batch: Any) -> tuple[int, int]:
            rows, tokens = batch.args[0].labels.shape
            return rows, tokens

        was_training = model.training
        model.eval()  # no dropout; and no activation checkpointing, under which a layer would run twice
        try:
            squares = fisher.squares_of_linears(layers, likelihoods(size), shape_of) if layers else None
            if squares is None and layers and size > 1:
                squares = fisher.squares_of_linears(layers, likelihoods(1), shape_of)
            if squares is None:
                if dense:
                    raise UnsupportedError("A dense weight is used outside its layer's forward: use space: adapter.")
                squares = fisher.squares_row_by_row(params, likelihoods(1))
        finally:
            model.train(was_training)
        exact = torch.float64 if any(f.dtype == torch.float64 for f in squares.values()) else torch.float32
        device = self._trainer.args.device
        return {n: squares.get(n, torch.zeros(shape, dtype=exact, device=device)) for n, shape in shapes.items()}

    def _say_unreached(self, space: str, squares: dict[str, Tensor]) -> None:
        """A weight that no memory row reaches has a Fisher of 0, and is not held: a fact of the memory, to be told."""
        none = [n for n, f in squares.items() if not bool(f.any())]
        fresh = space == "adapter" and self.adapter_mode in ("merge", "stack")
        if fresh:  # B is 0, so A's Fisher is 0 on every row: said by the method's own field
            none = [n for n in none if "lora_A" not in n and "lora_embedding_A" not in n]
        if none:
            self.note(
                f"{self._who}: {len(none)} of {len(squares)} tensors have a Fisher of 0, since no memory row reaches "
                f"them (experts that nothing is routed to, say): {none[0]}. Nothing holds them"
            )

    def _drawn(self, n: int, draw: str = "") -> list[int]:
        if n > len(self.memory):
            self.note(
                f"{self._who} replays {n} safety rows in a step and the memory has {len(self.memory)}, so that rows "
                "repeat within a step; raise memory.n_rows, or give more safety rows"
            )
        return mem.draw(len(self.memory), n, self.seed, self._who, self.step, *([draw] if draw else []))

    def _hidden(self, model: Any, rows: mem.Replay) -> Tensor:
        # An index of no positions: even one row of logits reads the whole head.
        none = torch.empty(0, dtype=torch.long, device=rows.labels.device)
        extra = {"logits_to_keep": none} if self._keeps_logits(model) else {}
        out = model(**rows.inputs, **extra, output_hidden_states=True, use_cache=False)
        return out.hidden_states[-1]

    def _keeps_logits(self, model: Any) -> bool:
        inner = self._trainer.accelerator.unwrap_model(model)
        inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
        return "logits_to_keep" in inspect.signature(type(inner).forward).parameters

    def _read_head(self) -> Head:
        rows = mem.replay(self.memory, [0], self._collator, self._trainer.args.device)
        few = {name: value[:, :PROOF_TOKENS] for name, value in rows.inputs.items()}  # logits of a whole row are large
        bare = self.bare
        was_training = bare.training
        bare.eval()
        try:
            with torch.no_grad():
                out = bare(**few, output_hidden_states=True, use_cache=False)
                inner = bare.get_base_model() if hasattr(bare, "get_base_model") else bare
                head = read_head(inner, out.hidden_states[-1][0], out.logits[0])
            if head.trained:
                # The live head moves, so θ_safe's is copied while it is still there.
                def build() -> dict[str, Tensor]:
                    with self.teacher() as model:
                        base = model.get_base_model() if hasattr(model, "get_base_model") else model
                        aligned_head = read_head(base, out.hidden_states[-1][0], out.logits[0])
                        tensors = {"weight": aligned_head.weight.clone()}
                        return tensors if aligned_head.bias is None else tensors | {"bias": aligned_head.bias.clone()}

                stored = self.once("head", build)
                device = self._trainer.args.device
                head.weight, head.bias = stored["weight"].to(device), stored.get("bias", None)
                head.bias = head.bias.to(device) if head.bias is not None else None
        finally:
            bare.train(was_training)
        return head


def combine(values: Sequence[float | Tensor]) -> float:
    """Mean of logged values."""
    return sum(float(v) for v in values) / len(values)
