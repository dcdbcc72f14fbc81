"""The user's cross-entropy from the head's input, a few tokens' logits at a time: (T, V) is never made.

    Σ over response tokens of −log softmax(f(W h_t))[y_t]  /  response tokens of the whole step

The model runs without labels and with its head asked for one position; what the head would have read is caught before
it, kept where a response token is predicted, and sent through the head in chunks. With a frozen head each chunk's
gradient by h is taken as the chunk is made, so that nothing is computed twice; where that head is a linear layer and no
more, by its formula, in one buffer. A trained head is run again in the backward. Division, ranks and accumulation stay
the Trainer's: this is its `compute_loss_func` for the time of one call.

B rows, T tokens, N response tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from unforgotten.errors import UnsupportedError
from unforgotten.models.shape import AUTO_VOCABULARY, CHUNK_ELEMENTS
from unforgotten.training import likelihood
from unforgotten.training.collate import predicts
from unforgotten.training.head import PROOF_TOKENS, Head, base, read_head

Loss = Literal["auto", "trainer", "chunked"]


@dataclass
class Forward:
    """What a method may read of a user's forward that made no logits."""

    token_logp: Tensor
    """log p of each response token, (N,), with gradient."""
    hidden_states: Any
    """All layers' states where a method reads them, else None."""

    @property
    def logits(self) -> Tensor:
        """Not there. Raises UnsupportedError that says what to read instead."""
        raise UnsupportedError(
            "The chunked loss makes no logits of a whole batch. Read run.user.token_logp(batch, out) or "
            "out.hidden_states, or train with loss='trainer'."
        )


Terms = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From states (N, d) and tokens (N,): −log p of each token, (N,), and its gradient by that token's state, (N, d)."""


