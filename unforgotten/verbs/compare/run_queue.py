"""The runs of a comparison, each done once: in this process, in workers of its own, and in other shards of the disk.

A run belongs to whoever has its lease (lease.py). One that fails leaves the traceback in its folder (failed.log) and
does not stop the others. What other processes hold is waited for, or left to them (`--shard`).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from unforgotten.errors import Terminated
from unforgotten.recipe.data_sets import DataSets
from unforgotten.runs import bars
from unforgotten.runs.atomic import private_folder
from unforgotten.runs.lease import FOLDER
from unforgotten.runs.progress import Say
from unforgotten.verbs.compare.grid_run import LOG, GridRun, do

PAUSE_SECONDS = 1.0
"""Between two looks at what other processes hold."""


class Work:
    """The runs of a grid in the order in which this process tries them."""

    def __init__(self, runs: Sequence[GridRun], sets: DataSets, say: Say, *, stays: bool) -> None:
        """sets: what the runs have read already. stays: wait for what other processes hold; else end as soon as one of
        them is seen to live, and nothing is left that is free."""
        self.runs, self.sets, self.say, self.stays = runs, sets, say, stays
        self._began_ns = _now_ns(runs[0].folder.parent)
        self._refused = 0
        """How many looks in a row found nothing to do."""
        self._waited: set[GridRun] = set()

    def here(self, threads: int) -> None:
        """One after another, in this process."""
        from unforgotten.models.shelf import Shelf

        shelf = Shelf()
        with _threads(threads):
            for run in self._free(lambda run: run.lease.take(), lambda: time.sleep(PAUSE_SECONDS)):
                self.say(f"Run {self.runs.index(run) + 1} of {len(self.runs)}: {run.title}")
                run.doing = bars.current
                do(run, shelf, self.sets, self.say)
                run.doing = None
                if run.state == "failed":
                    self._told(run)
        shelf.clear()

    def by(self, workers: int, threads: int, gpus: Sequence[str]) -> None:
        """Several at a time, each in a process with its share of the cores, and with a GPU where there are several."""
        from multiprocessing.connection import wait

        from unforgotten.verbs.compare.workers import Hand

        hands = [Hand(self.runs, threads, gpus[i % len(gpus)] if gpus else None) for i in range(workers)]

        def collect(seconds: float) -> None:
            heard = wait([end for hand in hands if hand.run for end in hand.ends()], seconds)
            for hand in hands:
                if hand.run and any(end in heard for end in hand.ends()):
                    self._told(hand.finish())
                    self._refused = 0

        try:
            for run in self._free(
                lambda run: all(hand.run is not run for hand in hands) and run.lease.could(),
                lambda: collect(PAUSE_SECONDS),
                lambda: any(hand.run for hand in hands),
            ):
                next(hand for hand in hands if hand.run is None).begin(run)
                while all(hand.run for hand in hands):
                    collect(PAUSE_SECONDS)
        except Terminated:
            self.say(
                "Terminated: waiting until the runs in training have saved their step. Send SIGTERM again to stop at "
                "once."
            )
            for hand in hands:
                hand.stop()
            for hand in hands:
                hand.join()
            raise
        finally:
            for hand in hands:  # also on Ctrl-C; what they had checkpointed is gone on from
                hand.end()

    def _free(
        self, has: Callable[[GridRun], bool], rest: Callable[[], None], busy: Callable[[], bool] = lambda: False
    ) -> Iterator[GridRun]:
        """Runs to do now, until none is open; or, unless this process stays, none but what others are at work on.

        Of several shards the last to leave has seen everything done: each leaves in the moment in which it sees
        another's sign of life, and that one leaves later.
        """
        while todo := [run for run in self.runs if run.state == "open"]:
            for run in todo:
                if run.state != "open" or self._failed_elsewhere(run):
                    continue
                if has(run):
                    self._refused = 0
                    yield run
                    continue
                self._refused += 1
                if not self.stays and not busy() and self._refused >= len(todo) and run.lease.alive:
                    return
                if self.stays and not busy() and run.lease.holder and run not in self._waited:
                    self._waited.add(run)
                    self.say(
                        f"Another process ({run.lease.holder}) is working on {run.title}. Waiting until it is done."
                    )
            if self._refused:
                rest()

    def _failed_elsewhere(self, run: GridRun) -> bool:
        """Whether another process failed at it since this one began: it would fail here too."""
        log = run.folder / LOG
        try:
            if log.stat().st_mtime_ns < self._began_ns or run.lease.could() is False:
                return False
            run.state, run.why = "failed", f"{log.read_text(encoding='utf-8').strip().splitlines()[-1]} ({log})"
        except OSError:
            return False
        return True

    def _told(self, run: GridRun) -> None:
        if run.state == "done":
            self.say(f"Done: {run.title}")
        elif run.state == "failed":
            self.say(f"Failed: {run.title}: {run.why}")


@contextmanager
def _threads(n: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _now_ns(out: Path) -> int:
    """The time by the clock that stamps files in this folder, which need not be this machine's."""
    file = out / FOLDER / f".now-{uuid.uuid4().hex[:12]}"
    private_folder(file.parent)
    file.touch()
    stamp = file.stat().st_mtime_ns
    file.unlink()
    return stamp
