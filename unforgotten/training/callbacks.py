"""Trainer callbacks of a run: progress bar, metrics.jsonl, the lease's check, and the stop after SIGTERM."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from unforgotten.runs import atomic, bars, safe_text, terminate
from unforgotten.runs.lease import Lease


def read(path: Path, last_bytes: int | None = None) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl, or those whole within its last bytes; none are there before training begins.

    A line that a kill cut off is left out.
    """
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - last_bytes) if last_bytes else 0)
        raw = file.read()
    for line in raw.split(b"\n"):
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class Claimed(TrainerCallback):
    """Ends training with LeaseLost where another process has taken the run over; no checkpoint is written then."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save or terminate.asked():
            self.lease.check()
        else:
            self.lease.watch()


class Stops(TrainerCallback):
    """Ends training at the next step after SIGTERM, with a checkpoint of that step. To be the last callback."""

    def __init__(self, any_rank: Callable[[int], int]) -> None:
        """any_rank: sums a number over ranks, which must all stop after the same step."""
        self.any_rank = any_rank

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        terminate.defer(True)  # not before: what is filled in before the first step is kept as it is made

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.any_rank(int(terminate.asked())):
            control.should_save = control.should_training_stop = True


class Metrics(TrainerCallback):
    """Appends {"step", "epoch", "loss", "grad_norm", …, "seconds"} to metrics.jsonl.

    On resume, lines after the checkpoint are dropped and the seconds go on from there, so that the file is that of a
    run without interruption.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = 0.0
        self.started = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        lines = [line for line in read(self.path) if line["step"] <= state.global_step]
        steps = [line for line in lines if "train_runtime" not in line]  # the last line of a training that was stopped
        self.before = steps[-1]["seconds"] if steps else 0.0
        if state.is_world_process_zero:
            atomic.put(self.path, "".join(json.dumps(line) + "\n" for line in steps))
        self.started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of training, those before an interruption included (up to its last logged step)."""
        return self.before + time.monotonic() - self.started

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done in here counts for no seconds of training."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.started += time.monotonic() - began

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and state.is_world_process_zero:
            with self.path.open("a") as file:
                file.write(json.dumps({"step": state.global_step, **logs, "seconds": round(self.seconds, 3)}) + "\n")


class Bar(TrainerCallback):
    """A rich progress bar of optimizer steps, with the last loss."""

    def __init__(self, title: str, steps: str = "training steps") -> None:
        """steps: what the optimizer's steps are called where progress is said in lines."""
        self.title, self.steps = title, steps
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        if bars.tick(self.steps, state.global_step, state.max_steps) or bars.hidden or not state.is_world_process_zero:
            return
        self.bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=safe_text.console(stderr=True),
            transient=True,
        )
        self.bar.start()
        title = safe_text.line(self.title)
        self.task = self.bar.add_task(title, total=state.max_steps, completed=state.global_step, loss="")

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        bars.tick(self.steps, state.global_step, state.max_steps)
        if self.bar:
            self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if self.bar and logs and "loss" in logs:
            self.bar.update(self.task, loss=f"loss {float(logs['loss']):.3f}")

    def close(self) -> None:
        """Takes the bar away; also after an error."""
        if self.bar:
            self.bar.stop()
            self.bar = None