class _Fused(torch.autograd.Function):
    """−log p of each token and, in the same pass, its gradient by that token's own state."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, tokens: Tensor, terms: Terms) -> Tensor:
        losses, slopes = terms(h, tokens)
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, None, None]:
        (slopes,) = ctx.saved_tensors
        return (slopes * above[:, None]).to(slopes.dtype), None, None


def by_autograd(
    h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """The terms through a head of any kind."""
    wide = torch.float64 if h.dtype == torch.float64 else torch.float32
    losses, slopes = h.new_empty(len(h), dtype=wide), torch.empty_like(h)
    for at in range(0, len(h), chunk_tokens):
        part = slice(at, at + chunk_tokens)
        with torch.enable_grad():
            some = h[part].detach().requires_grad_()
            part_losses = cross_entropy(logits(some), tokens[part], reduction="none")
            (slopes[part],) = torch.autograd.grad(part_losses.sum(), some)
        losses[part] = part_losses.detach()
    return losses, slopes


def token_nll(
    h: Tensor,
    tokens: Tensor,
    logits: Callable[[Tensor], Tensor],
    chunk_tokens: int,
    trained: bool,
    terms: Terms | None = None,
) -> Tensor:
    """−log p of each token, (N,), from states (N, d); no more than `chunk_tokens` × V logits are alive at once.

    trained: whether the head's own weights take gradients, which a token's share of is not known before the backward.
    terms: a shorter way to the terms than through `logits`, where there is one.
    """
    if h.requires_grad and not trained:
        return _Fused.apply(h, tokens, terms or partial(by_autograd, logits=logits, chunk_tokens=chunk_tokens))
    return likelihood.token_nll(h, tokens, logits, chunk_tokens)


def chunk_tokens(vocabulary: int, device: torch.device) -> int:
    """How many tokens' logits are made at once."""
    return max(1, CHUNK_ELEMENTS * (1 if device.type == "cpu" else 2) // vocabulary)


@contextmanager
def caught(head: nn.Module) -> Iterator[list[Tensor]]:
    """What the head is given first, whole, while the head itself sees the first position of it alone."""
    seen: list[Tensor] = []

    def hook(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if seen:  # the loss itself, on its chunks
            return None
        seen.append(given[0])
        return (given[0][:, :1], *given[1:])

    handle = head.register_forward_pre_hook(hook)
    try:
        yield seen
    finally:
        handle.remove()


class Chunked:
    """The chunked loss of one model, after a proof that its own loss is nothing else."""

    def __init__(self, head: Head, autocast: Callable[[], Any]) -> None:
        self.module, self.scale, self.cap, self.trained = head.module, head.scale, head.cap, head.trained
        self.vocabulary, self.autocast, self._shape = head.vocabulary, autocast, head.shape
        self.chunk_tokens = chunk_tokens(self.vocabulary, head.weight.device)

    def logits(self, h: Tensor) -> Tensor:
        """(n, d) -> (n, V), in the precision that the training forward has."""
        with self.autocast():
            raw = self.module(h)
        return self._shape(raw)

    def terms(self, h: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """What a head that is a linear layer, soft-capped or not, gives without autograd."""
        module, bent = self.module, (self.scale, self.cap)
        with self.autocast():
            return likelihood.linear_nll(h, tokens, module.weight, module.bias, *bent, self.chunk_tokens)

    @property
    def plain(self) -> bool:
        """Is the head a linear layer and nothing else, also for whoever hooked something to it?"""
        head = self.module
        hooked = head._forward_hooks or len(head._forward_pre_hooks) > 1  # one is `caught`
        return type(head) is nn.Linear and not hooked and not hasattr(head, "_hf_hook")

    def nll(self, h: Tensor, labels: Tensor, where: tuple[Tensor, Tensor]) -> Tensor:
        """−log p of each response token, (N,), from the head's input (B, T, d).

        where: (N,) rows and (N,) positions that predict; made before the forward, so that its kernels are not waited
        for when their number is read.
        """
        rows, at = where
        tokens = labels[rows, at + 1].to(h.device)  # (N,)
        shorter = self.terms if self.plain else None
        return token_nll(h[rows, at], tokens, self.logits, self.chunk_tokens, self.trained, shorter)


def gains(head: nn.Module) -> bool:
    """Is the chunked loss smaller and no slower here? A wide vocabulary, and nothing of the head is trained."""
    wide = int(getattr(head, "out_features", 0)) >= AUTO_VOCABULARY
    return wide and not any(p.requires_grad for p in head.parameters())


def refusal(trainer: Any, own: bool) -> str | None:
    """Why this training cannot have the chunked loss, or None; looks at settings only.

    own: whether the Trainer below has a `compute_loss` of its own.
    """
    from transformers.loss.loss_utils import ForCausalLMLoss

    args, model, head = trainer.args, base(trainer.model), head_of(trainer.model)
    config = model.config.get_text_config() if hasattr(getattr(model, "config", None), "get_text_config") else None
    reasons = {
        "the trainer has a compute_loss of its own": own,
        "compute_loss_func= is set": trainer.compute_loss_func is not None,
        "labels are smoothed": trainer.label_smoother is not None,
        "the model's loss does not take the step's number of tokens": not trainer.model_accepts_loss_kwargs,
        "the model has no output embeddings": head is None,
        "the model's loss is not plain cross-entropy": getattr(model, "loss_function", None) is not ForCausalLMLoss,
        "the model adds a router's loss": bool(getattr(config, "output_router_logits", False)),
        "the head has dropout": any(isinstance(m, nn.Dropout) and m.p > 0 for m in (head.modules() if head else ())),
        "several GPUs share one process": args.n_gpu > 1,
        "FSDP or DeepSpeed shards the head": trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled,
        "the model is compiled": bool(args.torch_compile),
    }
    return next((why for why, so in reasons.items() if so), None)


def proved(model: Any, ids: list[int], autocast: Callable[[], Any]) -> Chunked:
    """The chunked loss of `model` (without any wrapping), held against the model's own on a few tokens.

    Raises UnsupportedError where they differ: then the model's loss is something else.
    """
    inner = base(model)
    head = inner.get_output_embeddings()
    tokens = torch.tensor([(ids * 2)[:PROOF_TOKENS]], device=next(inner.parameters()).device)
    was_training = model.training
    model.eval()
    seen: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with torch.no_grad():
            out = model(input_ids=tokens, labels=tokens, use_cache=False)
            if len(seen) != 1 or seen[0].shape[:2] != tokens.shape:
                raise UnsupportedError(f"{type(inner).__name__} does not run its head once over all positions.")
            chunked = Chunked(read_head(inner, seen[0][0], out.logits[0]), autocast)
            ours = chunked.nll(seen[0], tokens, predicts(tokens).nonzero(as_tuple=True)).mean().double()
    finally:
        handle.remove()
        model.train(was_training)
    if not torch.isclose(ours, out.loss.double(), rtol=2e-2):  # bf16 keeps three digits
        raise UnsupportedError(
            f"The loss of {type(inner).__name__} is not the cross-entropy of its logits ({float(out.loss):.4g} against "
            f"{float(ours):.4g})."
        )
    return chunked


def head_of(model: Any) -> nn.Module | None:
    """The module that turns last hidden states into logits, if the model has one."""
    inner = base(model)
    return inner.get_output_embeddings() if hasattr(inner, "get_output_embeddings") else None
