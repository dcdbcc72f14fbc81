"""A comparison without a terminal: one line says where all runs stand, again and again, while workers do them."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from unforgotten.recipe.read import parse
from unforgotten.runs import bars
from unforgotten.verbs.compare import grid_run, live_table

SLOW = """import time
from dataclasses import dataclass
from unforgotten.methods.base import Method


@dataclass(kw_only=True)
class Mine(Method):
    \"\"\"Takes its time before the first step.\"\"\"

    def start(self, run):
        time.sleep(12)
"""


def test_one_line_says_where_all_runs_stand(recipe: Any, tmp_path: Path) -> None:
    """Done, failed, at work here and elsewhere, and waiting; what acts on a terminal is made visible."""
    run_recipe = parse(yaml.safe_load(recipe().read_text()) | {"compare": None})
    names = ["sft", "der, p = 0.1", "ewc", "lwf\x1b[2J", "ema", "lisa", "a", "b", "c", "d"]
    runs = [grid_run.GridRun(run_recipe, tmp_path / "runs" / f"r{i}", name) for i, name in enumerate(names)]
    sft, der, ewc, lwf, ema, *rest = runs
    assert live_table.sentence(runs) == "0 of 10 runs done; 10 wait"
    sft.state, ewc.state = "done", "failed"
    der.doing, lwf.doing = (lambda: "training steps: 40 of 75"), (lambda: "")
    assert ema.lease.take()
    said = live_table.sentence(runs)
    assert said.startswith("1 of 10 runs done; 1 failed; der, p = 0.1: training steps: 40 of 75; lwf"), said
    assert "lwf\\x1b[2J: begins; ema: trains; 5 wait" in said and "\x1b" not in said
    for run in rest[:3]:
        run.doing = lambda: "asking harm: 1 of 2"
    assert "ema: trains; lisa: asking harm: 1 of 2; 2 more at work; 2 wait" in live_table.sentence(runs)
    ema.lease.release()


def test_without_a_terminal_the_board_says_a_line_again_and_again(
    recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_recipe = parse(yaml.safe_load(recipe().read_text()) | {"compare": None})
    runs = [grid_run.GridRun(run_recipe, tmp_path / "runs" / f"r{i}", name) for i, name in enumerate("ab")]
    monkeypatch.setattr(live_table, "EVERY_SECONDS", 0.05)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    heard: list[str] = []
    with live_table.board(runs, heard.append) as say_above:
        say_above("Run 1 of 2: a")
        runs[0].doing = bars.current
        bars.tick("asking harm", 3, 8)
        end = time.monotonic() + 20
        while "  0 of 2 runs done; a: asking harm: 3 of 8; 1 waits" not in heard:
            assert time.monotonic() < end, heard
            time.sleep(0.01)
    assert heard[0] == "Run 1 of 2: a"
