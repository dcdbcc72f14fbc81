"""`transformers.Trainer` that gives methods their turns. `MethodMixin` does the same for TRL's SFTTrainer."""

# Long because every point at which the Trainer must be met stands in this one file.

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer

from unforgotten import errors
from unforgotten.errors import RecipeError, TrainingError, UnsupportedError
from unforgotten.methods.base import Drift, Method, ReplySource, turns
from unforgotten.models import adapters, nf4
from unforgotten.models.chat import fits
from unforgotten.runs import bars, terminate
from unforgotten.training import checkpoint, checks, chunked, resume
from unforgotten.training.aligned_store import Once, digest
from unforgotten.training.ask_aligned import AskAligned, aligned_fingerprint
from unforgotten.training.callbacks import Stops
from unforgotten.training.collate import Collator, pad_token, predicts
from unforgotten.training.distance import distance
from unforgotten.training.encode import encoded, encoded_both, ids_of, is_encoded
from unforgotten.training.finished_weights import (
    LiveModel,
    LiveWeights,
    apply,
    base_like,
    check_adapters,
    check_aligned,
    check_base,
)
from unforgotten.training.gradient_ratio import GradientRatios
from unforgotten.training.held_out_rows import Split
from unforgotten.training.memory_choice import Relevant
from unforgotten.training.method_callbacks import Turns
from unforgotten.training.replay_memory import Memory, numbered
from unforgotten.training.run import TrainingRun
from unforgotten.training.run_base import combine
from unforgotten.training.trainer_ranks import TrainerRanks

Tensors = dict[str, Tensor]

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments
    from transformers import Trainer as _Trainer

    from unforgotten.datasets.base import Dataset
    from unforgotten.models.chat import Chat

    Rows = Dataset | Iterable[Any]
    """Conversations or encoded rows: an unforgotten Dataset, a datasets.Dataset, a list or an iterator."""
    Named = str | Mapping[str, Any] | Method
    """A method: its name, its settings, or an instance."""
else:
    _Trainer = object  # the mixin goes in front of any Trainer, TRL's too


def _names(model: Any) -> list[str]:
    """The adapters on a model, where there is one alone; two of them are stacked."""
    names = list(getattr(model, "peft_config", None) or {})
    return names if len(names) == 1 else []


_UNREAD: Any = object()
"""Not decided yet."""


