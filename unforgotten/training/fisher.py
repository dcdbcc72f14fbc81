"""The diagonal of the empirical Fisher: the mean over sequences of the squared gradient of each one's log-likelihood.

    F_i = 1/N Σ_n (∂ Σ_t log p(y_nt | x_n, y_n<t) / ∂θ_i)²        [Kirkpatrick et al., arXiv 1612.00796]

A sequence is one example: its tokens are summed before squaring, and rows are squared before they are averaged.
Squaring the gradient of a batch's mean instead underestimates F by up to the batch size.

In a linear layer y = Wx the gradient of one row b is Σ_t g_bt x_btᵀ, with g what comes back to its output; so one
backward of a batch gives the exact gradient of every row, and no loop over rows is needed. B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Tensors = dict[str, Tensor]


def squares_of_linears(layers: dict[str, Any], batches: Iterable[Callable[[], Tensor]]) -> Tensors | None:
    """Σ over rows of the squared gradient of each layer's weight, (out, in), by name.

    layers: modules that compute y = Wx (+ anything that does not depend on W); W need not require gradients.
    batches: each runs one forward and returns the summed log-likelihood of its rows (a sign does not matter).
    Returns None where a layer runs twice in a forward: its rows' gradients would then be sums over both.
    """
    inputs: dict[str, Tensor] = {}
    grads: dict[str, Tensor] = {}
    twice = False

    def watch(name: str) -> Callable[..., None]:
        def hook(_: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
            nonlocal twice
            twice = twice or name in inputs
            inputs[name] = given[0].detach()
            if out.requires_grad:
                out.register_hook(lambda g: grads.__setitem__(name, g.detach()))

        return hook

    total: Tensors = {}
    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            inputs.clear()
            grads.clear()
            likelihood = batch()
            if twice:
                return None
            anchors = [p for layer in layers.values() for p in layer.parameters() if p.requires_grad]
            if likelihood.requires_grad:
                torch.autograd.grad(likelihood, anchors, allow_unused=True)
            for name, g in grads.items():
                wide = torch.float64 if g.dtype == torch.float64 else torch.float32
                x = inputs[name]
                for row in range(g.shape[0]):  # one (out, in) gradient alive at a time
                    one = g[row].to(wide).T @ x[row].to(wide)
                    kept = total.get(name)
                    total[name] = one.square_() if kept is None else kept.addcmul_(one, one)
    finally:
        for handle in handles:
            handle.remove()
    return total


def squares_row_by_row(params: Tensors, rows: Iterable[Callable[[], Tensor]]) -> Tensors:
    """The same by one backward for each row, for parameters of any kind."""
    total: Tensors = {}
    for row in rows:
        found = torch.autograd.grad(row(), list(params.values()), allow_unused=True)
        for (name, p), g in zip(params.items(), found, strict=True):
            if g is None:
                g = torch.zeros_like(p)
            wide = g if g.dtype == torch.float64 else g.float()
            total[name] = total[name].addcmul_(wide, wide) if name in total else wide.square()
    return total


def linear_owners(model: Any, params: Tensors) -> dict[str, Any] | None:
    """The linear layer that each parameter is the weight of, by name; None where one is anything else, or shared."""
    owners: dict[int, list[Any]] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            owners.setdefault(id(p), []).append(module)
    found = {name: owners[id(p)] for name, p in params.items()}
    if any(len(who) > 1 or type(who[0]) is not nn.Linear for who in found.values()):
        return None
    if any(params[name] is not who[0].weight for name, who in found.items()):
        return None
    return {name: who[0] for name, who in found.items()}
