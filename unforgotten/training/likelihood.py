"""Log-probabilities of response tokens, without keeping a whole batch of logits.

B rows, T tokens, N response tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from unforgotten.methods.base import with_gradient
from unforgotten.training.collate import predicts


def targets(labels: Tensor, at: Tensor | None = None) -> Tensor:
    """(B, T) labels -> (N,): the tokens predicted, in the order of `predicts`, whose places `at` (N,) may be known."""
    if at is not None:
        return labels.flatten().index_select(0, at + 1)
    return labels[:, 1:][predicts(labels)[:, :-1]]


def token_logp(logits: Tensor, labels: Tensor) -> Tensor:
    """log p of each response token, (N,), from logits (B, T, V), in fp32 at least."""
    rows = logits[predicts(labels)]  # (N, V)
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return -cross_entropy(wide, targets(labels).to(logits.device), reduction="none")


def nll(
    h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int = 256, frozen: bool = False
) -> Tensor:
    """Σ −log p(token) from hidden states (N, d), with no more than `chunk_tokens` × V logits alive at once.

    tokens: (N,). logits: (n, d) -> (n, V). frozen: nothing in `logits` is trained, so that the gradient with respect
    to h is all there is, and is taken while a chunk's logits are there; else they are made again in the backward.
    Returns a scalar.
    """

    def part(some: Tensor, told: Tensor) -> Tensor:
        return cross_entropy(logits(some), told, reduction="sum")

    total = h.sum() * 0.0
    for some, told in zip(h.split(chunk_tokens), tokens.split(chunk_tokens), strict=True):
        if not h.requires_grad:
            total = total + part(some, told)
        elif frozen:
            total = total + with_gradient(part, some, told)
        else:
            total = total + checkpoint(part, some, told, use_reentrant=False)
    return total


def linear_nll(
    h: Tensor, tokens: Tensor, weight: Tensor, bias: Tensor | None, scale: float, chunk_tokens: int
) -> tuple[Tensor, Tensor]:
    """−log p of each token, (N,), and its gradient by that token's own state, (N, d), for logits s · (W h + b).

    h: (N, d); tokens: (N,); weight: (V, d); bias: (V,). The gradient is s · (Σ_v p_v W_v − W_token): one buffer of
    `chunk_tokens` × V holds the logits and then, in their place, their exponentials. Nothing here asks for gradients.
    """
    wide = torch.float64 if h.dtype == torch.float64 else torch.float32
    found, slopes = h.new_empty(len(h), dtype=wide), torch.empty_like(h)
    in_place = h.dtype == weight.dtype == wide and not torch.is_autocast_enabled(h.device.type)
    buffer = h.new_empty(min(chunk_tokens, len(h)), weight.shape[0]) if in_place else None  # (n, V)
    for at in range(0, len(h), chunk_tokens):
        some, told = h[at : at + chunk_tokens], tokens[at : at + chunk_tokens]
        if buffer is None:
            raw = torch.nn.functional.linear(some, weight, bias)  # (n, V), in the forward's own precision
            dtype, z = raw.dtype, raw.to(wide)
        else:
            dtype, z = wide, torch.mm(some, weight.T, out=buffer[: len(some)])
            if bias is not None:
                z += bias
        if scale != 1:
            z *= scale
        own, top = z.gather(1, told[:, None]), z.amax(1, keepdim=True)  # (n, 1)
        total = z.sub_(top).exp_().sum(1, keepdim=True)  # (n, 1)
        found[at : at + chunk_tokens] = (total.log() + top - own)[:, 0]
        mean = (z.to(dtype) @ weight).to(wide) / total  # (n, d): the mean row of W under the model
        slopes[at : at + chunk_tokens] = (mean - weight[told].to(wide)) * scale
    return found, slopes


def token_nll(h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int = 256) -> Tensor:
    """The same, −log p of each token: (N,)."""

    def part(some: Tensor, told: Tensor) -> Tensor:
        return cross_entropy(logits(some), told, reduction="none")

    parts = [
        checkpoint(part, some, told, use_reentrant=False) if h.requires_grad else part(some, told)
        for some, told in zip(h.split(chunk_tokens), tokens.split(chunk_tokens), strict=True)
        if len(some)
    ]
    return torch.cat(parts) if parts else h.sum(-1) * 0.0
