"""How cost grows: with the memory (flat), the vocabulary (DER's own part flat) and rows (linear), for the plots."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.measure import Figure, of_pairs
from benchmarks.race import Make, laps
from benchmarks.shapes import Shape
from benchmarks.steps import maker

GROUP = "growth"
DOCS = Path(__file__).parent.parent / "docs" / "performance"
POINTS = DOCS / "growth.json"

BRIEF = Shape("brief Llama", 128, 2, 8_000, 344, 2, 2, 64, tokens=64, answer_tokens=40, user_rows=60)
MEMORY_ROWS = (50, 500, 5_000)
VOCABULARIES = (8_000, 32_000, 128_000, 256_000)
BATCHES = (2, 4, 8, 16)
USER_TOKENS, REPLAY = 4, 4.0
"""Against the vocabulary, user rows are short and replayed rows many: SFT's own logits would hide DER's part."""


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """Ratios of the last point to the first, per unit of what grows, with the exponent of a fit in logarithms."""
    few = max(10, pairs // 2)
    points: dict[str, Any] = {}

    times, actual = _against([(m, maker(replace(BRIEF, safety_rows=m), device, "der")) for m in MEMORY_ROWS], few)
    points["memory"] = times
    yield _row("a DER step, memory of 5,000 rows over 50", actual, 1.05, times, device)

    short = replace(BRIEF, tokens=USER_TOKENS, answer_tokens=USER_TOKENS // 2)
    makes: list[Make] = []
    for vocabulary in VOCABULARIES:
        shape, replayed = (replace(some, vocabulary=vocabulary) for some in (short, BRIEF))
        der = maker(shape, device, {"name": "der", "replay": REPLAY}, safety_shape=replayed)
        makes += [der, maker(shape, device, "sft")]
    added = [[lap[2 * i] - lap[2 * i + 1] for i in range(len(VOCABULARIES))] for lap in laps(makes, few)]
    extra = [(vocabulary, median(lap[i] for lap in added)) for i, vocabulary in enumerate(VOCABULARIES)]
    points["vocabulary"] = extra
    both = [(lap[-1], lap[0]) for lap in added]
    yield _row("DER's extra over SFT, vocabulary of 256,000 over 8,000", both, 1.05, extra, device)

    times, actual = _against([(n, maker(replace(BRIEF, batch=n), device, "der")) for n in BATCHES], few)
    points["rows"] = times
    per_row = [(a / (BATCHES[-1] / BATCHES[0]), b) for a, b in actual]
    yield _row("a DER step for each row, batch 16 over 2", per_row, 1.05, times, device)

    DOCS.mkdir(exist_ok=True)
    POINTS.write_text(json.dumps(points, indent=1) + "\n", encoding="utf-8")


def _row(
    name: str, actual: list[tuple[float, float]], reach: float, points: Sequence[tuple[int, float]], device: str
) -> Figure:
    note = f"slope {slope(points):+.3f} in logarithms; " + ", ".join(f"{n:,}: {1e3 * s:.1f} ms" for n, s in points)
    return of_pairs(name, actual, reach, note=note, group=GROUP, device=device)


def _against(made: list[tuple[int, Make]], rounds: int) -> tuple[list[tuple[int, float]], list[tuple[float, float]]]:
    """Median seconds of a step at each point, and (last, first) of each round."""
    seconds = laps([make for _, make in made], rounds)
    times = [(n, median(lap[i] for lap in seconds)) for i, (n, _) in enumerate(made)]
    return times, [(lap[-1], lap[0]) for lap in seconds]


def slope(points: Sequence[tuple[int, float]]) -> float:
    """Least squares of log seconds on log size: 0 is flat, 1 is linear."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(max(y, 1e-9)) for _, y in points]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
