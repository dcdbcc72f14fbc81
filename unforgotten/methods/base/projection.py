"""The fine-tuned change of a layer, projected onto the direction in which alignment moved it. [arXiv 2405.16833]

    V = W_aligned − W_base,  ΔW = W_tuned − W_aligned,  P of V;  cos(P ΔW, ΔW)

Where there are factors, all goes through thin products: P B = V (Vᵀ B), and with V = B′A′ a LoRA itself,
B′ (A′A′ᵀ)(B′ᵀB): no d × d matrix is ever made. Of two whole matrices only a square of the smaller size is held, and
what else is read or written goes a part at a time. out, in: a weight's sizes; r: rank of ΔW; k: rank of V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base.method import Weights

Project = Callable[["Tensor"], "Tensor"]
Projector = Literal["reference", "orthogonal"]
PART_NUMBERS = 2**20
"""Numbers of a weight that are held of each model at a time: 4 MB in fp32."""


def reference(up: Tensor, down: Tensor | None) -> Project:
    """M (out, n) -> V Vᵀ M / ‖V‖_F, with V = up · down, or V = up where down is None."""
    if down is None:
        norm = up.norm(dim=1).norm()  # in one sum over 16 M numbers fp32 loses 7e-4
        if up.shape[0] < up.shape[1]:  # the smaller of the two squares
            return lambda m: (up @ up.T).div_(norm) @ m
        return lambda m: up @ (up.T @ m).div_(norm)
    gram = down @ down.T  # (k, k)
    norm = ((up.T @ up) * gram).sum().sqrt()
    return lambda m: up @ (gram @ (up.T @ m)) / norm


def orthogonal(up: Tensor, down: Tensor | None, noise: float) -> Project:
    """M (out, n) -> U Uᵀ M; singular values of V at or below `noise`, or the SVD's own error, are no directions."""
    import torch

    if down is None:
        u, s, _ = torch.linalg.svd(up, full_matrices=False)
    else:
        q, small = torch.linalg.qr(up)  # (out, k), (k, k)
        inner, s, _ = torch.linalg.svd(small @ down, full_matrices=False)
        u = q @ inner
    error = float(s[0]) * torch.finfo(s.dtype).eps * max(up.shape)
    u = u[:, s > max(noise, error)]
    return lambda m: u @ (u.T @ m)


def cosine(projected: Tensor, up: Tensor, down: Tensor | None) -> float:
    """cos(P ΔW, ΔW) with ΔW = up · down (or up), P ΔW = projected · down; 1 where nothing was changed at all."""
    if down is None:  # some rows at a time: whole matrices in fp64 would be the most that an edit holds
        sums = [
            ((p * b).sum(), p.square().sum(), b.square().sum())
            for p, b in ((p.double(), b.double()) for p, b in zip(projected.split(256), up.split(256), strict=True))
        ]
        dot, first, second = (sum(column) for column in zip(*sums, strict=True))
    else:
        p, b = projected.double(), up.double()
        gram = down.double() @ down.double().T  # (r, r)
        dot, first, second = (((x.T @ y) * gram).sum() for x, y in ((p, b), (p, p), (b, b)))
    return float(dot / (first * second).sqrt()) if float(second) > 0 and float(first) > 0 else float(second == 0)


