"""Stopped from outside: SIGTERM saves the step and exits 143, as process 1 too, and the same command goes on.

Processes here are real, and so are the signals.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from tests.verbs.finetune.test_finetune import recipe_of
from tests.verbs.test_own_answers import tree
from unforgotten import errors, testing
from unforgotten.runs import lease, terminate
from unforgotten.verbs.finetune.finetune import finetune

ROOT = Path(__file__).parents[2]
Make = Callable[..., Path]
CLI = "from unforgotten.cli import main; main()"
SLOW_STEPS = """
import time
from unforgotten.training import callbacks as watch
own = watch.Metrics.on_log
def on_log(self, args, state, control, **more):
    own(self, args, state, control, **more)
    time.sleep({seconds})
watch.Metrics.on_log = on_log
"""


def recipe_file(tmp_path: Path, model_folder: Make, rows_file: Make, **more: Any) -> Path:
    """A run of 12 logged steps; its checkpoints come too late to matter."""
    settings = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 2,
        "logging_steps": 1,
        "save_steps": 1000,
        "learning_rate": 1e-3,
    }
    made = recipe_of(tmp_path, model_folder("llama"), rows_file, **{"method": "der", "training": settings, **more})
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(made.model_dump(exclude_unset=True)))
    return file


@contextmanager
def started(*words: object, before: str = "", wrap: tuple[str, ...] = ()) -> Iterator[subprocess.Popen[str]]:
    command = [*wrap, sys.executable, "-c", before + CLI, *map(str, words)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def when(ready: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in out.glob("*/metrics.jsonl") for line in file.read_text().splitlines()]


def nobody_holds(out: Path) -> None:
    for folder in out.glob(".leases/*"):
        assert not lease.holder(out / folder.name), f"{folder.name} is held by a process that is gone"


def weights(out: Path) -> Any:
    [file] = out.glob("*/adapter/adapter_model.safetensors")
    return load_file(file)


@pytest.mark.parametrize("wrap", [(), ("unshare", "-Urpf", "--mount-proc")], ids=["plain", "as process 1"])
def test_sigterm_saves_the_step_exits_143_and_the_same_command_goes_on(
    wrap: tuple[str, ...], tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    if wrap and subprocess.run([*wrap, "true"], capture_output=True).returncode:
        pytest.skip("this system makes no process namespaces for us")
    file, out = recipe_file(tmp_path, model_folder, rows_file), tmp_path / "out"
    with started("finetune", file, "--out", out, before=SLOW_STEPS.format(seconds=0.1), wrap=wrap) as process:
        when(lambda: len(lines(out)) >= 3, process)
        victim = process.pid
        if wrap:
            [victim] = map(int, Path(f"/proc/{victim}/task/{victim}/children").read_text().split())
        os.kill(victim, signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    [checkpoint] = out.glob("*/checkpoints/checkpoint-*")
    step = int(checkpoint.name.rpartition("-")[2])
    assert 3 <= step < 12 and f"Step {step} of 12 is saved" in said and "same command again" in said
    assert "Traceback" not in said and not list(out.glob("*/adapter"))
    nobody_holds(out)
    from unforgotten.recipe.read import load_recipe

    finetune(load_recipe(str(file), {"out": str(out)}))
    finetune(load_recipe(str(file), {"out": str(tmp_path / "through")}))
    assert testing.distance(weights(out), weights(tmp_path / "through")) == 0.0
    assert [line["step"] for line in lines(out) if "loss" in line] == list(range(1, 13))
    assert sum("train_runtime" in line for line in lines(out)) == 1


STORE = """
import time
from unforgotten.training.aligned_store import Once
shards = Once.shards
def slow(self, *words, **more):
    print("filling", flush=True)
    time.sleep(60)
Once.shards = slow
"""
LOADS = """
import time
from unforgotten.models import load
def slow(*words, **more):
    print("filling", flush=True)
    time.sleep(60)
