"""Progress as lines: something is said in time, also where nothing moves."""

from __future__ import annotations

import time

from unforgotten.runs import bars


def test_lines_are_said_in_time_and_end_with_the_work() -> None:
    said: list[str] = []
    with bars.in_lines(said.append, "loading", every_seconds=0.05):
        time.sleep(0.12)
        assert said and all(line.startswith("  loading:") for line in said)
        with bars.progress_bar() as progress:
            progress("asking harm", 3, 8)
            time.sleep(0.12)
    assert any("asking harm: 3 of 8," in line for line in said)
    count = len(said)
    time.sleep(0.12)
    assert len(said) == count and not bars.tick("anything", 1, 2)
