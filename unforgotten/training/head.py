"""From last hidden states to logits: the language-model head as methods use it, and a proof that we read it rightly.

V vocabulary, d hidden size, N tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unforgotten.errors import UnsupportedError
from unforgotten.training import likelihood

Tensors = dict[str, Tensor]

PROOF_TOKENS = 8
"""Tokens of the forward that a head is checked against: the logits of a whole row are large."""


@dataclass
class Head:
    """logits = cap · tanh(scale · module(h) / cap), with cap None for no soft-cap."""

    module: Any
    """The live head: an nn.Linear, or PEFT's layer around one."""
    scale: float
    cap: float | None
    trained: bool
    """Some step moves it: then the distance of logits is no quadratic form of the hidden states."""
    weight: Tensor
    """θ_safe's own head, (V, d), with any adapter that belongs to θ_safe in it."""
    bias: Tensor | None

    @property
    def vocabulary(self) -> int:
        return self.weight.shape[0]

    @property
    def linear(self) -> bool:
        """Is ‖logits − logits′‖² a quadratic form, to be had from the Gram matrix?"""
        return not self.trained and self.cap is None

    def gram(self) -> Tensor:
        """scale² · WᵀW, (d, d), summed in fp32 (fp64 for fp64 heads) over slices of the vocabulary."""
        exact = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
        total = torch.zeros(self.weight.shape[1], self.weight.shape[1], dtype=exact, device=self.weight.device)
        for rows in self.weight.split(8192):
            total.addmm_(rows.to(exact).T, rows.to(exact))
        return total * self.scale**2

    def logits(self, hidden: Tensor) -> Tensor:
        """The live head on (N, d) -> (N, V)."""
        return self.shape(self.module(hidden))

    def aligned_logits(self, hidden: Tensor) -> Tensor:
        """θ_safe's head on (N, d) -> (N, V), without gradient."""
        with torch.no_grad():
            return self.shape(torch.nn.functional.linear(hidden.to(self.weight.dtype), self.weight, self.bias))

    @property
    def closed(self) -> bool:
        """Is its gradient to be had by formula? Frozen, and the weights whole on this rank (FSDP2 has a shard)."""
        return not self.trained and type(self.weight) is Tensor

    def nll(self, h: Tensor, tokens: Tensor, chunk_tokens: int) -> Tensor:
        """Σ −log p(token) under the live head, with gradient by h; h: (N, d), tokens: (N,)."""
        if not self.closed or not h.requires_grad:
            return likelihood.nll(h, tokens, self.logits, chunk_tokens)
        with torch.no_grad():
            losses, slopes = likelihood.linear_nll(
                h.detach(), tokens, self.weight, self.bias, self.scale, self.cap, chunk_tokens
            )
        return likelihood.with_slope(losses.sum(), h, slopes)

    def distance(self, h: Tensor, stored: Tensor, chunk_tokens: int, weights: Tensor | None = None) -> Tensor:
        """Σ over tokens of ‖z − z′‖² between f(h) and f(h′) of a head that is `closed`, with gradient by h.

        h, stored: (N, d). weights: (N,), of the tokens; None for ones. The gradient is
        2 s · Σ_v (z_v − z′_v) · (1 − z_v² / c²) · W_v; two buffers of `chunk_tokens` × V are alive.
        """
        total, slopes = h.new_zeros((), dtype=torch.promote_types(h.dtype, torch.float32)), torch.empty_like(h)
        with torch.no_grad():
            known = stored.to(self.weight.dtype)
            formula = self.weight, self.bias, self.scale, self.cap, chunk_tokens
            live, aligned = likelihood.Logits(h.detach(), *formula), likelihood.Logits(known, *formula)
            for at in range(0, len(h), chunk_tokens):
                part = slice(at, at + chunk_tokens)
                z = live(h.detach()[part])  # (n, V)
                gap = aligned(known[part]).sub_(z)  # (n, V), z′ − z
                steep = gap if self.cap is None else likelihood.slope_of_cap(z, self.cap, z).mul_(gap)
                slopes[part] = live.back(steep) * (-2 * self.scale)
                square = gap.square_()
                if weights is not None:
                    slopes[part] *= weights[part, None]
                    square *= weights[part, None]
                total += square.sum()
        return likelihood.with_slope(total, h, slopes)

    def kl(self, h: Tensor, stored: Tensor, chunk_tokens: int) -> Tensor:
        """KL(θ_safe ‖ θ) in nats of each token, (N,), with gradient by h, and by the head where that is trained.

        h, stored: (N, d), states of θ and of θ_safe. Some five buffers of `chunk_tokens` × V are alive.
        """
        if not self.closed:
            return self._kl_by_autograd(h, stored, chunk_tokens)
        totals = h.new_empty(len(h), dtype=torch.promote_types(h.dtype, torch.float32))
        slopes = torch.empty_like(h)
        with torch.no_grad():
            live, known = h.detach(), stored.to(self.weight.dtype)
            if self.cap is None:  # W(h − h′), which is exact where h is near h′; the bias cancels
                live = (live - stored.to(h.dtype)).to(self.weight.dtype)
            bias = self.bias if self.cap is not None else None
            of_live = likelihood.Logits(live, self.weight, bias, self.scale, self.cap, chunk_tokens)
            of_aligned = likelihood.Logits(known, self.weight, self.bias, self.scale, self.cap, chunk_tokens)
            for at in range(0, len(h), chunk_tokens):
                part = slice(at, at + chunk_tokens)
                aligned, z = of_aligned(known[part]), of_live(live[part])  # (n, V)
                gap = z if self.cap is None else z - aligned
                totals[part], steep = likelihood.divergence(aligned, gap)
                if self.cap is not None:
                    steep *= likelihood.slope_of_cap(z, self.cap, z)
                slopes[part] = of_live.back(steep) * self.scale
        return totals + ((h - h.detach()) * slopes).sum(1)

    def _kl_by_autograd(self, h: Tensor, stored: Tensor, chunk_tokens: int) -> Tensor:
        def part(some: Tensor, some_stored: Tensor) -> Tensor:
            z, aligned = self.logits(some), self.aligned_logits(some_stored)  # (n, V)
            total, steep = likelihood.divergence(aligned, z.detach() - aligned)
            return total + ((z - z.detach()) * steep).sum(1)

        pieces = zip(h.split(chunk_tokens), stored.split(chunk_tokens), strict=True)
        return torch.cat([checkpoint(part, *piece, use_reentrant=False) for piece in pieces])

    def shape(self, raw: Tensor) -> Tensor:
        wide = raw if raw.dtype == torch.float64 else raw.float()
        wide = wide * self.scale
        return wide if self.cap is None else self.cap * torch.tanh(wide / self.cap)


