"""Two real training runs, a whole step of one, then a whole step of the other.

Each trainer runs its own `train()` in a thread of its own and waits at `on_step_end` until it is let go for one more
iteration: fetching the batch, before_step, training_step, gradients, clipping, optimizer, logging. Never do both run.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.measure import Figure, clock, of_pairs, synchronize

WARM_UP_STEPS = 3
"""The first step fills stores and caches: what it costs is paid once."""

PLACEMENTS = 4
"""Where a run's tensors come to lie in memory can be worth some of its speed for as long as it lives."""


Make = Callable[[list[TrainerCallback]], Any]
"""Makes a trainer with these callbacks."""


class Lane(TrainerCallback):
    """One training run that goes a step at a time."""

    def __init__(self, make: Make) -> None:
        self._go, self._came = threading.Semaphore(0), threading.Semaphore(0)
        self._stop = False
        self._error: BaseException | None = None
        self.peak_bytes: list[int] = []
        held = _held()
        self.trainer = make([self])
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._come()
        for _ in range(WARM_UP_STEPS):
            self.step()
        self.resident_bytes = _held() - held
        """On a GPU: weights, gradients and optimizer of this run."""

    def step(self) -> float:
        """One iteration; its seconds."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        before = _held()
        started = clock()
        self._go.release()
        self._come()
        synchronize()
        seconds = clock() - started
        if torch.cuda.is_available():
            self.peak_bytes.append(torch.cuda.max_memory_allocated() - before)
        return seconds

    def close(self) -> None:
        """Ends the run, and takes its folder away."""
        self._stop = True
        self._go.release()
        self._thread.join()
        shutil.rmtree(self.trainer.args.output_dir, ignore_errors=True)
        self.trainer = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 0:  # all that a run does once lies behind it; its first step is not measured
            self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait()
        control.should_training_stop = control.should_training_stop or self._stop

    def _wait(self) -> None:
        self._came.release()
        self._go.acquire()

    def _come(self) -> None:
        self._came.acquire()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            torch.set_num_threads(torch.get_num_threads())
            self.trainer.train()
        except BaseException as error:  # it belongs to the thread that measures
            self._error = error
        self._came.release()


def laps(makes: Sequence[Make], rounds: int, peaks: list[int] | None = None) -> list[tuple[float, ...]]:
    """Seconds of a step of each run, in each of so many rounds; who goes first in one round goes last in the next.

    On a CPU the rounds are shared among PLACEMENTS makings of all runs, in this order and in the reverse.
    peaks: is given each run's bytes on the GPU at the highest.
    """
    placements = 1 if torch.cuda.is_available() else min(PLACEMENTS, rounds)
    seen: list[tuple[float, ...]] = []
    for i in range(placements):
        order = list(range(len(makes)))[:: -1 if i % 2 else 1]
        lanes = {n: Lane(makes[n]) for n in order}
        try:
            for j in range(rounds // placements + (i < rounds % placements)):
                seconds = {n: lanes[n].step() for n in order[:: -1 if j % 2 else 1]}
                seen.append(tuple(seconds[n] for n in range(len(makes))))
            if peaks is not None and torch.cuda.is_available():
                peaks[:] = [lanes[n].resident_bytes + max(lanes[n].peak_bytes) for n in range(len(makes))]
        finally:
            for lane in lanes.values():
                lane.close()
    return seen


def race(name: str, a: Make, b: Make, pairs: int, reach: float | None, sense: str = "≤", **more: Any) -> Figure:
    """The figure "a step of A over a step of B"."""
    peaks: list[int] = []
    figure = of_pairs(name, [(x, y) for x, y in laps([a, b], pairs, peaks)], reach, sense, **more)
    if peaks:
        figure.note += f" peak {peaks[0] / 2**30:.1f} GiB, {peaks[0] / peaks[1]:.3f} × the other's."
    return figure


def _held() -> int:
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