class MethodMixin(_Trainer):
    """Puts safety-preserving methods on a Trainer: `class T(MethodMixin, SFTTrainer)`.

    Beside the Trainer's own keywords:

    method: a Method, its name (`"der"`), its settings (`{"name": "der", "weight": 5}`), or a list of them.
    safety_dataset: safety rows, in any format that `train_dataset` may have; a row's `kind` ("harmful" | "benign")
        tells refusals from look-alikes. Needed by every method but SFT.
    memory: how many safety rows are kept for replay, and in which mix.
    unaligned_model: θ₀, the weights from before alignment (a folder, a Hub id, a module or a state dict); read by
        methods that edit weights (MagMax, SafeLoRA), one tensor at a time, after training.
    peft_config: a fresh adapter on θ_safe (the model given). Without it: full fine-tuning, or the model's own adapter.
    chat: an unforgotten.models.chat.Chat, where template or date are not the tokenizer's own.
    replies: unforgotten.AlignedReplies(tokenizer), for methods that ask θ_safe for replies before the run
        (`own_replies`).
    lists_folder: where methods write lists of rows to be looked at; None is the folder of the checkpoints.
    eval_dataset: rows in any format that `train_dataset` may have, or a dict of such; `evaluate` and `predict` too.
    max_length: rows are cut to this length; one whose whole response is cut off is dropped and counted.
    log_distance: log the distance from θ_safe also under full fine-tuning, where that keeps a second copy of the
        weights in main memory and on disk; with an adapter it costs next to nothing and is logged in any case.
    save_on_sigterm: on SIGTERM, `train` saves a checkpoint at the next step and raises `terminate.Terminated`, which
        ends the process with 143. All ranks stop after the same step. Works where `train` is called in the main thread;
        the handler that was there is put back.
    loss: "trainer" is the Trainer's own, bit for bit; "chunked" the same cross-entropy to rounding, without ever making
        the logits of a batch (training/chunked.py). "auto" is chunked under a frozen head with a vocabulary of 32,000
        or more, where the model's loss is proved to be nothing else, and "trainer" otherwise; `loss_used` says which.

    Rows may be conversations (`messages`, prompt/completion, Alpaca) or encoded (`input_ids`, `labels`).
    Raises the errors of unforgotten.errors; nothing is trained before every check has passed.
    """

    def __init__(
        self,
        model: PreTrainedModel | torch.nn.Module | str | None = None,
        args: TrainingArguments | None = None,
        *,
        train_dataset: Rows | None = None,
        safety_dataset: Rows | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: PeftConfig | None = None,
        method: Named | Sequence[Named] = "sft",
        unaligned_model: str | Path | torch.nn.Module | Mapping[str, Tensor] | None = None,
        memory: Memory | None = None,
        data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
        max_length: int | None = None,
        chat: Chat | None = None,
        replies: ReplySource | None = None,
        lists_folder: Path | None = None,
        loss: chunked.Loss = "auto",
        log_distance: bool = False,
        save_on_sigterm: bool = False,
        callbacks: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.methods = checks.named(method)
        checks.refuse_types(max_length, memory, chat, peft_config, loss, args)
        self.loss, self._chunked = loss, _UNREAD
        self._apart = False
        """Whether terms that need no forward of the user's were taken before it, in the micro-batch under way."""
        self._save_on_sigterm = save_on_sigterm
        self._log_distance, self._anchor = log_distance, dict[str, Tensor]()
        if isinstance(model, str):
            from unforgotten.models.load import load_model

            model = load_model(model)
        if model is None or train_dataset is None:
            raise RecipeError(f"{type(self).__name__} needs model= and train_dataset=.")
        self._encode: dict[str, Any] = {"max_length": max_length, "processing_class": processing_class}
        self.chat, (user, self.counts), (safety, self.safety_counts) = encoded_both(
            train_dataset, safety_dataset, chat, **self._encode
        )
        checks.refuse_missing(self.methods, safety_rows=bool(safety), unaligned_model=unaligned_model is not None)
        needy = [n for n, m in self.methods.items() if m.needs_unaligned_model]
        self.unaligned_model, self.edited = unaligned_model, list[str]()
        args = self._settled(args)
        checks.refuse_packing(args)
        checks.refuse_shards(self.methods.values(), args)
        checks.refuse_early_steps(self.methods.values(), args)
        checks.refuse_parts(self.methods.values(), model)
        checks.refuse_replicas(model)
        one_device = checks.one_device(args)
        checks.refuse_4_bits(self.methods.values(), model, peft_config is None and adapters.TRAINED in _names(model))
        nf4.keep_layout(model)
        if peft_config is not None:
            with torch.random.fork_rng():
                torch.manual_seed(args.seed)  # the adapter's first values follow from the run's seed alone
                model = adapters.fresh(model, peft_config)
        pad_id = pad_token(processing_class, model)
        fits.refuse([(str(row.get("source") or ""), row["input_ids"]) for row in [*user, *safety]], model, pad_id)
        kwargs["eval_dataset"] = self._held_out(kwargs.get("eval_dataset"), "eval_dataset", model)
        memory = memory or Memory()
        needed = max(each.held_out_share for each in self.methods.values())
        checks.refuse_held_out(memory.held_out or needed, bool(safety), args)
        mode, relevant = adapters.adapter_mode_of(model), None
        if memory.choose == "relevance":
            states = Path(args.output_dir) / "aligned-states"
            of_run = (memory.relevance_power, int(args.seed), pad_id, args.per_device_train_batch_size)
            relevant = Relevant(model, mode, safety, user, *of_run, args.device, states)
        parts = memory.split(safety, user, int(args.seed), needed, relevant) if safety else Split([], [])
        self.run = TrainingRun(
            TrainerRanks(self, args),
            user,
            numbered(safety, parts.replay),
            mode,
            int(args.seed),
            pad_id,
            numbered(safety, parts.held_out),
            memory,
            needed > 0,
        )
        self.run.lists_folder = lists_folder
        for note in [*parts.notes, *(relevant.notes if relevant else [])]:
            self.run.note(note)
        if one_device:
            self.run.note(one_device)
        if replies is not None:
            answers = Path(args.output_dir) / "answers"
            self.run.asked = AskAligned(model, mode, replies, answers, max_length, args.device)
        rows = user
        for place, row in enumerate(rows):
            row["user_row"] = place  # methods put rows of their own between them
        for name, each in self.methods.items():
            self.run.user.rows = rows
            with torch.random.fork_rng(devices=[]):
                self.run.method = name
                rows = each.data(self.run)
        self.run.asked = None  # from the first step on it is θ_safe no more
        self.run.user.rows = user
        self.run.user.places = [row.get("user_row", -1) for row in rows]
        rows = [{"input_ids": r["input_ids"], "labels": r["labels"], "row_id": i} for i, r in enumerate(rows)]
        self.run.user.trained_rows = rows
        super().__init__(
            model=model,
            args=args,
            train_dataset=self._parent_rows(rows),
            data_collator=data_collator or Collator(pad_id),
            processing_class=processing_class,
            callbacks=[*(callbacks or []), Turns(self)],
            **kwargs,
        )
        if data_collator is not None:
            checks.refuse_collator(data_collator, rows)
        checks.refuse(self.methods.values(), self.args, self)
        checks.refuse_shapes(self.methods.values(), self.run)
        if loss == "chunked" and (why := chunked.refusal(self, self._own_loss())):
            raise UnsupportedError(f"loss='chunked': {why}. Use loss='trainer'.")
        if needy:
            live = LiveModel(self.model, self.run.adapter_mode, "aligned", {})
            below = base_like(live, unaligned_model)
            check_base(live, below)
            live = LiveModel(self.model, self.run.adapter_mode, "tuned", {})
            check_aligned(live, below, not any(self.methods[n].dense for n in needy))
        check_adapters(self.methods.values(), LiveModel(self.model, self.run.adapter_mode, "tuned", {}))
        self._micro_batch = 0
        self._broken: Tensor | None = None
        self.resumed_from: Path | None = None
        self._terms: Tensors = {}
        """What each method added to the loss of the micro-batch under way, before the Trainer's own scale."""
        self._ratios = GradientRatios(self.run)

    def _held_out(self, data: Any, what: str, model: Any = None, predicts: bool = False) -> Any:
        """Rows to evaluate on, encoded as `train_dataset` is; encoded ones, and a name of some, stay as they are."""
        if isinstance(data, dict) and "input_ids" not in data:
            return {name: self._held_out(each, f"{what}[{name!r}]", model, predicts) for name, each in data.items()}
        if data is None or isinstance(data, str):
            return data
        if is_encoded(data):
            fits.refuse(ids_of(data, what, predicts), model or self.model)
            return data
        self.chat, rows, _ = encoded(data=data, what=what, chat=self.chat, **self._encode)
        fits.refuse([(str(row.get("source") or ""), row["input_ids"]) for row in rows], model or self.model)
        return self._parent_rows([{"input_ids": row["input_ids"], "labels": row["labels"]} for row in rows])

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own, on rows in any format that `train_dataset` may have."""
        return super().evaluate(self._held_out(eval_dataset, "eval_dataset"), *args, **kwargs)

    def predict(self, test_dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own, on rows in any format that `train_dataset` may have; encoded ones need no labels."""
        return super().predict(self._held_out(test_dataset, "test_dataset", predicts=True), *args, **kwargs)

    @property
    def probe_ids(self) -> list[int]:
        """Token ids of one row, for checks of logits."""
        return list(self.run.user.rows[0]["input_ids"])

    def _settled(self, args: Any) -> Any:
        """The Trainer's arguments, with the one default that hides a NaN turned off."""
        if args is None:
            from transformers import TrainingArguments

            args = TrainingArguments("trainer_output")
        args.logging_nan_inf_filter = False
        return args

    def _parent_rows(self, rows: list[dict[str, Any]]) -> Any:
        """TRL wants a datasets.Dataset; the Trainer takes a list."""
        if not any(c.__module__.startswith("trl.") for c in type(self).__mro__):
            return rows
        from datasets import Dataset

        return Dataset.from_list(rows)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns  # type: ignore[has-type]
        if "row_id" not in columns:
            self._signature_columns = [*columns, "row_id"]

    # The run: start, resume, finish.

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """Trains. `resume_from_checkpoint=True` goes on from the newest whole checkpoint, or from the start.

        Checkpoints that are not what was written are named, put aside and skipped. Raises TrainingError where the
        one that is named is damaged, where ranks see different ones, and where its steps had other rows.
        """
        if not self._save_on_sigterm:
            return self._train(resume_from_checkpoint, **kwargs)
        if not any(isinstance(callback, Stops) for callback in self.callback_handler.callbacks):
            self.add_callback(Stops(self.run.ranks.sum_number))
        try:
            with terminate.handled():
                return self._train(resume_from_checkpoint, **kwargs)
        finally:
            terminate.defer(False)

    def _train(self, resume_from_checkpoint: str | bool | None, **kwargs: Any) -> Any:
        output = Path(self.args.output_dir)
        checks.one_device(self.args)  # again: the arguments are the caller's, and may have been set up anew
        self.resumed_from = chosen = resume.start(self, resume_from_checkpoint)
        self.run.once = Once(output / "aligned-states", self._key(), may_build=chosen is None, warn=self.run.warn)
        result = super().train(resume_from_checkpoint=str(chosen) if chosen else None, **kwargs)
        if self._save_on_sigterm and self.run.ranks.sum_number(int(terminate.asked())):
            raise errors.Terminated(
                f"Terminated. Step {self.state.global_step} of {self.state.max_steps} is saved in {output}. Run the "
                "same command again to continue from there."
            )
        terminate.defer(False)
        self._ratios.note()
        self.finish()
        if (held_out := self.run.memory.held_out).rows:
            means = held_out.finish(self.model if self.edited else self.run.weights.model).means
            moved = ", ".join(f"{kind} {means[f'kl_{kind}']:.3g}" for kind in held_out.kinds)
            self.run.note(f"KL from the aligned model on held-out safety rows, in nats per token: {moved}")
        return result

    def _key(self) -> str:
        """What stored states depend on: θ_safe, the memory's tokens and labels, the mode. Taken before any resume."""
        weights = aligned_fingerprint(self.model, self.run.adapter_mode)
        rows = [(r["input_ids"], r["labels"]) for r in self.run.memory.rows]
        return digest(weights, rows, self.run.adapter_mode, self.args.bf16)

    def finish(self) -> None:
        """Overwrites weights with what methods' `finish` yields, each seeing what the one before left.

        Where whole weights were edited, `self.model` is from then on the plain model, without adapters.
        """
        for name, method in self.methods.items():
            if "finish" not in turns(type(method)):
                continue
            model: Any = self.run.weights.model
            if self.edited and (method.needs_unaligned_model or method.reads_aligned):
                raise TrainingError(
                    f"{name} cannot edit what {' and '.join(self.edited)} left, since θ_safe is no longer in memory. "
                    f"Save the model, then run `unforgotten repair --method {name}` on it."
                )
            bars.phase(f"{name}: editing the final weights")
            with self.run.turn(name, "finish"):
                edited = apply(method, self._weights(model, method), self.run.weights.params(), model)
            if edited is not model:
                self.model = self.model_wrapped = edited
                self.edited.append(name)

    def _weights(self, model: Any, method: Method) -> LiveWeights:
        mode = self.run.adapter_mode
        reads = method.needs_unaligned_model or method.reads_aligned
        anchor = self.run.weights.anchor() if reads and mode in ("continue", "full") else {}
        tuned = LiveModel(model, mode, "tuned", anchor)
        base = (
            base_like(tuned, self.unaligned_model)
            if self.unaligned_model is not None and method.needs_unaligned_model
            else None
        )
        aligned = LiveModel(model, mode, "aligned", anchor, base)
        return LiveWeights(base, aligned, tuned, self.run.note, self.run.weights.params())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """The trained adapter alone is read back: the Trainer would make the first of two active adapters train."""
        model = model or self.model
        adapter = adapters.trained_adapter(model)
        if adapter is None:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        folder = Path(resume_from_checkpoint)
        file = (folder if adapter == "default" else folder / adapter) / "adapter_model.safetensors"
        set_peft_model_state_dict(model, load_file(file), adapter_name=adapter)
        return None

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        def settings() -> list[dict[str, Any]]:
            return [self.lr_scheduler.state_dict(), *self.optimizer.param_groups]

        with resume.reading(checkpoint, settings):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with resume.reading(checkpoint):
            super()._load_rng_state(checkpoint)

    # Turns inside a step.

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: Any) -> tuple[list[Any], Any]:
        if 0 < self.state.max_steps <= self.state.global_step:
            return [], None  # resumed after its last step, within an epoch: the Trainer would take one step more
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if not batches:
            return batches, items
        self.run.new_step(batches)
        self._micro_batch = 0
        self._ratios.new_step(any(method.reads_gradient_norms(self.run) for method in self.methods.values()))
        count = len(batches)
        for name, method in self.methods.items():
            if "before_step" in turns(type(method)):
                with self.run.turn(name, "before_step"):
                    batches = method.before_step(self.run, batches)
                if len(batches) != count:
                    raise TrainingError(f"{name}.before_step returned {len(batches)} micro-batches for {count}.")
                self.run.new_step(batches)
                items = self._get_num_items_in_batch(batches, device)
        return batches, items

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        row_id = inputs.pop("row_id", None)
        working = [] if not model.training else self._working(self._apart)
        reads = any(m.reads_forward for _, m in working)
        asked = {"output_hidden_states": True} if any(m.reads_hidden for _, m in working) else {}
        parts = None if return_outputs or num_items_in_batch is None or not model.training else self.chunked_loss()
        if parts is not None:
            loss, out = self._in_chunks(parts, model, {**inputs, **asked}, num_items_in_batch)
        else:
            computed = super().compute_loss(
                model,
                {**inputs, **asked},
                return_outputs=return_outputs or reads,
                num_items_in_batch=num_items_in_batch,
            )
            loss, out = computed if return_outputs or reads else (computed, None)
        term = self._term(working, inputs if row_id is None else {**inputs, "row_id": row_id}, out)
        if term is not None:
            # The Trainer divides by the micro-batches whatever was not normalised over the whole step.
            scale = 1 if self._loss_is_scaled(num_items_in_batch) else self._micro_batches_here()
            term = term * scale
            self._ratios.add_terms(self._terms, scale)
            loss = loss + term.to(loss.dtype)
        return (loss, out) if return_outputs else loss

    def _working(self, read_the_forward: bool) -> list[tuple[str, Method]]:
        """Methods with a term of the loss; those alone that read the user's forward, where the others had theirs."""
        with_term = [(name, method) for name, method in self.methods.items() if "loss" in turns(type(method))]
        return [(n, m) for n, m in with_term if not read_the_forward or m.reads_forward or m.reads_hidden]

    def _term(self, working: Sequence[tuple[str, Method]], batch: dict[str, Any], out: Any) -> Tensor | None:
        """What methods add to the loss of one micro-batch."""
        self._terms = {}
        for name, method in working:
            with self.run.turn(name, "loss", self._micro_batch):
                term = method.loss(self.run, batch, out)
                if term is not None:
                    total, count = term
                    value = total / max(count, 1)
                    self.run.log(loss=value * self.run.slots)  # an estimate from this share of the step
                    # DDP averages gradients over ranks, while a term's count already spans them.
                    self._terms[name] = value * self.args.world_size
        return torch.stack(list(self._terms.values())).sum() if self._terms else None

    def _term_apart(self, model: Any, batch: dict[str, Any]) -> Tensor | None:
        """Forward and backward of terms that read nothing of the user's forward, before it is made; their value.

        So the activations of a replay are freed before those of the user's rows come: the memory of SFT.
        """
        ours = [pair for pair in self._working(False) if pair not in self._working(True)]
        if not ours:
            return None
        model.train()
        # Local gradients are enough here: DDP sums what has gathered when the user's own come.
        alone = self.accelerator.no_sync(model) if self.args.world_size > 1 else contextlib.nullcontext()
        with alone:
            with self.compute_loss_context_manager():
                term = self._term(ours, batch, None)
            if term is not None and term.requires_grad:
                self._ratios.add_terms(self._terms, 1)
                self.accelerator.backward(term)
        return None if term is None else term.detach()

    def chunked_loss(self) -> chunked.Chunked | None:
        """The chunked loss where it is taken, else None; decided once, by the settings and one small forward."""
        if self._chunked is not _UNREAD:
            return self._chunked
        self._chunked = None
        head = chunked.head_of(self.model) if self.loss == "auto" else None
        gains = head is not None and chunked.gains(head) and chunked.refusal(self, self._own_loss()) is None
        if self.loss == "chunked" or gains:
            try:
                ids = list(self.run.user.trained_rows[0]["input_ids"])
                self._chunked = chunked.proved(self.run.weights.model, ids, self.accelerator.autocast)
            except UnsupportedError:
                if self.loss == "chunked":
                    raise
        return self._chunked

    @property
    def loss_used(self) -> str:
        """`trainer` or `chunked`."""
        return "trainer" if self.chunked_loss() is None else "chunked"

    def _own_loss(self) -> bool:
        return getattr(super().compute_loss, "__func__", None) is not Trainer.compute_loss

    def _in_chunks(self, parts: chunked.Chunked, model: Any, inputs: dict[str, Any], items: Any) -> tuple[Tensor, Any]:
        """The loss of one micro-batch and what methods may read of its forward."""
        where = predicts(inputs["labels"]).nonzero(as_tuple=True)  # (N,) rows, (N,) positions
        forwards: list[chunked.Forward] = []

        def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any) -> Tensor:
            nll = parts.nll(seen[0], labels, where)  # (N,)
            forwards.append(chunked.Forward(-nll, getattr(outputs, "hidden_states", None)))
            return nll.sum() / num_items_in_batch

        # For this one call: whatever else asks whether a loss function is set must see the Trainer as it was made.
        self.compute_loss_func: Any = loss
        try:
            with chunked.caught(parts.module) as seen:
                value = super().compute_loss(model, inputs, num_items_in_batch=items)
        finally:
            self.compute_loss_func = None
        return value, forwards[0]

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        before = None
        if self._goes_apart():
            inputs = self._prepare_inputs(inputs)
            before, self._apart = self._term_apart(model, inputs), True
        try:
            loss = super().training_step(model, inputs, num_items_in_batch)
        finally:
            self._apart = False
        if before is not None:
            loss = loss + before.to(loss.dtype)
        self._micro_batch += 1
        self._watch(loss)
        if self.accelerator.sync_gradients:
            norms = self._ratios.norms(sharded=self.is_fsdp_enabled)
            self.run.norms = {name: (norms.user, own) for name, own in norms.methods.items()} if norms else {}
            norms = norms if self.run.logs_this_step else None
            for name, method in self.methods.items():
                if "gradients" in turns(type(method)):
                    before = self._ratios.gradients() if norms else {}
                    with self.run.turn(name, "gradients"):
                        method.gradients(self.run)
                    if norms:
                        norms.add(name, self._ratios.change(before))
            if norms:
                self._ratios.log(norms)
        return loss

    def _goes_apart(self) -> bool:
        """Not with optimizers that step within the backward, nor with FSDP, whose shards gather in each."""
        return self.args.optim not in ("lomo", "adalomo") and not self.is_fsdp_enabled

    def _micro_batches_here(self) -> int:
        return int(getattr(self, "current_gradient_accumulation_steps", None) or self.args.gradient_accumulation_steps)

    def _loss_is_scaled(self, num_items_in_batch: Any) -> bool:
        """Whether the Trainer leaves the loss of a micro-batch as it is; its own rule, before and since 5.19."""
        declared = getattr(self, "loss_is_scaled_for_ga", None)
        if declared is not None:
            return bool(declared)
        return (self.model_accepts_loss_kwargs and num_items_in_batch is not None) or self.compute_loss_func is not None

    # Logging and broken losses.

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds what methods logged since the last line, and how far θ is from θ_safe."""
        if "loss" in logs and (self.run.adapter_mode != "full" or self._anchor) and not self.is_fsdp_enabled:
            with self.run.turn("method", "log"):
                if (apart := distance(self.run, self._anchor)) is not None:
                    self.run.log(distance_from_aligned=apart)
        more = {name: combine(values) for name, values in self.run.logged.items() if values}
        self.run.logged.clear()
        fixed = [name for name, method in self.methods.items() if getattr(method, "weight", None) != "auto"]
        self._ratios.remember(fixed, more)  # whose advice is to lower the weight
        return super().log({**logs, **more}, *args, **kwargs)

    def anchor_distance(self) -> None:
        """Keeps θ_safe's trained tensors on the CPU, where the distance from them is to be logged."""
        if self.run.adapter_mode == "continue" or (self.run.adapter_mode == "full" and self._log_distance):
            self._anchor = self.run.once("anchor", self.run.weights.snapshot)

    def log_aside(self, logs: dict[str, float]) -> None:
        """A line of its own, which leaves what methods logged to the next one."""
        super().log(logs)

    def log_drift(self, drift: Drift) -> None:
        """A line about held-out rows, at the step that was measured."""
        self.log_aside({f"held_out/{name}": value for name, value in drift.means.items()})

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        if isinstance(norm, Tensor):
            self._watch(norm)
        return norm

    def _watch(self, value: Tensor) -> None:
        """Remembers, without a host-device synchronisation, that a loss or gradient norm was not finite."""
        bad = ~torch.isfinite(value.detach()).all()
        self._broken = bad if self._broken is None else self._broken | bad

    def stop_if_broken(self) -> None:
        """Raises TrainingError before anything is saved with weights that a NaN has touched."""
        if self._broken is not None and bool(self._broken):
            last = next(iter(checkpoint.marked(Path(self.args.output_dir))), None)
            raise TrainingError(
                f"The loss or its gradient became NaN or infinite at or before step {self.state.global_step}. "
                + (f"The last checkpoint is kept: {last}. " if last else "No checkpoint had been written yet. ")
                + "Lower the learning rate or the method's weight, clip gradients (max_grad_norm), or use bf16."
            )


class MethodTrainer(MethodMixin, Trainer):
    """`transformers.Trainer` with safety-preserving methods; with `sft` it is the Trainer, step for step.

    Its arguments are described under `help(MethodMixin)`.

    Bit for bit with `loss="trainer"`, which small vocabularies and trained heads have by themselves; otherwise the loss
    is made in chunks, and equal to rounding.

    >>> MethodTrainer(model=aligned, args=TrainingArguments("out"), train_dataset=rows, safety_dataset=refusals,
    ...               processing_class=tokenizer, peft_config=LoraConfig(r=8), method="der").train()
    """
