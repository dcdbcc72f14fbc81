"""A comparison that is killed at any moment ends on the next call as if nothing had been: ten times, in the world.

Killed are in turn the whole process group, the parent alone, and one worker alone. Minutes: `make test-slow`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open

from tests.verbs.compare.test_run_queue import untimed

pytestmark = pytest.mark.slow
ROUNDS = 10
SEED = int(os.environ.get("UNFORGOTTEN_KILL_SEED", random.SystemRandom().getrandbits(32)))
RECIPE = """
extends: demo
name: killed
rows: 60
align: {num_train_epochs: 1}
memory: {n_rows: 20}
probe: {every_steps: 15}
training: {num_train_epochs: 2, per_device_train_batch_size: 4, save_steps: 3, logging_steps: 1}
evaluate: {max_new_tokens: 12}
compare: {method: [sft, safeinstr, {name: der, weight: 2.0}], poison: [0, 0.1], jobs: 2}
"""


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "unforgotten", "compare", str(recipe), "--workers", "2", "--out", str(out)]
    with (out.parent / f"{out.name}.log").open("a") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, text=True, start_new_session=True)


def ended(process: subprocess.Popen[str], out: Path) -> int:
    try:
        return process.wait(timeout=600)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"it hangs; {(out.parent / f'{out.name}.log').read_text()}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]], float]:
    """The recipe, the results of a run that nobody disturbs, and its seconds."""
    folder = tmp_path_factory.mktemp("undisturbed")
    recipe = folder / "killed.yaml"
    recipe.write_text(RECIPE)
    started = time.monotonic()
    assert ended(start(recipe, folder / "out"), folder / "out") == 0, (folder / "out.log").read_text()
    seconds = time.monotonic() - started
    [actual] = (folder / "out").glob("killed-compare-*/results.json")
    rows = untimed(actual)
    assert len(rows) == 2 + 6
    return recipe, rows, seconds


def workers(parent: int) -> list[int]:
    """The worker processes of a comparison, as the system knows them."""
    seen = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if (
                entry.name.isdecimal()
                and int(fields[1]) == parent
                and b"spawn_main" in (entry / "cmdline").read_bytes()
            ):
                seen.append(int(entry.name))
        except OSError:
            continue
    return seen


def kill(process: subprocess.Popen[str], whom: str, chance: random.Random) -> None:
    if whom == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif whom == "worker" and (pids := workers(process.pid)):
        os.kill(chance.choice(pids), signal.SIGKILL)
    else:
        process.kill()


def nothing_is_half_written(out: Path) -> None:
    """Whatever has its final name can be read. Checkpoints have a mark of their own, and lines are appended."""
    for file in out.rglob("*"):
        parts = file.relative_to(out).parts
        if not file.is_file() or any(part.startswith(".") for part in parts) or "checkpoints" in parts:
            continue
        if "adapter" in parts and not (out / parts[0] / "trained.json").exists():
            continue
        if file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".jsonl" and file.name != "metrics.jsonl":
            [json.loads(line) for line in file.read_text().split("\n") if line]
        elif file.suffix == ".yaml":
            assert isinstance(yaml.safe_load(file.read_text()), dict)
        elif file.suffix == ".safetensors":
            with safe_open(file, "pt") as tensors:
                assert list(tensors.keys())
    for mark in out.glob("*/checkpoints/*/unforgotten/complete.json"):
        json.loads(mark.read_text())


def finished(out: Path) -> dict[Path, tuple[int, int]]:
    return {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in out.glob("killed-*/trained.json")}


@pytest.mark.parametrize("turn", range(ROUNDS))
def test_killed_at_a_random_moment_it_ends_on_the_next_call(undisturbed: Any, tmp_path: Path, turn: int) -> None:
    recipe, rows, seconds = undisturbed
    chance, out = random.Random(f"{SEED} {turn}"), tmp_path / "out"
    whom, moment = ("group", "parent", "worker")[turn % 3], chance.uniform(0, seconds)
    print(f"UNFORGOTTEN_KILL_SEED={SEED}, turn {turn}: the {whom} after {moment:.2f} of {seconds:.1f} s")
    process = start(recipe, out)
    time.sleep(moment)
    kill(process, whom, chance)
    if ended(process, out) == 2:  # a worker was lost, and its run with it; the others are done
        assert "1 of 6 runs failed" in (tmp_path / "out.log").read_text()
    if whom == "group":
        nothing_is_half_written(out)  # in the other turns someone may still be writing
    before = finished(out)
    print(f"  {len(before)} runs were done, {len(list(out.glob('killed-*/checkpoints')))} begun")
    assert ended(start(recipe, out), out) == 0, (tmp_path / "out.log").read_text()
    nothing_is_half_written(out)
    [actual] = out.glob("killed-compare-*/results.json")
    assert untimed(actual) == rows
    after = finished(out)
    assert len(after) == 6 and {file: after[file] for file in before} == before, "a finished run was trained again"
    for file in after:
        lines = [json.loads(line) for line in (file.parent / "metrics.jsonl").read_text().splitlines()]
        last = json.loads(file.read_text())["steps"]
        said = {what: [line["step"] for line in lines if what in line] for what in ("loss", "probe/asr", "train_loss")}
        probed = [*range(0, last, 15), last]
        assert said == {"loss": [*range(1, last + 1)], "probe/asr": probed, "train_loss": [last]}, "once each"