load.load_model = slow
"""


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(STORE, id="filling the store"),
        pytest.param(LOADS, id="loading the model", marks=pytest.mark.slow),
    ],
)
def test_sigterm_before_the_first_step_exits_143_at_once_and_holds_nothing(
    before: str, tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    file, out = recipe_file(tmp_path, model_folder, rows_file), tmp_path / "out"
    with started("finetune", file, "--out", out, before=before) as process:
        assert process.stdout is not None and process.stdout.readline() == "filling\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 143 and "Terminated. Give the same command again" in said, said
    assert not list(out.glob("*/checkpoints/checkpoint-*"))
    nobody_holds(out)


@pytest.mark.slow
def test_a_second_sigterm_does_not_wait(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    file, out = recipe_file(tmp_path, model_folder, rows_file), tmp_path / "out"
    with started("finetune", file, "--out", out, before=SLOW_STEPS.format(seconds=30)) as process:
        when(lambda: len(lines(out)) >= 1, process)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert process.poll() is None, "the first waits for the end of the step"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 143


@pytest.mark.slow
def test_ctrl_c_stays_130(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    file, out = recipe_file(tmp_path, model_folder, rows_file), tmp_path / "out"
    with started("finetune", file, "--out", out, before=LOADS) as process:
        assert process.stdout is not None and process.stdout.readline() == "filling\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "Stopped. Give the same command again" in said


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
def test_a_comparison_sends_sigterm_on_to_its_workers_and_goes_on_after(
    whole_group: bool, tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    """Also where a scheduler sends it to every process of the group, workers included."""
    safe = {"name": "refusals", "path": str(rows_file("asked.jsonl", 4, seed=7))}
    file = recipe_file(tmp_path, model_folder, rows_file, method="sft",
                       evaluate={"harm": [safe], "judge": "keywords", "max_new_tokens": 4},
                       compare={"method": ["sft", "safeinstr"], "jobs": 2})  # fmt: skip
    out = tmp_path / "out"
    command = [sys.executable, "-m", "unforgotten", "compare", str(file), "--out", str(out),
               "--set", "training.num_train_epochs=400"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env, start_new_session=True)
    when(lambda: len({f.parent for f in out.glob("*/metrics.jsonl") if f.stat().st_size > 400}) == 2, process)
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 143 and "Terminated" in said, said
    assert len(list(out.glob("*/checkpoints/checkpoint-*/unforgotten/complete.json"))) == 2
    nobody_holds(out)


def test_a_program_of_ones_own_keeps_its_handlers() -> None:
    def own(number: int, frame: Any) -> None: ...

    before = signal.signal(signal.SIGTERM, own)
    try:
        with terminate.handled():
            assert signal.getsignal(signal.SIGTERM) is not own
            with terminate.handled():
                pass
            assert signal.getsignal(signal.SIGTERM) is not own, "the outer one stays"
            with pytest.raises(errors.Terminated) as stop:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
            assert stop.value.code == 143
        assert signal.getsignal(signal.SIGTERM) is own
        thread = threading.Thread(target=lambda: terminate.handled().__enter__())
        thread.start()
        thread.join()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_before_the_command_line_is_loaded_exits_143() -> None:
    """As process 1 it was not heard in that second, and elsewhere it ended the process by a signal, not by a code."""
    program = (
        "import os, signal, sys, types\n"
        "cli = types.ModuleType('unforgotten.cli')\n"
        "cli.main = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.modules['unforgotten.cli'] = cli\n"
        "from unforgotten.__main__ import main\n"
        "main()\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 143
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"unforgotten": "unforgotten.__main__:main"}


TORN = """
import os, signal
from unforgotten.generation.resume import ResumeFile
def add_all(self, finished):
    index, facts = next(iter(finished.items()))
    with self._path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": self.keys[index], **facts}) + "\\n" + '{"key": "')
    os.kill(os.getpid(), signal.SIGKILL)
import json
ResumeFile.add_all = add_all
"""


def test_an_alignment_killed_among_its_own_answers_ends_where_it_would_have(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    """Its last line was cut within a word; the same command reads the whole ones back and asks for the rest."""
    model, refusals = model_folder("llama"), rows_file("refusals.jsonl", 6)
    harmless = rows_file("looks.jsonl", 5, answered=False)

    def aligned(out: str, before: str = "") -> int:
        recipe = tmp_path / f"{out}.yaml"
        recipe.write_text(yaml.safe_dump(tree(tmp_path, model, refusals, harmless) | {"out": str(tmp_path / out)}))
        with started("align", recipe, before=before) as process:
            process.communicate(timeout=600)
        return process.returncode

    assert aligned("killed", TORN) == -signal.SIGKILL
    [part] = (tmp_path / "killed").rglob("own-answers-*.jsonl")
    first, torn = part.read_bytes().split(b"\n")
    assert torn == b'{"key": "' and not list((tmp_path / "killed").rglob("aligned.json"))
    assert aligned("killed") == (code := aligned("whole"))
    if code == 0:
        own, record = [
            [next((tmp_path / out).rglob(name)) for out in ("killed", "whole")]
            for name in ("adapter_model.safetensors", "aligned.json")
        ]
        ours, theirs = map(load_file, own)
        assert ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in ours)
        answers = [json.loads(file.read_text())["own_answers"] for file in record]
        assert answers[0] == answers[1]
    else:  # too few answers of a random model are whole sentences; they are kept all the same
        files = [next((tmp_path / out).rglob("own-answers-*.jsonl")) for out in ("killed", "whole")]
        answers = [
            {(row := json.loads(line))["key"]: row for line in file.read_text().split("\n")[:-1]} for file in files
        ]
        assert len(answers[0]) == 5 and answers[0] == answers[1] and files[0].read_bytes().startswith(first)
