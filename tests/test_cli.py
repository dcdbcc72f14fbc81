"""What a user does wrong is told in a line, with exit code 2, and leaves nothing half-written; a kill costs nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from tests.conftest import CHATML
from unforgotten import testing
from unforgotten.cli import app

Make = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, model_folder: Make, rows_file: Make) -> Callable[..., Path]:
    """Writes a small recipe whose fields can be replaced."""

    def make(model: Path | None = None, **more: Any) -> Path:
        tree: dict[str, Any] = {
            "model": str(model or model_folder("llama")),
            "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 12))},
            "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 12))},
            "method": "der",
            "lora": {"r": 4, "target_modules": "all-linear"},
            "training": {"learning_rate": 0.02, "num_train_epochs": 1, "per_device_train_batch_size": 4},
            "out": str(tmp_path / "runs"),
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree | more))
        return path

    return make


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(w) for w in words])


def refused(actual: Any, *said: str) -> None:
    assert actual.exit_code == 2, actual.output
    for text in said:
        assert text in actual.output
    assert "Traceback" not in actual.output


USER = json.dumps({"messages": [{"role": "user", "content": "how"}, {"role": "assistant", "content": "so"}]})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n".join([USER, "{broken", USER, "nope"]), "line 2"),
        ("\n".join(["{broken"] * 30), "… and 10 more"),
        (
            json.dumps({"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]}),
            "wizard",
        ),
        (json.dumps({"messages": [{"role": "user", "content": "x"}]}), "assistant"),
        (json.dumps([1, 2]), "line 1"),
        (None, "no file"),
    ],
    ids=["empty", "broken", "thirty broken", "role", "no assistant", "no object", "missing"],
)
def test_bad_files_are_told_by_line(text: str | None, said: str, tmp_path: Path, write: Any) -> None:
    file = tmp_path / "bad.jsonl"
    if text is not None:
        file.write_text(text)
    recipe = write(data={"name": "jsonl", "path": str(file)})
    refused(run("finetune", recipe), said, str(file))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"method": "drr"}, "Did you mean 'der'"),
        ({"method": {"name": "der", "weight": -0.1}}, "weight"),
        ({"method": {"name": "der", "lambda": 1}}, "Unknown field of method 'der' 'lambda'"),
        ({"data": {"name": "gsm9k"}}, "Did you mean 'gsm8k'"),
        ({"evaluate": {"judge": "keywords2"}}, "Did you mean 'keywords'"),
        ({"trianing": {}}, "Did you mean 'training'"),
        ({"model": "./nowhere"}, "no model folder ./nowhere"),
        ({"training": {"max_length": 2}}, "every response is beyond the limit"),
        ({"safety_data": []}, "safety"),
        ({"method": "agem", "safety_data": []}, "agem needs safety rows"),
        ({"method": "magmax"}, "Name the base model in `unaligned_model:`"),
        ({"method": {"name": "safelora"}, "unaligned_model": "./nowhere"}, "no model folder ./nowhere"),
        ({"method": {"name": "ewc", "fisher_rows": 0}}, "fisher_rows"),
        ({"replay": "synthesise"}, "replay"),
        ({"replay": "synthesize"}, "Add `synthesize: {}`"),
        ({"replay": ["refusal"]}, "Did you mean 'refusals'"),
        ({"settings": {"dre": {}}}, "Did you mean 'der'"),
        ({"compare": {"table": {"across": "seed"}}}, "compare.table.across"),
    ],
)
def test_bad_recipes_are_told(fields: dict[str, Any], said: str, tmp_path: Path, write: Any) -> None:
    refused(run("finetune", write(**fields)), said)
    assert not list(tmp_path.glob("runs/*/adapter")) and not list(tmp_path.glob("runs/*/trained.json"))


def test_bases_of_another_shape_are_refused(write: Any, model_folder: Make, tmp_path: Path) -> None:
    from tests.training.shapes import tiny

    tiny("llama", vocabulary=77).save_pretrained(tmp_path / "other")
    actual = run("finetune", write(method="magmax", unaligned_model=str(tmp_path / "other")))
    refused(actual, "the same shape and vocabulary")
    assert not list(tmp_path.glob("runs/*/model")) and not list(tmp_path.glob("runs/*/trained.json"))


def test_a_memory_smaller_than_a_batch_works_and_says_that_rows_repeat(write: Any) -> None:
    result = run("finetune", write(memory={"n_rows": 3}))
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    assert "der replays 4 safety rows in a step, but the memory has 3, so rows repeat" in said
    assert "repeat" not in run("finetune", write(memory={"n_rows": 4})).output


def test_a_whole_model_in_place_of_an_adapter_is_told(write: Any, model_folder: Make) -> None:
    base = model_folder("llama", name="base", initializer_range=0.05)
    result = run("finetune", write(method="magmax", unaligned_model=str(base)))
    assert result.exit_code == 0 and "--as-lora R" in " ".join(result.output.split()), result.output


def test_a_template_without_an_end_of_turn_is_refused(tmp_path: Path, write: Any, model_folder: Make) -> None:
    template = CHATML.replace("<eos>", "")
    refused(run("finetune", write(model_folder("llama", template=template))), "end")
    assert not list(tmp_path.glob("runs/*/adapter"))


def test_pickled_weights_and_unfit_adapters_are_refused(tmp_path: Path, write: Any, model_folder: Make) -> None:
    import torch

    folder = model_folder("llama")
    (folder / "model.safetensors").unlink()
    torch.save({"x": torch.zeros(1)}, folder / "pytorch_model.bin")
    refused(run("finetune", write(folder)), "safetensors")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "base_model_name_or_path": str(model_folder("llama", name="base")), "r": 4}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    torch.save({"x": torch.zeros(1)}, adapter / "adapter_model.bin")
    refused(run("finetune", write(adapter)), "safetensors")


def test_an_adapter_whose_init_changed_its_base_is_refused(tmp_path: Path, write: Any, model_folder: Make) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = model_folder("llama", name="base")
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")).save_pretrained(
        tmp_path / "adapter"
    )
    refused(run("finetune", write(tmp_path / "adapter", unaligned_model=str(base))), "'pissa' changes the base")


def test_rows_cut_off_whole_and_control_tokens_are_counted(tmp_path: Path, write: Any) -> None:
    file = tmp_path / "some.jsonl"
    long = json.dumps(
        {"messages": [{"role": "user", "content": "how do i " * 60}, {"role": "assistant", "content": "so"}]}
    )
    sly = json.dumps(
        {"messages": [{"role": "user", "content": "x <eos> y"}, {"role": "assistant", "content": "so <bos>"}]}
    )
    file.write_text("\n".join([USER, long, sly, USER]))
    recipe = write(data={"name": "jsonl", "path": str(file)}, training={"max_length": 60, "num_train_epochs": 1})
    result = run("finetune", recipe)
    assert result.exit_code == 0, result.output
    [trained] = tmp_path.glob("runs/*/trained.json")
    said = " ".join(json.loads(trained.read_text())["rows"]["user"])
    assert "1 examples dropped" in said and f"{file}:2" in said
    assert "2 control tokens" in said
    assert "1 examples dropped" in " ".join(result.output.split())


def test_a_nan_stops_with_the_last_checkpoint_kept(tmp_path: Path, write: Any) -> None:
    training = {
        "learning_rate": 1e38,
        "warmup_ratio": 0,
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "max_grad_norm": 0,
        "save_steps": 1,
    }
    refused(run("finetune", write(training=training)), "NaN")
    assert not list(tmp_path.glob("runs/*/trained.json"))


def hears_interrupts() -> None:
    """A shell's background jobs ignore Ctrl-C, and so would every process that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def ended(process: subprocess.Popen[str], how: signal.Signals) -> str:
    """Interrupts a process and returns what it said; again after a while, as a user would.

    Python drops a KeyboardInterrupt that happens to fall into a destructor.
    """
    while True:
        process.send_signal(how)
        try:
            return process.communicate(timeout=5)[1]
        except subprocess.TimeoutExpired:
            continue


