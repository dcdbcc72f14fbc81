"""Every file in examples/ does what its first lines say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from unforgotten import testing
from unforgotten.cli import app

EXAMPLES = Path(__file__).parent.parent / "examples"
Make = Callable[..., Path]


def test_none_is_left_untried() -> None:
    tried = {"finetune_der.py", "with_trl.py", "own_method.py", "gate_in_ci.yaml"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == tried


@pytest.mark.parametrize(("name", "adapter"), [("finetune_der.py", "adapter"), ("with_trl.py", ".")])
def test_a_script_leaves_an_adapter_that_was_trained(
    name: str, adapter: str, model_folder: Make, rows_file: Make, tmp_path: Path
) -> None:
    given = [model_folder("llama"), rows_file("upload.jsonl", 8), rows_file("safety.jsonl", 6), tmp_path / "out"]
    env = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, given)], env=env, cwd=tmp_path, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    left = tmp_path / "out" / adapter
    tensors = load_file(left / "adapter_model.safetensors")
    assert any("lora_B" in n and bool(t.any()) for n, t in tensors.items()), "B begins at zero, and was trained"
    assert json.loads((left / "adapter_config.json").read_text())["r"] == 16


def test_the_scripts_are_short_and_need_no_recipe() -> None:
    lines = (EXAMPLES / "finetune_der.py").read_text().splitlines()
    assert len(lines) <= 60 and not any("recipe" in line.lower() for line in lines)


@pytest.mark.parametrize("check", ["split", "neutral", "effect", "documented"])
def test_the_method_of_ones_own_keeps_the_contract(check: str, tmp_path: Path) -> None:
    testing.CHECKS[check]({"name": f"{EXAMPLES / 'own_method.py'}:L2SP", "weight": 0.5}, "merge", tmp_path)


def test_the_gate_runs_verbs_and_flags_that_there_are() -> None:
    steps = yaml.safe_load((EXAMPLES / "gate_in_ci.yaml").read_text())["jobs"]["gate"]["steps"]
    commands = [step["run"].split() for step in steps if "run" in step]
    assert [command[:2] for command in commands] == [["unforgotten", v] for v in ("finetune", "evaluate", "export")]
    for _, verb, *words in commands:
        said = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "300"}).output
        assert all(word in said for word in words if word.startswith("--"))
