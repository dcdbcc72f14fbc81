"""Worker processes of a comparison: each does the runs that it is told to, with a GPU of its own if there are several.

A worker that is killed takes one run with it, which is told; the next run gets a new process.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.runs import terminate
from unforgotten.runs.progress import quiet
from unforgotten.verbs.compare.grid_run import GridRun, do

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


DOING_BYTES = 256
"""Of a worker's progress, in UTF-8 with a zero at its end."""


class Hand:
    """A worker process, begun with its first run and again where it was killed."""

    def __init__(self, runs: Sequence[GridRun], threads: int, gpu: str | None) -> None:
        self.run: GridRun | None = None
        self._runs, self._threads, self._gpu = list(runs), threads, gpu
        self._process: Any = None
        self._pipe: Connection
        # Shared memory without a lock: a worker that is killed while it writes must not stop us.
        self._doing: Any = multiprocessing.get_context("spawn").RawArray("c", DOING_BYTES)

    def begin(self, run: GridRun) -> None:
        """Gives it a run, with what is known of the lease: how long its holder has been silent."""
        if self._process is not None and not self._process.is_alive():
            self._process = None
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            facts = [(each.recipe, each.folder, each.title) for each in self._runs]
            given = (theirs, os.getpid(), self._threads, facts, self._doing)
            self._process = context.Process(target=_worker, args=given, daemon=True)
            with _only(self._gpu):
                self._process.start()
            theirs.close()
        self.run, run.doing, self._doing.value = run, self.doing, b""
        try:
            self._pipe.send((self._runs.index(run), run.lease.seen))
        except OSError:
            pass  # it has just been killed, as `finish` will find

    def doing(self) -> str:
        """What the worker is doing, and how far it is."""
        return bytes(self._doing.value).decode("utf-8", "ignore")

    def ends(self) -> list[Any]:
        """What to wait for: its word, or its end."""
        return [self._pipe, self._process.sentinel]

    def finish(self) -> GridRun:
        """The run that it was at, with what became of it."""
        run, self.run = self.run, None
        assert run is not None
        run.doing = None
        try:
            run.state, run.why = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            how = f"was killed by signal {-code} (9: often out of memory)" if code < 0 else f"ended with {code}"
            run.state, run.why = "failed", f"its process {how}"
            self._process = None
        return run

    def stop(self) -> None:
        """Sends SIGTERM on: a run that is in training saves its step."""
        if self._process is not None and self._process.is_alive():
            self._process.terminate()

    def join(self) -> None:
        """Waits for the end of the process."""
        if self._process is not None:
            self._process.join()

    def end(self) -> None:
        """Lets the process end by itself if it is idle, so that it leaves nothing behind; else ends it."""
        if self._process is None:
            return
        if self.run is None:
            try:
                self._pipe.send(None)
                self._process.join(10)
            except OSError:
                pass  # it is gone already
        self._process.kill()
        self._process.join()


def _worker(pipe: Connection, parent: int, threads: int, facts: list[tuple[Recipe, Path, str]], doing: Any) -> None:
    """Does the runs that it is told to. doing: memory of the parent, in which the progress is written."""
    # A scheduler may send SIGTERM to all processes, and the parent sends it on: both mean one thing.
    with terminate.handled(forgives=True):
        _work(pipe, parent, threads, facts, doing)


def _work(pipe: Connection, parent: int, threads: int, facts: list[tuple[Recipe, Path, str]], doing: Any) -> None:
    import ctypes

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C, and ends its workers
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive a parent that was killed
        if os.getppid() != parent:
            return
    import torch

    from unforgotten.models.shelf import Shelf
    from unforgotten.recipe.data_sets import DataSets
    from unforgotten.runs import bars

    torch.set_num_threads(threads)
    bars.hidden = True
    shelf, sets = Shelf(), DataSets()
    while (task := _next(pipe)) is not None:
        i, seen = task
        run = GridRun(*facts[i])
        run.lease.seen = seen
        if run.lease.take():
            with bars.passed_on(lambda text: setattr(doing, "value", text.encode()[: DOING_BYTES - 1])):
                do(run, shelf, sets, quiet)
        pipe.send((run.state, run.why))


def _next(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except EOFError:  # the parent is gone
        return None


@contextmanager
def _only(gpu: str | None) -> Iterator[None]:
    """What is started here sees this GPU alone: set before it begins, since CUDA reads it once."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    try:
        yield
    finally:
        if gpu is not None:
            if before is None:
                del os.environ["CUDA_VISIBLE_DEVICES"]
            else:
                os.environ["CUDA_VISIBLE_DEVICES"] = before


def gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    n = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in named.split(",")][:n] if named else [str(i) for i in range(n)]


def share_of_cores(at_once: int) -> int:
    """Threads of a run where so many share the cores; never more than torch would take by itself."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(torch.get_num_threads(), cores // at_once))
