"""The diagonal of the empirical Fisher: the mean over sequences of the squared gradient of each one's log-likelihood.

    F_i = 1/N Σ_n (∂ Σ_t log p(y_nt | x_n, y_n<t) / ∂θ_i)²        [Kirkpatrick et al., arXiv 1612.00796]

A sequence is one example: its tokens are summed before squaring, and rows are squared before they are averaged.
Squaring the gradient of a batch's mean instead underestimates F by up to the batch size.

In a linear layer y = Wx the gradient of one row b is Σ_t g_bt x_btᵀ, with g what comes back to its output; so one
backward of a batch gives the exact gradient of every row, and no loop over rows is needed. B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unforgotten.errors import UnsupportedError
from unforgotten.models.lora import Delta

Tensors = dict[str, Tensor]


def squares(
    model: Any,
    params: Tensors,
    dense: Mapping[str, Delta] | None,
    likelihoods: Callable[[int], Iterator[Callable[[], Tensor]]],
    size: int,
    device: torch.device,
) -> Tensors:
    """Σ over rows of the squared gradient of each row's log-likelihood, by the quickest way that tells rows apart.

    dense: the adapted layers, for the squares of their dense weights (out, in); None for those of `params`.
    likelihoods: batches of so many rows each, as `functools.partial(nll, batch)`. size: rows of a batch at most.
    Raises UnsupportedError for a dense weight that is used outside its layer's forward.
    """
    if dense is not None:
        layers: dict[str, Any] | None = {n: d.layer for n, d in dense.items()}
        shapes: dict[str, tuple[int, ...]] = {n: (d.b.shape[0], d.a.shape[1]) for n, d in dense.items()}
    else:
        layers = linear_owners(model, params)
        shapes = {n: tuple(p.shape) for n, p in params.items()}

    def shape_of(batch: Any) -> tuple[int, int]:
        rows, tokens = batch.args[0].labels.shape
        return rows, tokens

    was_training = model.training
    model.eval()  # no dropout; and no activation checkpointing, under which a layer would run twice
    try:
        total = squares_of_linears(layers, likelihoods(size), shape_of) if layers else None
        if total is None and layers and size > 1:
            total = squares_of_linears(layers, likelihoods(1), shape_of)
        if total is None:
            if dense is not None:
                raise UnsupportedError("A dense weight is used outside its layer's forward pass. Set `space: adapter`.")
            total = squares_row_by_row(params, likelihoods(1))
    finally:
        model.train(was_training)
    exact = torch.float64 if any(f.dtype == torch.float64 for f in total.values()) else torch.float32
    return {n: total.get(n, torch.zeros(shape, dtype=exact, device=device)) for n, shape in shapes.items()}


def squares_of_linears(
    layers: dict[str, Any],
    batches: Iterable[Callable[[], Tensor]],
    shape_of: Callable[[Callable[[], Tensor]], tuple[int, int]] | None = None,
) -> Tensors | None:
    """Σ over rows of the squared gradient of each layer's weight, (out, in), by name.

    layers: modules that compute y = Wx (+ anything that does not depend on W); W need not require gradients. Those that
    no row reaches are left out: their sum is 0.
    batches: each runs one forward and returns the summed log-likelihood of its rows (a sign does not matter).
    shape_of: a batch's (B, T), which a layer's input must have, or its tokens are not known to be the rows'.
    A batch of one row needs no such layout: all its tokens are that row's, in however many calls.
    Returns None where the rows cannot be told apart: a layer that runs twice in a batch, that gets its tokens in one
    flat list or sorted by expert, or whose weight is used outside its own forward.
    """
    total: Tensors = {}
    calls: list[_Call] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_: Any, given: tuple[Tensor, ...], out: Tensor) -> None:
            if out.requires_grad:
                call = _Call(name, given[0].detach())
                calls.append(call)
                out.register_hook(call.take)

        return hook

    handles = [layer.register_forward_hook(watch(name)) for name, layer in layers.items()]
    try:
        for batch in batches:
            calls.clear()
            likelihood = batch()
            anchors = [p for layer in layers.values() for p in layer.parameters() if p.requires_grad]
            grads: Sequence[Tensor | None] = ()
            if likelihood.requires_grad and anchors:
                grads = torch.autograd.grad(likelihood, anchors, allow_unused=True)
            # A recomputed forward under checkpointing calls the layer again, but no gradient comes back to that call.
            done = [call for call in calls if call.g is not None]
            shape = shape_of(batch) if shape_of else None
            parts = _rows(done, shape)
            if parts is None or not _all_seen(layers, {c.name for c in done}, anchors, grads):
                return None
            for name, grad in parts:
                sum_so_far = total.get(name)
                total[name] = grad.square_() if sum_so_far is None else sum_so_far.addcmul_(grad, grad)
    finally:
        for handle in handles:
            handle.remove()
    return total


class _Call:
    """One call of a layer: what went in, and what came back to its output."""

    def __init__(self, name: str, x: Tensor) -> None:
        self.name, self.x = name, x
        self.g: Tensor | None = None

    def take(self, g: Tensor) -> None:
        self.g = g.detach()

    def gradient(self, row: int | None = None) -> Tensor:
        """Σ_t g_t x_tᵀ over the tokens of one row, or over all: (out, in)."""
        assert self.g is not None
        wide = torch.float64 if self.g.dtype == torch.float64 else torch.float32
        g, x = (self.g, self.x) if row is None else (self.g[row], self.x[row])
        return g.reshape(-1, g.shape[-1]).to(wide).T @ x.reshape(-1, x.shape[-1]).to(wide)


def _rows(calls: list[_Call], shape: tuple[int, int] | None) -> Iterator[tuple[str, Tensor]] | None:
    """Each row's gradient of each layer, one alive at a time; None where calls do not tell the rows apart."""
    if shape is not None and shape[0] == 1:
        together: dict[str, list[_Call]] = {}
        for call in calls:
            together.setdefault(call.name, []).append(call)
        return ((name, sum((c.gradient() for c in some[1:]), some[0].gradient())) for name, some in together.items())
    names = [call.name for call in calls]
    if len(set(names)) < len(names):
        return None
    if any(call.x.ndim != 3 or (shape is not None and tuple(call.x.shape[:2]) != shape) for call in calls):
        return None
    return ((call.name, call.gradient(row)) for call in calls for row in range(call.x.shape[0]))


def _all_seen(
    layers: dict[str, Any], seen: set[str], anchors: Sequence[Tensor], grads: Sequence[Tensor | None]
) -> bool:
    """Has every layer whose weight got a gradient been called? One used as a mere weight has not."""
    moved = {id(p) for p, g in zip(anchors, grads, strict=False) if g is not None and bool(g.any())}
    return all(name in seen or id(getattr(layer, "weight", None)) not in moved for name, layer in layers.items())


def squares_row_by_row(params: Tensors, rows: Iterable[Callable[[], Tensor]]) -> Tensors:
    """The same by one backward for each row, for parameters of any kind."""
    total: Tensors = {}
    for row in rows:
        grads = torch.autograd.grad(row(), list(params.values()), allow_unused=True)
        for (name, p), g in zip(params.items(), grads, strict=True):
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
    owners_of = {name: owners[id(p)] for name, p in params.items()}
    if any(len(who) > 1 or type(who[0]) is not nn.Linear for who in owners_of.values()):
        return None
    if any(params[name] is not who[0].weight for name, who in owners_of.items()):
        return None
    return {name: who[0] for name, who in owners_of.items()}