def changes(base: Tensor, aligned: Tensor, tuned: Tensor, exact: Any, dim: int) -> Iterator[tuple[Tensor, Tensor]]:
    """V and ΔW of whole weights (out, in), some rows (dim 0) or columns (dim 1) at a time."""
    size = max(1, PART_NUMBERS // aligned.shape[1 - dim])
    for zero, safe, last in zip(*(w.split(size, dim) for w in (base, aligned, tuned)), strict=True):
        wide = safe.to(exact)
        yield wide - zero.to(exact), last.to(exact) - wide


def is_tall(weight: Tensor) -> bool:
    """Has it as many rows as columns, or more? Then Vᵀ ΔW is the smaller square, else V Vᵀ."""
    return weight.shape[0] >= weight.shape[1]


def smaller_square(base: Tensor, aligned: Tensor, tuned: Tensor, exact: Any) -> tuple[Tensor, float, float] | None:
    """Vᵀ ΔW (in, in) or V Vᵀ (out, out), ‖V‖² and ‖ΔW‖²; None where alignment or training did nothing.

    base, aligned, tuned: (out, in). They are read a part at a time: only the square is held whole.
    """
    tall = is_tall(aligned)
    square, moved, changed = None, 0.0, 0.0
    for v, change in changes(base, aligned, tuned, exact, 0 if tall else 1):
        part = v.T @ change if tall else v @ v.T  # (in, in) or (out, out)
        square = part if square is None else square.add_(part)
        moved, changed = moved + _energy(v), changed + _energy(change)
    return None if square is None or not moved or not changed else (square, moved, changed)


def streamed_cosine(base: Tensor, aligned: Tensor, tuned: Tensor, exact: Any) -> float | None:
    """cos(V Vᵀ ΔW, ΔW) of whole weights, a part at a time; None where alignment or training did nothing.

    base, aligned, tuned: (out, in). ‖V‖ cancels out.
    """
    if (sums := smaller_square(base, aligned, tuned, exact)) is None:
        return None
    (square, _, changed), tall = sums, is_tall(aligned)
    dot, projected = (_energy(square) if tall else 0.0), 0.0
    for v, change in changes(base, aligned, tuned, exact, 0 if tall else 1):
        part = (v if tall else square) @ (square if tall else change)
        projected += _energy(part)
        dot += 0.0 if tall else float((part.double() * change.double()).sum())
    return dot / (projected * changed) ** 0.5 if projected else 0.0


def projected_by_rows(weights: Weights, name: str) -> Any:
    """θ_safe + V Vᵀ ΔW / ‖V‖_F of a weight (out, in), made some rows at a time, to be yielded for it.

    Held whole are the smaller square and, of a weight with more columns than rows, ΔW. Raises ValueError where
    alignment or training did nothing.
    """
    import torch

    exact = exact_type(weights, name)
    base, aligned, tuned = (model[name] for model in (weights.base, weights.aligned, weights.tuned))
    if (sums := smaller_square(base, aligned, tuned, exact)) is None:
        raise ValueError(f"{name}: there is no change to project")
    square = sums[0].div_(sums[1] ** 0.5)
    if is_tall(aligned):

        def tall(base: Tensor, aligned: Tensor) -> Tensor:
            wide = aligned.to(exact)
            return torch.addmm(wide, wide - base.to(exact), square)

        return weights.by_rows(name, tall, reads=("base", "aligned"))
    change = tuned.to(exact, copy=True).sub_(aligned)  # each row of V Vᵀ ΔW needs all of it
    return weights.by_rows(
        name,
        lambda aligned, rows: torch.addmm(aligned.to(exact), rows, change),
        reads=("aligned",),
        beside=[square],
    )


def _energy(part: Tensor) -> float:
    """‖part‖²_F, summed in fp64."""
    return float(part.double().square().sum())


def is_layer(name: str, shape: tuple[int, ...]) -> bool:
    """Is it the matrix of a linear layer, neither embedding nor head?"""
    return len(shape) == 2 and not any(part in name for part in ("embed", "lm_head", "wte", "wpe"))


def is_turned(weights: Weights, name: str) -> bool:
    """Is this weight kept as (in, out)? V's columns are directions of a layer's output, so it is turned before."""
    return bool(weights.tuned.transposed(name))


def layer_cosine(weights: Weights, name: str) -> float | None:
    """cos(V Vᵀ ΔW, ΔW) of one layer, by factors where there are some; None where alignment or training did nothing."""
    if weights.tuned.factors(name) is not None or weights.aligned.factors(name) is not None:
        matrices = projected(weights, name, "reference")
        return None if matrices is None else cosine(*matrices)
    whole = [model[name] for model in (weights.base, weights.aligned, weights.tuned)]
    if is_turned(weights, name):
        whole = [w.T for w in whole]
    return streamed_cosine(whole[0], whole[1], whole[2], exact_type(weights, name))


def exact_type(weights: Weights, name: str) -> Any:
    """The type that an edit of this weight is made in: fp32, or fp64 where the model has it."""
    import torch

    return torch.float64 if weights.tuned.dtype(name) == torch.float64 else torch.float32


def is_whole(weights: Weights, name: str) -> bool:
    """Are both changes of this weight whole matrices, kept as (out, in)?"""
    by_factors = any(model.factors(name) is not None for model in (weights.tuned, weights.aligned))
    return not by_factors and not is_turned(weights, name)


def projected(weights: Weights, name: str, projector: Projector) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """(P · up, up, down) with ΔW = up · down, or (P ΔW, ΔW, None); None where alignment or training did nothing."""
    change, exact = weights.tuned.factors(name), exact_type(weights, name)
    if change is not None:
        up, down = change.up.to(exact), change.down.to(exact)
    else:
        up, down = weights.tuned[name].to(exact, copy=True).sub_(weights.aligned[name]), None
        up = up.T if is_turned(weights, name) else up
    moved = weights.aligned.factors(name)
    if moved is not None:
        v, v_down = moved.up.to(exact), moved.down.to(exact)
    else:
        v, v_down = weights.aligned[name].to(exact, copy=True).sub_(weights.base[name]), None
        v = v.T if is_turned(weights, name) else v
    if not bool(v.any()) or not bool(up.any()):
        return None
    if projector == "reference":
        project = reference(v, v_down)
    else:
        project = orthogonal(v, v_down, _rounding(weights, name, v, v_down))
    return project(up), up, down


def _rounding(weights: Weights, name: str, v: Tensor, v_down: Tensor | None) -> float:
    """How large a singular value of V may be that comes from rounding alone.

    A matrix of independent errors of size e has none above e (√out + √in), while its norm ‖·‖_F grows as e √(out·in).
    """
    import torch

    if v_down is not None:
        return float(torch.finfo(v.dtype).eps * v.norm() * v_down.norm())
    stored = max((weights.base.dtype(name), weights.aligned.dtype(name)), key=lambda d: torch.finfo(d).eps)
    rows, columns = v.shape
    return float(torch.finfo(stored).eps * weights.base[name].to(v.dtype).norm() * (rows**-0.5 + columns**-0.5))
