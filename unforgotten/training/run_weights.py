"""`run.weights`: the model under training and θ_safe; their tensors, states, likelihoods, gradients and curvature."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from unforgotten.errors import TrainingError
from unforgotten.methods.base import TrainedWeights
from unforgotten.models.adapters import aligned_only, trained_adapter
from unforgotten.models.lora import Delta, deltas
from unforgotten.runs import bars
from unforgotten.training import fisher, head, likelihood, ranks, replay_memory
from unforgotten.training.fisher import Tensors

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow, RowBatch, Term
    from unforgotten.training.run_base import RunState


class RunWeights(TrainedWeights):
    """The weights of one run. B rows, T tokens, N response tokens, d hidden size."""

    def __init__(self, run: RunState, memory_rows: list[EncodedRow]) -> None:
        self._run, self._memory_rows = run, memory_rows
        self._head: head.Head | None = None

    @property
    def model(self) -> Any:
        """The model without wrapping: for forwards without gradient, and for its names, which are one model's."""
        model = self._run.ranks.unwrapped(self._run.ranks.wrapped)
        return getattr(model, "_orig_mod", model)  # of torch.compile, which puts a prefix before each name

    @contextmanager
    def teacher(self) -> Iterator[Any]:
        """θ_safe in eval mode, without gradient.

        Raises TrainingError after the first step where nothing of θ_safe is left in the model (`continue`, `full`).
        """
        run = self._run
        if run.adapter_mode in ("continue", "full") and (run.step > 0 or not run.once.may_build):
            raise TrainingError(
                f"Under the adapter mode {run.adapter_mode!r} the aligned model is gone after the first step: store "
                "what the method needs of it in `start`, through `run.once`."
            )
        with aligned_only(self.model, run.adapter_mode) as model:
            yield model

    def params(self) -> Tensors:
        """The trained tensors by name."""
        return {n: p for n, p in self.model.named_parameters() if p.requires_grad}

    def snapshot(self) -> Tensors:
        """A copy of the trained tensors as they are now."""
        return {n: p.detach().clone() for n, p in self.params().items()}

    def anchor(self) -> Tensors:
        """The trained tensors' first values, those of θ_safe; to be called in `start` before anything moves them."""
        params = self.params()
        return {n: t.to(params[n].device) for n, t in self._run.once("anchor", self.snapshot).items()}

    def deltas(self) -> dict[str, Delta]:
        """The trained LoRA factors by module. Raises UnsupportedError where something else is trained with them."""
        return deltas(self.model, trained_adapter(self.model) or "")

    def head(self) -> head.Head:
        """How θ_safe turns hidden states into logits; checked once against a real forward."""
        if self._head is None:
            few = self._run.batch(self._memory_rows, [0]).inputs
            self._head = head.of_aligned(
                self.model, few, self.teacher, lambda build: self._run.once("head", build), self._run.ranks.device
            )
        return self._head

    def states(self, batch: RowBatch) -> Tensor:
        """Last hidden states (N, d) of the model under training where these rows predict, with gradient, no logits."""
        # DDP counts its own forwards: one whose gradients are taken by hand must go round it.
        model = self._run.ranks.wrapped if self._run.turn_name == "loss" else self.model
        return batch.select(self.hidden_of(model, batch))

    def hidden_of(self, model: Any, batch: RowBatch) -> Tensor:
        """Last hidden states (B, T, d) of a model such as `teacher` gives."""
        return head.last_hidden(model, batch.inputs, self._run.ranks.unwrapped(model))

    def logp_of(self, model: Any, batch: RowBatch) -> list[Tensor]:
        """log p of each response token under a model such as `teacher` gives: one tensor a row."""
        out = model(**batch.inputs, use_cache=False)
        flat = likelihood.token_logp(out.logits, batch.labels)
        return list(flat.split(batch.predicts.sum(1).tolist()))

    def nll(self, batch: RowBatch, chunk_tokens: int = 256, h: Tensor | None = None) -> Tensor:
        """Σ over the response tokens of these rows of −log p under the model in training, with gradient.

        h: (N, d), their `states`, where a forward has made them already.
        """
        h = self.states(batch) if h is None else h  # (N, d)
        return self.head().nll(h, likelihood.targets(batch.labels, batch.at), chunk_tokens)

    def gradient(self, terms: Iterable[Term]) -> Tensors:
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
        return {n: self._run.ranks.sum_tensor(g) for n, g in sums.items()}

    def dot(self, a: Tensors, b: Tensors) -> Tensor:
        """Σ over all tensors of a · b, summed in fp64; a scalar on the device."""
        return torch.stack([(a[n].double() * b[n].double()).sum() for n in a]).sum()

    def noise(self, name: str, like: Tensor) -> Tensor:
        """Standard normal values in the shape of `like`, fixed by (seed, step, method, name): equal on all ranks."""
        run = self._run
        seed = replay_memory.seed_of(run.seed, run.step, run.method, run.turn_name, name)
        return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32).to(like)

    def fisher(self, space: Literal["weights", "adapter"], rows: int | None = None) -> Tensors:
        """The diagonal Fisher of θ_safe on `rows` memory rows (all for None), built once; to be called in `start`.

        adapter: of each trained tensor, by its name. weights: of each adapted dense weight (out, in), by its module;
        with full fine-tuning the two are one. [arXiv 1612.00796; per sequence, see training/fisher.py]
        """
        run = self._run
        chosen, sum_of = list(range(len(self._memory_rows)))[:rows], functools.partial(self.squares, space)
        means = ranks.mean_over_rows(run.ranks, run.once, f"fisher-{space}-{len(chosen)}", chosen, sum_of)
        return {n: f.to(run.ranks.device) for n, f in means.items()}

    def squares(self, space: Literal["weights", "adapter"], chosen: list[int]) -> Tensors:
        """Σ over these memory rows of the squared gradient of their log-likelihood under θ_safe."""
        run = self._run

        def likelihoods(size: int) -> Iterator[Callable[[], Tensor]]:
            for at in range(0, len(chosen), size):
                report("Fisher information, rows", at, len(chosen))
                yield functools.partial(self.nll, run.batch(self._memory_rows, chosen[at : at + size]))

        self.head()  # read once, by a forward that must not be taken for the rows'
        dense = self.deltas() if space == "weights" and run.adapter_mode != "full" else None
        size, device = run.ranks.micro_batch_rows, run.ranks.device
        with bars.quiet_bar() as report:
            return fisher.squares(self.model, self.params(), dense, likelihoods, size, device)
