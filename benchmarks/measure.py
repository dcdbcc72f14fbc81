"""A figure is a ratio of two things measured in turns, with the median of pairs and its interval.

A and B alternate as A B, B A, A B … so that whatever else the machine does falls on both, and a drift on neither.
The interval is distribution-free: two order statistics of the pairs' ratios that hold the median in 95 % of runs.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

LATEST = Path(__file__).with_name("latest.json")


@dataclass(kw_only=True)
class Figure:
    """One row of the table."""

    name: str
    ratio: float
    reach: float | None
    """What the ratio should be; None where nothing was promised and the figure only informs."""
    sense: str = "≤"
    """Whether the ratio should be at most (≤) or at least (≥) the reach."""
    low: float | None = None
    high: float | None = None
    pairs: int = 1
    seconds: tuple[float, float] | None = None
    """Medians of A and B, where the ratio is one of times."""
    note: str = ""
    group: str = ""
    device: str = "cpu"

    @property
    def holds(self) -> bool | None:
        """Judged on the median; the interval is shown beside it."""
        if self.reach is None:
            return None
        return self.ratio <= self.reach if self.sense == "≤" else self.ratio >= self.reach

    def facts(self) -> dict[str, Any]:
        """The row as latest.json has it."""
        actual = asdict(self) | {"holds": self.holds}
        short: dict[str, Any] = {k: float(f"{v:.4g}") for k, v in actual.items() if isinstance(v, float)}
        if self.seconds:
            short["seconds"] = [float(f"{s:.4g}") for s in self.seconds]
        return actual | short


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """The order statistics that hold the median with this confidence; for fewer than 6 values, the extremes."""
    ordered, n = sorted(values), len(values)
    cut, below = 0, 0.0
    while cut < n // 2:
        below += math.comb(n, cut) / 2**n
        if below > (1 - confidence) / 2:
            break
        cut += 1
    return ordered[max(cut - 1, 0)], ordered[n - max(cut, 1)]


def paired(a: Callable[[], float], b: Callable[[], float], pairs: int) -> list[tuple[float, float]]:
    """(seconds of A, seconds of B) for each pair, A first in one and B first in the next."""
    seen = []
    for i in range(pairs):
        if i % 2:
            second = b()
            seen.append((a(), second))
        else:
            seen.append((a(), b()))
    return seen


def of_pairs(
    name: str, actual: Sequence[tuple[float, float]], reach: float | None, sense: str = "≤", **more: Any
) -> Figure:
    """The figure A / B of such pairs."""
    ratios = [a / b for a, b in actual]
    low, high = interval(ratios)
    seconds = median(a for a, _ in actual), median(b for _, b in actual)
    return Figure(
        name=name,
        ratio=median(ratios),
        reach=reach,
        sense=sense,
        low=low,
        high=high,
        pairs=len(actual),
        seconds=seconds,
        **more,
    )


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """`work` as a stopwatch: calling it runs the work and returns its seconds."""

    def run() -> float:
        started = clock()
        work()
        synchronize()
        return clock() - started

    return run


def keep_freed_memory() -> None:
    """Tells glibc to hold on to what is freed, in one arena for all threads; elsewhere nothing.

    Otherwise each run of a race gives its activations back to the system and faults them in again, at each step and
    some runs more than others, by where they happen to lie: a tenth of a step, and no difference between methods.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for setting, value in (
            (-8, 1),
            (-3, 1 << 30),
            (-1, (1 << 31) - 1),
        ):  # M_ARENA_MAX, M_MMAP_… and M_TRIM_THRESHOLD
            mallopt(setting, value)


def clock() -> float:
    """Seconds: on one thread of the CPU those that this process computed, so that a busy machine does not count.

    With an accelerator, or on more threads, those on the wall.
    """
    import torch

    alone = not torch.cuda.is_available() and torch.get_num_threads() == 1
    return time.process_time() if alone else time.perf_counter()


def synchronize() -> None:
    """Waits for the accelerator, where there is one, so that a stopwatch reads work done and not work queued."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def line(figure: Figure) -> str:
    """One line of the printed table."""
    reach = f"{figure.sense} {figure.reach:g}" if figure.reach is not None else ""
    verdict = {True: "holds", False: "FALLS SHORT", None: ""}[figure.holds]
    between = f"[{figure.low:.3f}, {figure.high:.3f}]" if figure.low is not None and figure.high is not None else ""
    seconds = "{:.4g} s / {:.4g} s".format(*figure.seconds) if figure.seconds else ""
    return f"{figure.name:62} {figure.ratio:9.3f} {between:18} {reach:8} {verdict:12} {seconds:24} {figure.note}"


def keep(figures: Iterable[Figure], path: Path = LATEST) -> None:
    """Writes figures to latest.json, in place of those of the same group and device."""
    new = [f.facts() for f in figures]
    fresh = {(f["group"], f["device"]) for f in new}
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [f for f in old if (f["group"], f["device"]) not in fresh]
    path.write_text(json.dumps(kept + new, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
