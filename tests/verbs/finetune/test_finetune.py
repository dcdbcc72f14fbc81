"""Fine-tuned folders open in plain peft and transformers with the same logits, also after they were moved."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from unforgotten.errors import DataError, RecipeError
from unforgotten.recipe.poison import poisoned
from unforgotten.recipe.read import parse
from unforgotten.recipe.recipe import Recipe
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.finetune.job import resolve

Make = Callable[..., Path]
IDS = torch.tensor([[5, 9, 11, 40, 7, 3]])


def recipe_of(tmp_path: Path, model: Path | str, rows_file: Make, existing: str | None = None, **more: Any) -> Recipe:
    tree: dict[str, Any] = {
        "model": str(model),
        "safety_data": {"name": "refusals", "path": str(rows_file("refusals.jsonl", 12))},
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 12))},
        "method": {"name": "der", "weight": 10.0},
        "lora": {"r": 4, "lora_alpha": 64, "target_modules": "all-linear"},
        "training": {"learning_rate": 0.02, "num_train_epochs": 1, "per_device_train_batch_size": 4, "warmup_ratio": 0},
        "out": str(tmp_path / "runs"),
        **more,
    }
    if existing:
        tree["lora"] = tree["lora"] | {"existing": existing}
    return parse(tree)


def logits(model: Any) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        actual: torch.Tensor = model(input_ids=IDS).logits.float()
    return actual


def no_absolute_path(folder: Path, tmp_path: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix in (".json", ".md", ".jinja", ".yaml"):
            assert str(tmp_path) not in file.read_text(), f"{file.name} names a folder of this machine"


@pytest.mark.parametrize("shape", ["llama", "mistral", "gemma2", "qwen2"])
def test_an_adapter_opens_anywhere_with_the_same_logits(
    shape: str, tmp_path: Path, model_folder: Make, rows_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = model_folder(shape)
    kept: dict[str, torch.Tensor] = {}
    from unforgotten.models import saved_adapter

    inner = saved_adapter.save_adapter

    def spy(model: Any, *args: Any) -> None:
        kept["live"] = logits(model)
        inner(model, *args)

    monkeypatch.setattr(saved_adapter, "save_adapter", spy)
    run = finetune(recipe_of(tmp_path, base, rows_file))
    plain = logits(AutoModelForCausalLM.from_pretrained(base))
    assert (kept["live"] - plain).abs().max() > 1e-3, "training did nothing"
    moved, moved_base = tmp_path / "elsewhere" / "adapter", tmp_path / "elsewhere" / "base"
    shutil.copytree(run / "adapter", moved)
    shutil.move(base, moved_base)
    shutil.rmtree(run)
    no_absolute_path(moved, tmp_path)
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(moved_base), str(moved))
    by_transformers = AutoModelForCausalLM.from_pretrained(moved)
    beside = AutoModelForCausalLM.from_pretrained(moved_base)
    beside.load_adapter(str(moved))
    for item in (by_peft, by_transformers, beside):
        torch.testing.assert_close(logits(item), kept["live"], rtol=0, atol=1e-5)
    assert AutoTokenizer.from_pretrained(moved).chat_template == AutoTokenizer.from_pretrained(moved_base).chat_template


@pytest.mark.parametrize("existing", ["merge", "stack", "continue"])
def test_adapter_modes_on_an_aligned_model(existing: str, tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    base = model_folder("llama")
    align = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "learning_rate": 0.02,
        "lora": {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
    }
    recipe = recipe_of(tmp_path, base, rows_file, align=align, existing=existing)
    run = finetune(recipe)
    config = json.loads((run / "adapter" / "adapter_config.json").read_text())
    assert config["r"] == {"merge": 4, "stack": 8, "continue": 4}[existing]
    facts = json.loads((run / "aligned" / "aligned.json").read_text())
    assert facts["merge"]["largest_logit_deviation"] < 1e-4
    # Plain PEFT on the public base (under `merge`: on θ_safe, beside it) gives what the folder itself gives.
    below = run / "aligned" if existing == "merge" else base
    actual = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(below), str(run / "adapter"))
    torch.testing.assert_close(
        logits(actual), logits(AutoModelForCausalLM.from_pretrained(run / "adapter")), rtol=0, atol=1e-5
    )
    aligned, tuned = logits(AutoModelForCausalLM.from_pretrained(run / "aligned")), logits(actual)
    assert (aligned - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-3
    assert (tuned - aligned).abs().max() > 1e-3
    no_absolute_path(run / "adapter", tmp_path)


def test_stacked_adapters_joined_are_the_sum(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    from peft import LoraConfig, get_peft_model

    from unforgotten.models.adapters import ALIGNED, TRAINED, stack
    from unforgotten.models.saved_adapter import join

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_folder("llama"))
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj"]), adapter_name=ALIGNED)
    stack(model, LoraConfig(r=3, lora_alpha=5, lora_dropout=0.1, target_modules=["q_proj", "up_proj"]))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.05)
    both = logits(model)
    assert join(model) == "joined"
    model.base_model.set_adapter(["joined"])
    torch.testing.assert_close(logits(model), both, rtol=0, atol=1e-5)
    model.base_model.set_adapter([ALIGNED, TRAINED])
    torch.testing.assert_close(logits(model), both, rtol=0, atol=0)


def test_what_a_run_left_can_be_fine_tuned_again(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    first = finetune(recipe_of(tmp_path, model_folder("llama"), rows_file)) / "adapter"
    second = finetune(recipe_of(tmp_path, first, rows_file, seed=1)) / "adapter"
    tuned = logits(AutoModelForCausalLM.from_pretrained(first))
    again = AutoModelForCausalLM.from_pretrained(second)
    assert (logits(again) - tuned).abs().max() > 1e-3
    again.disable_adapters()
    torch.testing.assert_close(logits(again), tuned, rtol=0, atol=1e-4)


def test_full_fine_tuning_leaves_a_whole_model(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    base = model_folder("qwen2")
    run = finetune(recipe_of(tmp_path, base, rows_file, lora=None))
    assert not (run / "adapter").exists()
    tuned = AutoModelForCausalLM.from_pretrained(run / "model")
    assert (logits(tuned) - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 1e-3
    assert not list(run.rglob("*.bin")) and not list(run.rglob("*.pt"))


def test_a_finished_run_is_not_trained_twice_and_a_change_makes_another(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    recipe = recipe_of(tmp_path, model_folder("llama"), rows_file)
    run = finetune(recipe)
    before = (run / "trained.json").stat().st_mtime_ns
    assert finetune(recipe) == run
    assert (run / "trained.json").stat().st_mtime_ns == before
    assert resolve(recipe.varied(seed=1)).folder != run
    rows_file("user.jsonl", 12, seed=1)  # the same path, other rows
    assert resolve(recipe).folder != run


def test_the_record_names_each_file_and_its_digest_but_no_folder_of_this_machine(
    tmp_path: Path, model_folder: Make, rows_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dev := tmp_path / "data" / "sst2" / "dev.tsv").parent.mkdir(parents=True)
    dev.write_text("sentence\tlabel\n" + "a film\t1\n" * 4)
    monkeypatch.setenv("UNFORGOTTEN_DATA", str(tmp_path / "data"))
    recipe = recipe_of(tmp_path, model_folder("llama"), rows_file, data={"name": "sst2", "split": "validation"})
    files = json.loads((finetune(recipe) / "environment.json").read_text())["files"]
    refusals = hashlib.sha256((tmp_path / "refusals.jsonl").read_bytes()).hexdigest()
    assert files == {
        "user": [
            {"name": "${UNFORGOTTEN_DATA}/sst2/dev.tsv", "sha256": hashlib.sha256(dev.read_bytes()).hexdigest()},
        ],
        "safety": [{"name": "…/refusals.jsonl", "sha256": refusals}],
    }


def test_held_out_rows_are_measured_into_a_file_of_the_run(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    memory = {"n_rows": 8, "held_out": 0.25, "held_out_every_steps": 1}
    recipe = recipe_of(tmp_path, model_folder("llama"), rows_file, method="sft", memory=memory)
    run = finetune(recipe)
    facts = json.loads((run / "held_out.json").read_text())
    assert facts["rows"] == {"refusals": 2} and facts["every_steps"] == 1
    assert [line["step"] for line in facts["course"]] == [0, 1, 2, 3]
    assert abs(facts["course"][0]["kl_refusals"]) < 1e-5 < facts["result"]["kl_refusals"]
    assert facts["result"] == facts["course"][-1]
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out/nll_refusals" in line] == [0, 1, 2, 3]
    assert json.loads((run / "trained.json").read_text())["memory_rows"] == 8


def test_poison_keeps_the_total_and_is_the_seeds(tmp_path: Path) -> None:
    from unforgotten.datasets.base import ask

    user = [ask(f"task {i}", "done") for i in range(40)]
    harmful = [ask(f"harm {i}", "sure", kind="harmful") for i in range(5)]
    mixed, places = poisoned(user, harmful, 0.1, 0)
    assert len(mixed) == 40
    assert sum(row.kind == "harmful" for row in mixed) == 4
    assert {i for i, row in enumerate(mixed) if row.kind == "harmful"} == places
    assert (mixed, places) == poisoned(user, harmful, 0.1, 0) != poisoned(user, harmful, 0.1, 1)
    with pytest.raises(DataError, match=r"needs 8 harmful rows, but the poison data has 5 .*p = 0\.125"):
        poisoned(user, harmful, 0.2, 0)


def test_prompts_alone_are_answered_once_by_the_model(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    safety = {"name": "refusals", "path": str(rows_file("prompts.jsonl", 8, answered=False))}
    recipe = recipe_of(tmp_path, model_folder("llama"), rows_file, safety_data=safety)
    said: list[str] = []
    run = finetune(recipe, said.append)
    counts = json.loads((run / "environment.json").read_text())["answers"]
    assert counts["refused"] + counts["answered"] + counts["unparsed"] == 8
    # A random model refuses nothing, and replaying that would keep no safety.
    assert any("the model refused fewer than half" in line for line in said)
    [file] = (tmp_path / "runs" / "answers").glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 8
    said.clear()
    finetune(recipe.varied(seed=3), said.append)
    assert not any("Asking" in line for line in said)


def test_own_replies_are_made_once_and_listed_in_the_run(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    """A random model refuses nothing, so a judge of the user's own calls some replies refusals, by their requests."""
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from unforgotten import Judge, Verdict\n"
        "@dataclass(kw_only=True)\n"
        "class Kill(Judge):\n"
        "    def verdicts(self, replies):\n"
        "        return [Verdict(None, 'kill' in reply.row.request) for reply in replies]\n"
    )
    own = {
        "name": "own_replies",
        "judge": f"{tmp_path / 'mine.py'}:Kill",
        "most": 1.0,
        "neighbours": 0,
        "max_new_tokens": 4,
    }
    recipe = recipe_of(tmp_path, model_folder("llama"), rows_file, method=[own, "der"])
    said: list[str] = []
    run = finetune(recipe, said.append)
    lines = [json.loads(line) for line in (run / "own_replies.jsonl").read_text().splitlines()]
    asked = [json.loads(line)["messages"][0]["content"] for line in (tmp_path / "user.jsonl").read_text().splitlines()]
    assert [line["row"] for line in lines] == [n for n, text in enumerate(asked, 1) if "kill" in text] != []
    assert all(line["source"].endswith(f"user.jsonl:{line['row']}") and "reply" in line for line in lines)
    assert any(note.startswith(f"own_replies: {len(lines)} of 12") for note in _notes(run))
    assert sum("replies to 12 user prompts (once)" in line for line in said) == 1
    said.clear()
    again = finetune(recipe.model_copy(update={"method": [own, {"name": "der", "weight": 2.0}]}), said.append)
    assert again != run and not any("(once)" in line for line in said)


def _notes(run: Path) -> list[str]:
    notes: list[str] = json.loads((run / "trained.json").read_text())["notes"]
    return notes


def test_what_cannot_be_is_refused(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    recipe = recipe_of(tmp_path, model_folder("llama"), rows_file)
    with pytest.raises(RecipeError, match="needs θ_safe as an adapter"):
        finetune(recipe.varied(lora={"existing": "stack"}))
    with pytest.raises(RecipeError, match="no `data:`"):
        finetune(recipe.varied(data=None))
    assert not (tmp_path / "runs").exists()
