"""Log-probabilities of response tokens, without keeping a whole batch of logits.

B rows, T tokens, N response tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

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


def nll(h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int = 256) -> Tensor:
    """Σ −log p(token) from hidden states (N, d), with no more than `chunk_tokens` × V logits alive at once.

    tokens: (N,). logits: (n, d) -> (n, V), made again in the backward. Returns a scalar.
    """

    def part(some: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits(some), targets, reduction="sum")

    total = h.sum() * 0.0
    for some, targets in zip(h.split(chunk_tokens), tokens.split(chunk_tokens), strict=True):
        total = total + (
            checkpoint(part, some, targets, use_reentrant=False) if h.requires_grad else part(some, targets)
        )
    return total


def linear_nll(
    h: Tensor,
    tokens: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
    cap: float | None = None,
    chunk_tokens: int = 256,
) -> tuple[Tensor, Tensor]:
    """−log p of each token, (N,), and its gradient by that token's own state, (N, d), under a head by its formula.

    Logits are z = s · (W h + b), and with a cap z = c · tanh(s · (W h + b) / c); the gradient is then
    s · Σ_v (p_v − 1[v = token]) · (1 − z_v² / c²) · W_v. h: (N, d); tokens: (N,); weight: (V, d); bias: (V,). One
    buffer of `chunk_tokens` × V holds the logits and then, in their place, their exponentials; a second one, of a
    capped head, the slopes. Nothing here asks for gradients.
    """
    wide = torch.float64 if h.dtype == torch.float64 else torch.float32
    losses, slopes = h.new_empty(len(h), dtype=wide), torch.empty_like(h)
    chunks = Logits(h, weight, bias, scale, cap, chunk_tokens)
    bent = None if cap is None else h.new_empty(min(chunk_tokens, len(h)), len(weight), dtype=wide)  # (n, V)
    for at in range(0, len(h), chunk_tokens):
        some, targets = slice(at, at + chunk_tokens), tokens[at : at + chunk_tokens, None]  # (n, 1)
        z = chunks(h[some])  # (n, V)
        bend = None if bent is None or cap is None else slope_of_cap(z, cap, bent[: len(z)])
        target_logits, top = z.gather(1, targets), z.amax(1, keepdim=True)  # (n, 1)
        total = z.sub_(top).exp_().sum(1, keepdim=True)  # (n, 1)
        losses[some] = (total.log() + top - target_logits)[:, 0]
        target_rows = weight[targets[:, 0]].to(wide)  # (n, d)
        if bend is not None:
            z *= bend
            target_rows *= bend.gather(1, targets)
        slopes[some] = (chunks.back(z) / total - target_rows) * scale
    return losses, slopes


def divergence(aligned: Tensor, gap: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p′ ‖ p) of each token in nats, (n,), and its gradient by the logits z, p − p′, (n, V).

    aligned: z′, (n, V); gap: z − z′, (n, V), which is overwritten. With x = log p − log p′ it is Σ p′ (eˣ − 1 − x), of
    whose terms none is negative, and p − p′ is p′ (eˣ − 1): nothing cancels near z = z′, where both are exactly 0.
    """
    logp = aligned.log_softmax(1)  # log p′
    live = logp + gap
    gap -= live.logsumexp(1, keepdim=True) - logp.logsumexp(1, keepdim=True)  # x
    p = logp.exp()
    # Beyond 1 there is nothing to cancel, while p′ may round to 0 and eˣ to infinity.
    slope = torch.where(gap < 1, gap.expm1() * p, torch.add(logp, gap, out=live).exp_() - p)
    kl = (slope - gap * p).sum(1)
    return kl, slope.addcmul_(p, slope.sum(1, keepdim=True), value=-1)  # what x is off by as a whole goes here


class Logits:
    """A frozen head's logits for a few tokens at a time, all in one buffer where the precision allows."""

    def __init__(
        self, h: Tensor, weight: Tensor, bias: Tensor | None, scale: float, cap: float | None, chunk_tokens: int
    ) -> None:
        self.weight, self.bias, self.scale, self.cap = weight, bias, scale, cap
        self.dtype = self.wide = torch.float64 if h.dtype == torch.float64 else torch.float32
        kind = h.device.type
        mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        in_place = h.dtype == weight.dtype == self.wide and not mixed
        self._buffer = h.new_empty(min(chunk_tokens, len(h)), len(weight)) if in_place else None

    def __call__(self, some: Tensor) -> Tensor:
        """(n, d) -> (n, V), in fp32 at least; overwritten by the next call."""
        if self._buffer is None:
            raw = torch.nn.functional.linear(some, self.weight, self.bias)  # in the forward's own precision
            self.dtype, z = raw.dtype, raw.to(self.wide)
        else:
            z = torch.mm(some, self.weight.T, out=self._buffer[: len(some)])
            if self.bias is not None:
                z += self.bias
        if self.scale != 1:
            z *= self.scale
        return z if self.cap is None else z.div_(self.cap).tanh_().mul_(self.cap)

    def back(self, z: Tensor) -> Tensor:
        """(n, V) -> (n, d): the product with W, as the backward of the forward's precision takes it."""
        return (z.to(self.dtype) @ self.weight).to(self.wide)


def slope_of_cap(z: Tensor, cap: float, out: Tensor) -> Tensor:
    """dz/d(raw) of z = c · tanh(raw / c): 1 − z² / c²."""
    return torch.mul(z, z, out=out).mul_(-1 / cap**2).add_(1)


def with_slope(value: Tensor, h: Tensor, slope: Tensor) -> Tensor:
    """The scalar `value`, whose gradient by h is `slope`."""
    return value + ((h - h.detach()) * slope).sum()  # adds exactly 0


def token_nll(h: Tensor, tokens: Tensor, logits: Callable[[Tensor], Tensor], chunk_tokens: int = 256) -> Tensor:
    """The same, −log p of each token: (N,)."""

    def part(some: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(logits(some), targets, reduction="none")

    parts = [
        checkpoint(part, some, targets, use_reentrant=False) if h.requires_grad else part(some, targets)
        for some, targets in zip(h.split(chunk_tokens), tokens.split(chunk_tokens), strict=True)
        if len(some)
    ]
    return torch.cat(parts) if parts else h.sum(-1) * 0.0
