"""A grid done by workers or by shards is the grid done by one process, whoever is killed; what fails stops no other."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from unforgotten.cli import app
from unforgotten.recipe.read import parse
from unforgotten.runs.lease import Lease
from unforgotten.verbs.compare import grid_run, live_table
from unforgotten.verbs.finetune.job import resolve

Make = Callable[..., Path]
TIMES = ("train_seconds", "step_seconds", "probe_seconds", "peak_memory_bytes")


def untimed(results: Path) -> list[dict[str, Any]]:
    """The rows without what no two runs have alike."""
    rows = json.loads(results.read_text())["rows"]
    for row in rows:
        row["cost"] = {what: value for what, value in row["cost"].items() if what not in TIMES}
    return list(rows)


MINE = """from dataclasses import dataclass
from pathlib import Path
from unforgotten.methods.base import Method


@dataclass(kw_only=True)
"""
"""How a file with a method begins."""


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def results_of(actual: Any) -> Path:
    assert actual.exit_code == 0, actual.output
    return next(Path(line) for line in actual.output.splitlines() if line.endswith("results.json"))


def test_two_workers_do_what_one_process_does_and_one_failure_does_not_stop_the_rest(
    recipe: Any, tmp_path: Path
) -> None:
    """A method that fails while it trains: what no look at the recipe can foresee. The same command goes on."""
    (tmp_path / "mine.py").write_text(
        MINE + "class Mine(Method):\n"
        '    """Fails until a file is there."""\n\n'
        "    def after_step(self, run):\n"
        f"        assert Path({str(tmp_path / 'mended')!r}).exists(), 'the disk is full'\n"
    )
    file = recipe(compare={"method": ["sft", f"{tmp_path / 'mine.py'}:Mine", "der"]})
    outs = {workers: tmp_path / f"by-{workers}" for workers in (1, 2)}
    for workers, out in outs.items():
        result = run("compare", file, "--workers", workers, "--out", out)
        assert result.exit_code == 2, result.output
        assert "1 of 3 runs failed" in result.output and "AssertionError: the disk is full" in result.output
        assert "der" in result.output.partition("error:")[0], "the figures of the others are shown"
        [log] = out.glob("grid-*/failed.log")
        assert "Traceback" in log.read_text() and "mine.py" in log.read_text()
        assert len(list(out.glob("grid-*/trained.json"))) == 2 and not list(out.glob("grid-compare-*"))
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("by-*/grid-*/trained.json")}
    (tmp_path / "mended").touch()
    one, two = (results_of(run("compare", file, "--workers", 1, "--out", out)) for out in outs.values())
    assert all(file.stat().st_mtime_ns == then for file, then in before.items()), "what was done is done once"
    assert not list(tmp_path.glob("by-*/*/failed.log"))
    assert one.parent.name == two.parent.name and untimed(one) == untimed(two) and len(untimed(one)) == 2 + 3
    weights = [sorted(each.parent.parent.glob("grid-*/adapter/adapter_model.safetensors")) for each in (one, two)]
    assert [w.parent.parent.name for w in weights[0]] == [w.parent.parent.name for w in weights[1]]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*weights, strict=True))


def shard(file: Path, i: int) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "unforgotten", "compare", str(file), "--shard", f"{i}/3"]
    return subprocess.Popen(words, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True)


def at_work(out: Path, pid: int) -> bool:
    """Whether a process holds the lease of a run."""
    for file in out.glob(".leases/grid-*/*"):
        try:
            text = file.read_text()
        except FileNotFoundError:
            continue
        if "free" not in text and f'"pid": {pid},' in text:
            return True
    return False


@pytest.mark.slow
def test_three_shards_of_which_one_is_killed_do_what_one_process_does(recipe: Any, tmp_path: Path) -> None:
    file = recipe(training={"num_train_epochs": 3, "per_device_train_batch_size": 2, "save_steps": 20})
    shards = [shard(file, i) for i in (1, 2, 3)]
    victim = shards[1]
    while not at_work(tmp_path / "runs", victim.pid):
        assert victim.poll() is None, victim.communicate()
        time.sleep(0.002)
    victim.kill()
    said = [each.communicate(timeout=240)[1] for each in shards]
    assert [each.returncode for each in shards] == [0, -9, 0], said
    [actual] = (tmp_path / "runs").glob("grid-compare-*/results.json")  # without another call
    assert untimed(actual) == untimed(results_of(run("compare", file, "--out", tmp_path / "one")))
    assert sum("Aligning" in text for text in said) >= 2, "two seeds, two models to start from"
    trained = list((tmp_path / "runs").glob("grid-*/trained.json"))
    assert len(trained) == 4
    for each in trained:
        steps = [json.loads(line)["step"] for line in (each.parent / "metrics.jsonl").read_text().splitlines()]
        assert steps == sorted(set(steps)) or steps[:-1] == sorted(set(steps[:-1])), "a step was done twice"


def test_a_run_that_another_process_took_over_is_not_written(recipe: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        MINE + "class Mine(Method):\n"
        '    """While it trains, another process takes the run over."""\n\n'
        "    def after_step(self, run):\n"
        f"        [mine] = Path({str(tmp_path / 'runs')!r}).glob('.leases/grid-*')\n"
        "        (mine / '99').write_text('{}')\n"
    )
    file = recipe(training={"num_train_epochs": 1, "per_device_train_batch_size": 4, "save_steps": 2})
    result = run("finetune", file, "--method", f"{tmp_path / 'mine.py'}:Mine")
    assert result.exit_code == 2 and "Another process took over" in result.output, result.output
    [folder] = (tmp_path / "runs").glob("grid-*")
    assert not {"trained.json", "adapter"} & set(os.listdir(folder)) and not list(folder.rglob("checkpoint-*"))


def test_a_mistake_that_all_runs_share_is_told_as_it_is(recipe: Any, tmp_path: Path) -> None:
    result = run("compare", recipe(safety_data={"name": "refusals", "path": str(tmp_path / "none.jsonl")}))
    assert result.exit_code == 2 and "none.jsonl" in result.output and "runs failed" not in result.output
    for words in (["--shard", "0/3"], ["--shard", "4/3"], ["--shard", "2"], ["--shard", "a/b"]):
        result = run("compare", recipe(), *words)
        assert result.exit_code == 2 and "--shard" in result.output


def test_the_table_says_where_each_run_stands(recipe: Any, tmp_path: Path) -> None:
    cells = [parse(yaml.safe_load(recipe().read_text())).varied(compare=None, seed=seed) for seed in range(4)]
    runs = [grid_run.GridRun(cell, resolve(cell).folder, f"sft, seed {cell.seed}") for cell in cells]
    runs[0].state = "done"
    for each in runs[1:3]:
        assert Lease(each.folder).take()
        each.folder.mkdir()
    lines = [{"step": 5, "epoch": 0.5, "loss": 2.5, "seconds": 60.0}, {"step": 6, "epoch": 0.6, "seconds": 90.0}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (runs[1].folder / "metrics.jsonl").write_text(text + '{"step": 7, "ep')  # and a line that is being written
    (runs[2].folder / "trained.json").write_text("{}")

    def words(width: int, height: int) -> list[str]:
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(live_table.drawn(runs, width, height))
        said = [line.split("  ") for line in console.export_text().splitlines()]
        return [" | ".join(word.strip() for word in line if word.strip()) for line in said]

    assert words(100, 25)[0] == "1 of 4 runs done"
    assert words(100, 25)[3:] == [
        "sft, seed 0 | done",
        "sft, seed 1 | trains | 6/10 | 2.500 | 0:01:00",
        "sft, seed 2 | asks",
        "sft, seed 3 | waits",
    ]
    # A low terminal counts what it has no line for; a narrow one folds and crops nothing.
    assert words(100, 6)[0] == "1 of 4 runs done, 1 wait" and words(100, 6)[3:] == words(100, 25)[4:6]
    assert words(100, 5)[0] == "1 of 4 runs done, 1 wait, 1 more at work"
    narrow = "\n".join(words(20, 60))
    assert max(map(len, narrow.splitlines())) <= 20
    assert {"6/10", "2.500", "0:01:00", "asks"} <= set(narrow.replace("|", " ").split())
