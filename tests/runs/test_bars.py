"""Progress as lines: something is said in time, also where nothing moves, and nobody speaks twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from unforgotten.runs import bars


class Heard:
    """Lines with the time at which each was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.times: list[float] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)
        self.times.append(time.monotonic())


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Waits for other threads, however busy the machine is."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "nothing was said in time"
        time.sleep(0.005)


def test_lines_are_said_in_time_and_end_with_the_work() -> None:
    heard = Heard()
    with bars.in_lines(heard, "loading", every_seconds=0.05):
        until(lambda: len(heard.lines) > 1)
        assert all(line.startswith("  loading:") for line in heard.lines)
        with bars.progress_bar() as progress:
            progress("asking harm", 3, 8)
            until(lambda: "  asking harm: 3 of 8, 0 s" in heard.lines)
        before = len(heard.lines)
        until(lambda: len(heard.lines) > before + 1)
        assert heard.lines[-1].startswith("  loading:"), "what is over is not said any more"
    count = len(heard.lines)
    time.sleep(0.12)
    assert len(heard.lines) == count and not bars.tick("anything", 1, 2)


def test_the_inner_one_speaks_and_the_outer_one_goes_on_afterwards_without_a_gap() -> None:
    outer, inner = Heard(), Heard()
    assert not bars.speaks()
    with bars.in_lines(outer, "outer", every_seconds=0.2):
        assert bars.speaks()
        until(lambda: bool(outer.lines))
        with bars.in_lines(inner, "inner", every_seconds=0.2):
            began, count = time.monotonic(), len(outer.lines)
            until(lambda: len(inner.lines) > 2)
            bars.tick("moves", 1, 2)
            until(lambda: inner.lines[-1].startswith("  moves: 1 of 2"))
        silent = [at for at in outer.times[count:] if at > began]
        assert len(silent) <= 1, "one line may have been under way"
        until(lambda: len(outer.lines) > count + 1)
        assert all(line.startswith("  outer:") for line in outer.lines), "the inner one's progress is its own"
    assert not bars.speaks()
    times = sorted(outer.times + inner.times)
    gaps = sorted(b - a for a, b in zip(times, times[1:], strict=False))
    assert gaps[len(gaps) // 2] < 0.39, "a change of who speaks makes no pause of two intervals"


def test_a_line_of_someone_else_takes_its_place() -> None:
    heard = Heard()
    with bars.in_lines(heard, "loading", every_seconds=0.4):
        for _ in range(30):
            bars.just_spoke()
            time.sleep(0.02)
        assert len(heard.lines) <= 1
        until(lambda: bool(heard.lines))


def test_a_line_of_ones_own_and_control_characters() -> None:
    heard, numbers = Heard(), iter(range(1000))
    with bars.in_lines(heard, "", 0.05, lambda: f"run {next(numbers)}"):
        until(lambda: len(heard.lines) > 2)
    assert heard.lines[:3] == ["run 0", "run 1", "run 2"]
    with bars.in_lines(heard, "a\rb\x1b[2J", every_seconds=0.05):
        until(lambda: any("x1b" in line for line in heard.lines))
    assert not any(c in line for line in heard.lines for c in "\r\x1b")


def test_progress_of_another_thread_is_passed_on_as_text() -> None:
    written: list[str] = []
    with bars.passed_on(written.append):
        thread = threading.Thread(target=lambda: bars.tick("own replies", 5, 9))
        thread.start()
        thread.join()
        assert bars.current() == "own replies: 5 of 9"
        with bars.quiet_bar() as progress:
            progress("storing", 1, 2)
        bars.phase("saving")
    assert written == ["own replies: 5 of 9", "storing: 1 of 2", "own replies: 5 of 9", "saving"]
    assert bars.current() == ""
