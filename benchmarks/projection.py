"""SafeLoRA's projection and cosine of one weight in factors against dense d × d products, d = 4096, r = 8."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.measure import Figure, of_pairs, paired, timed
from benchmarks.obvious import safelora_dense
from unforgotten.methods.safelora import cosine, reference

GROUP = "projection"
D, R = 4096, 8


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """θ_safe − θ₀ is a LoRA itself, as in the paper's setting; and as a whole matrix, as for a chat model."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    up, down, v_up, v_down = normal(D, R), normal(R, D), normal(D, R) * 0.1, normal(R, D) * 0.1
    base = normal(D, D) * 0.02
    aligned = base + v_up @ v_down
    change = aligned - base

    def factored() -> tuple[torch.Tensor, float]:
        projected = reference(v_up, v_down)(up)
        return projected, cosine(projected, up, down)

    def thin() -> tuple[torch.Tensor, float]:
        projected = reference(change, None)(up)
        return projected, cosine(projected, up, down)

    exact, exact_cosine = safelora_dense(*(t.double() for t in (aligned, base, down, up)))
    theirs = float((safelora_dense(aligned, base, down, up)[0] - exact).norm() / exact.norm())
    for name, ours, reach in (("in factors", factored, 100.0), ("where θ_safe is a whole model", thin, None)):
        actual, found_cosine = ours()
        error = float((actual - exact).norm() / exact.norm())
        yield of_pairs(
            f"dense SafeLoRA over ours {name}, d {D:,}, r {R}",
            paired(timed(lambda: safelora_dense(aligned, base, down, up)), timed(ours), max(5, pairs // 8)),
            reach,
            "≥",
            note=f"off by {error:.0e} from dense in float64 (cosine {abs(found_cosine - exact_cosine):.0e}); "
            f"dense in fp32 by {theirs:.0e}.",
            group=GROUP,
            device=device,
        )