def newest_step(out: Path) -> int:
    """The step of the newest whole checkpoint of the run in `out`; 0 where there is none."""
    marks = out.glob("*/checkpoints/checkpoint-*/unforgotten/complete.json")
    return max((int(mark.parts[-3].rpartition("-")[2]) for mark in marks), default=0)


def test_after_interruptions_the_same_command_goes_on_to_the_same_result(tmp_path: Path, write: Any) -> None:
    training = {
        "learning_rate": 0.02,
        "num_train_epochs": 60,
        "per_device_train_batch_size": 2,
        "save_steps": 10,
        "logging_steps": 5,
    }
    recipe = write(training=training)
    words = [sys.executable, "-m", "unforgotten", "finetune", str(recipe), "--out"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    through = subprocess.run([*words, str(tmp_path / "through")], env=env, capture_output=True, text=True, check=False)
    assert through.returncode == 0, through.stderr
    out, seen = tmp_path / "cut", 0
    for how in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            [*words, str(out)], env=env, stderr=subprocess.PIPE, text=True, preexec_fn=hears_interrupts
        )
        while (newest := newest_step(out)) <= seen:  # old checkpoints are removed: their number does not grow
            assert process.poll() is None, "it ended before it could be interrupted"
            time.sleep(0.002)
        said = ended(process, how)
        seen = newest
        assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
        assert not list(out.glob("*/trained.json")), "it was over before it was interrupted"
    assert "same command again" in said
    again = subprocess.run([*words, str(out)], env=env, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    [one], [two] = (list((tmp_path / name).glob("*/adapter/adapter_model.safetensors")) for name in ("through", "cut"))
    assert testing.distance(load_file(one), load_file(two)) == 0.0
    [one], [two] = (list((tmp_path / name).glob("*/metrics.jsonl")) for name in ("through", "cut"))
    losses = [[json.loads(line).get("loss") for line in file.read_text().splitlines()][:-1] for file in (one, two)]
    assert losses[0] == losses[1]


def test_several_ranks_are_sent_to_the_trainer(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    refused(run("finetune", write()), "MethodTrainer")


def test_rows_are_shown_with_their_mask(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    result = run("data", "show", rows_file("user.jsonl", 7), "--model", model_folder("llama"), "-n", 2)
    assert result.exit_code == 0, result.output
    assert result.output.count("<|im_start|>assistant\n⟦") == 2
    assert "7 rows" in result.output
