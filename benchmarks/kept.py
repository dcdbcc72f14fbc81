"""DER against stored logits once more, where freed memory is kept, as the allocators of GPUs keep it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import replay
from benchmarks.measure import Figure

GROUP = "kept"


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """Both heads, nothing promised."""
    for shape in replay.SHAPES.values():
        yield replay.against(
            "stored-logits DER over DER, freed memory kept",
            shape,
            device,
            max(5, pairs // 4),
            loss="trainer",
            group=GROUP,
        )
