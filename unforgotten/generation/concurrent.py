"""Work on many rows at a time, in threads; each result is given as it comes.

Every result reaches the caller: after an error no new row is begun, and those under way are waited for.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, cast

T = TypeVar("T")


def each(work: Callable[[int, threading.Event], T], indices: Sequence[int], at_once: int) -> Iterator[tuple[int, T]]:
    """(index, work's result) in the order in which results come, `at_once` of them under way.

    `work` is given an event that is set when the rest is given up. The threads are daemons: Ctrl-C does not wait for a
    slow server.
    """
    stop, lock, left = threading.Event(), threading.Lock(), iter(indices)
    done: queue.SimpleQueue[tuple[int, T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            with lock:
                index = next(left, None)
            if index is None:
                return
            try:
                done.put((index, work(index, stop), None))
            except BaseException as error:  # it is raised again where the results are read
                done.put((index, None, error))
                return

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(at_once, len(indices)))]
    for thread in threads:
        thread.start()
    try:
        for _ in indices:
            index, result, error = done.get()
            if error is not None:
                stop.set()
                for thread in threads:
                    thread.join()
                raise error
            yield index, cast(T, result)
    finally:
        stop.set()