def dense_head(module: Any, d: int, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """The weight (V, d) and bias (V,) that a head amounts to, adapters included."""
    if isinstance(module, torch.nn.Linear):
        return module.weight.detach(), None if module.bias is None else module.bias.detach()
    with torch.no_grad():
        offset = module(torch.zeros(1, d, dtype=like.dtype, device=like.device))  # (1, V)
        rows = module(torch.eye(d, dtype=like.dtype, device=like.device)) - offset  # (d, V)
    return rows.T.contiguous(), offset[0] if bool(offset.any()) else None


def read_head(model: Any, hidden: Tensor, logits: Tensor) -> Head:
    """Reads the head of `model` and checks it against one forward: hidden (N, d) must give logits (N, V).

    Raises UnsupportedError where neither a constant scale nor a soft-cap explains the logits.
    """
    module = model.get_output_embeddings()
    if module is None:
        raise UnsupportedError(
            f"{type(model).__name__} has no output embeddings, so DER cannot read it as a causal language model."
        )
    config = getattr(model.config, "get_text_config", lambda: model.config)()
    cap = getattr(config, "final_logit_softcapping", None)
    with torch.no_grad():
        raw = module(hidden.to(next(module.parameters()).dtype)).double()  # (N, V)
        seen = logits.double()
        inner = torch.atanh((seen / cap).clamp(-1 + 1e-7, 1 - 1e-7)) * cap if cap else seen
        scale = float((inner * raw).sum() / (raw * raw).sum().clamp_min(1e-30))
        scale = 1.0 if abs(scale - 1) < 1e-2 else scale
        weight, bias = dense_head(module, hidden.shape[-1], hidden)
        trained = any(p.requires_grad for p in module.parameters())
        head = Head(module, scale, cap, trained, weight, bias)
        error = float((head.shape(raw) - seen).abs().max() / seen.abs().max().clamp_min(1e-30))
    if error > 2e-2:  # bf16 keeps three digits; a wrong formula is off by far more
        raise UnsupportedError(
            f"{type(model).__name__} computes logits from its last hidden states neither linearly nor with a soft cap "
            f"(off by {100 * error:.1f} % on one row), so DER cannot replay them from stored states."
        )
    return head


def last_hidden(model: Any, inputs: dict[str, Tensor], unwrapped: Any) -> Tensor:
    """The last hidden states (B, T, d) of a forward that makes no logits where the model can do without.

    inputs: input_ids and attention_mask, (B, T). unwrapped: the model without what wraps it, or itself.
    """
    # An index of no positions: even one row of logits reads the whole head.
    none = torch.empty(0, dtype=torch.long, device=inputs["input_ids"].device)
    takes_index = "logits_to_keep" in inspect.signature(type(base(unwrapped)).forward).parameters
    extra = {"logits_to_keep": none} if takes_index else {}
    return model(**inputs, **extra, output_hidden_states=True, use_cache=False).hidden_states[-1]


def of_aligned(
    model: Any,
    inputs: Tensors,
    teacher: Callable[[], AbstractContextManager[Any]],
    store: Callable[[Callable[[], Tensors]], Tensors],
    device: torch.device,
) -> Head:
    """θ_safe's head, checked against a forward of `model` on the first tokens of one row.

    inputs: input_ids and attention_mask of that row, (1, T). teacher: gives θ_safe. store: builds tensors once and
    keeps them: a head that is trained moves, so θ_safe's is copied while it is still there.
    """
    few = {name: value[:, :PROOF_TOKENS] for name, value in inputs.items()}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            out = model(**few, output_hidden_states=True, use_cache=False)
            head = read_head(base(model), out.hidden_states[-1][0], out.logits[0])
        if head.trained:

            def copy() -> Tensors:
                with teacher() as aligned:
                    aligned_head = read_head(base(aligned), out.hidden_states[-1][0], out.logits[0])
                    tensors = {"weight": aligned_head.weight.clone()}
                    return tensors if aligned_head.bias is None else tensors | {"bias": aligned_head.bias.clone()}

            tensors = store(copy)
            head.weight, head.bias = tensors["weight"].to(device), tensors.get("bias")
            head.bias = head.bias.to(device) if head.bias is not None else None
    finally:
        model.train(was_training)
    return head


def base(model: Any) -> Any:
    """The causal LM under PEFT's wrapper, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
