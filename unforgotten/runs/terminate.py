"""SIGTERM: whoever stops a machine sends it first, and what is done by then is to be kept.

Inside `handled()` it is raised as `Terminated`, as Ctrl-C is raised as KeyboardInterrupt: leases are let go of, and the
process ends with 143. Inside a training it waits for the end of the step, which is then saved. A second one ends the
process at once. Process 1 of a container needs this handler most: without one the system keeps SIGTERM from it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unforgotten.errors import TERMINATED, Terminated

_asked = False
_deferred = False
_forgiving = False
_installed = False


@contextmanager
def handled(*, forgives: bool = False) -> Iterator[None]:
    """Raises Terminated on SIGTERM in here; the old handler is put back. Outside the main thread it does nothing.

    forgives: a second SIGTERM is as the first. For a process whose parent sends it on, and that a scheduler sends it
    to as well.
    """
    global _asked, _deferred, _forgiving, _installed
    if _installed or threading.current_thread() is not threading.main_thread():
        yield
        return
    _asked, _deferred, _forgiving, _installed = False, False, forgives, True
    before = signal.signal(signal.SIGTERM, _on_signal)
    try:
        yield
    finally:
        _installed = _deferred = False
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def from_the_start() -> None:
    """Ends this process with 143 on a SIGTERM that comes outside of `handled()`.

    Without it, process 1 of a container would not hear it. A handler that somebody set stays.
    """
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(
            signal.SIGTERM, lambda *_: os._exit(TERMINATED)
        )  # nothing is begun yet that there would be to end


def asked() -> bool:
    """Whether SIGTERM has come."""
    return _asked


def defer(wanted: bool) -> None:
    """Whether SIGTERM waits from here on, for somebody to look at `asked`."""
    global _deferred
    _deferred = wanted and _installed


def _on_signal(number: int, frame: Any) -> None:
    global _asked
    if _asked and _forgiving:
        return
    if _asked:
        os._exit(TERMINATED)
    _asked = True
    if not _deferred:
        raise Terminated
