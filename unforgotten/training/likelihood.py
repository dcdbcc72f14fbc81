"""Log-probabilities of response tokens, without keeping a whole batch of logits.

B rows, T tokens, N response tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from unforgotten.training.collate import predicts


def targets(labels: Tensor) -> Tensor:
    """(B, T) labels -> (N,): the tokens predicted, in the order of `predicts`."""
    return labels[:, 1:][predicts(labels)[:, :-1]]


def token_logp(logits: Tensor, labels: Tensor) -> Tensor:
    """log p of each response token, (N,), from logits (B, T, V), in fp32 at least."""
    rows = logits[predicts(labels)]  # (N, V)
    wide = rows if rows.dtype == torch.float64 else rows.float()
    return -cross_entropy(wide, targets(labels).to(logits.device), reduction="none")


def nll(h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int = 256) -> Tensor:
    """Σ −log p(token) from hidden states (N, d), `chunk_tokens` × V logits alive at once, made again in the backward.

    tokens: (N,). logits: (n, d) -> (n, V). Returns a scalar.
    """
    total = h.sum() * 0.0
    for part in _parts(h, tokens, logits, chunk_tokens, "sum"):
        total = total + part
    return total


def token_nll(h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int = 256) -> Tensor:
    """The same, −log p of each token: (N,)."""
    parts = list(_parts(h, tokens, logits, chunk_tokens, "none"))
    return torch.cat(parts) if parts else h.sum(-1) * 0.0


def _parts(
    h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int, reduction: str
) -> Iterator[Tensor]:
    def part(some: Tensor, told: Tensor) -> Tensor:
        return cross_entropy(logits(some), told, reduction=reduction)

    for some, told in zip(h.split(chunk_tokens), tokens.split(chunk_tokens), strict=True):
        if len(some):
            yield checkpoint(part, some, told, use_reentrant=False) if h.requires_grad else part(some, told)
