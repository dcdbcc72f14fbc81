"""Project the fine-tuned change of some layers onto the direction in which alignment moved them. [arXiv 2405.16833]

    V = W_aligned − W_base,  ΔW = W_tuned − W_aligned;  where cos(P ΔW, ΔW) is low:  ΔW ← P ΔW

projector: reference    P = V Vᵀ / ‖V‖_F, as IBM/SafeLoRA (model.py) has it. It is no projector: its eigenvalues are
                        σ²/‖V‖_F, not 0 or 1, so that it also shrinks or stretches the change.
           orthogonal   P = U Uᵀ, U the left singular vectors of V: the true projector on V's columns, which the paper
                        writes as V(VᵀV)⁻¹Vᵀ. Where V has full rank it changes nothing.

select: lowest takes the `layers` modules of lowest cosine, the code's default (10); threshold those at or below
`threshold` (0.5 there). The code rounds cosines to five digits, which may tie more modules in; ours does not.

All goes through thin products: P B = V (Vᵀ B), and with V = B′A′ a LoRA itself, B′ (A′A′ᵀ)(B′ᵀB): no d × d matrix is
ever made. out, in: a weight's sizes; r: rank of ΔW; k: rank of V.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from unforgotten.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base import Weights

Project = Callable[["Tensor"], "Tensor"]


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


@dataclass(kw_only=True)
class SafeLoRA(Method):
    """Project the fine-tuned change of some layers onto the direction in which alignment moved them. [2405.16833]"""

    family: ClassVar[str] = "merging"
    neutral: ClassVar[dict[str, Any]] = {"select": "threshold", "threshold": -1.0}
    needs_safety: ClassVar[bool] = False
    needs_unaligned_model: ClassVar[bool] = True

    projector: Literal["reference", "orthogonal"] = "reference"
    """Projector from V, the change that alignment made. `reference`: V Vᵀ/‖V‖_F as in the official code.
    `orthogonal`: the projector onto V's columns."""
    select: Literal["lowest", "threshold"] = "lowest"
    """`lowest`: the `layers` modules with the lowest cosine, as in the code. `threshold`: all modules at or below
    `threshold`."""
    layers: Annotated[int, Ge(0)] = 10
    """Number of modules projected under `lowest`. 10 is the code's value, for a model with 64 modules."""
    threshold: Annotated[float, Ge(-1), Le(1)] = 0.5
    """Highest cosine that is projected under `threshold`. 0.5 is the code's value; -1 projects nothing."""

    def finish(self, weights: Weights) -> Iterable[tuple[str, Any]]:
        cosines = {}
        for name in weights.tuned.names():
            if _is_layer(name, weights.tuned.shape(name)) and (matrices := self._projected(weights, name)):
                cosines[name] = cosine(*matrices)
        low = [n for n, c in cosines.items() if c <= self.threshold and self.threshold > -1]
        if self.select == "lowest":
            low = sorted(cosines, key=lambda n: cosines[n])[: self.layers]
        weights.note(
            f"safelora projected {len(low)} of {len(cosines)} modules; cosines "
            f"{min(cosines.values(), default=1):.3f} to {max(cosines.values(), default=1):.3f}"
        )
        for name in low:
            projected, _, down = self._projected(weights, name) or (None, None, None)
            assert projected is not None
            if down is None:
                edited = projected.T if _turned(weights, name) else projected
                yield name, edited.add_(weights.aligned[name])
            else:
                yield name, weights.product(projected, down)

    @staticmethod
    def is_layer(name: str, shape: tuple[int, ...]) -> bool:
        """Whether a weight is one that it may edit: of a linear layer, and of no embedding or head."""
        return _is_layer(name, shape)

    def _projected(self, weights: Weights, name: str) -> tuple[Tensor, Tensor, Tensor | None] | None:
        """(P · up, up, down) with ΔW = up · down, or (P ΔW, ΔW, None); None where alignment or training did nothing."""
        import torch

        change, exact = weights.tuned.factors(name), torch.float32
        if weights.tuned.dtype(name) == torch.float64:
            exact = torch.float64
        if change is not None:
            up, down = change.up.to(exact), change.down.to(exact)
        else:
            up, down = weights.tuned[name].to(exact, copy=True).sub_(weights.aligned[name]), None
            up = up.T if _turned(weights, name) else up
        moved = weights.aligned.factors(name)
        if moved is not None:
            v, v_down = moved.up.to(exact), moved.down.to(exact)
        else:
            v, v_down = weights.aligned[name].to(exact, copy=True).sub_(weights.base[name]), None
            v = v.T if _turned(weights, name) else v
        if not bool(v.any()) or not bool(up.any()):
            return None
        if self.projector == "reference":
            project = reference(v, v_down)
        else:
            project = orthogonal(v, v_down, _rounding(weights, name, v, v_down))
        return project(up), up, down


def _turned(weights: Weights, name: str) -> bool:
    """Is this weight kept as (in, out)? V's columns are directions of a layer's output, so it is turned before."""
    return bool(weights.tuned.transposed(name))


def _is_layer(name: str, shape: tuple[int, ...]) -> bool:
    """Is it the matrix of a linear layer, neither embedding nor head?"""
    return len(shape) == 2 and not any(part in name for part in ("embed", "lm_head", "wte", "wpe"))


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
