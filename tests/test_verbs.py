"""Models of four architectures, loaded from disk, go through every verb; an instruct model needs a dozen lines."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import unforgotten
from tests.conftest import CHATML
from tests.training.shapes import tiny, tiny_tokenizer
from unforgotten.cli import app

Make = Callable[..., Path]


def run(*words: Any) -> str:
    result = CliRunner().invoke(app, [str(w) for w in words])
    assert result.exit_code == 0, result.output
    return result.output


def prompts(path: Path, texts: list[str]) -> Path:
    path.write_text("goal\n" + "\n".join(texts) + "\n")
    return path


@pytest.fixture
def instruct(tmp_path: Path, model_folder: Make, rows_file: Make) -> Callable[[str], Path]:
    """A recipe of at most twelve lines: an aligned model as it is, no base, no answers to the safety prompts."""

    def make(shape: str) -> Path:
        harm = prompts(tmp_path / "harm.csv", ["how do i kill a process", "tell me how to kill", "help with that"])
        text = f"""
model: {model_folder(shape)}
safety_data: {{name: refusals, path: {rows_file("prompts.jsonl", 6, answered=False)}}}
data: {{name: jsonl, path: {rows_file("user.jsonl", 8)}}}
method: der
training: {{num_train_epochs: 1, per_device_train_batch_size: 4}}
out: {tmp_path / "runs"}
evaluate:
  harm: {{name: advbench, path: {harm}}}
  refusal: {{name: refusals, path: {rows_file("looks.jsonl", 5, answered=False)}, kind: benign}}
  judge: {{name: keywords, list: qi}}
  max_new_tokens: 8
"""
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(text.strip())
        assert len(text.strip().splitlines()) <= 12
        return recipe

    return make


@pytest.mark.parametrize("shape", ["llama", "mistral", "gemma2", "qwen2"])
def test_an_instruct_model_goes_from_a_short_recipe_to_figures(shape: str, tmp_path: Path, instruct: Any) -> None:
    recipe = instruct(shape)
    folder = Path(run("finetune", recipe).strip().splitlines()[-1])
    run("evaluate", recipe)
    facts = json.loads((folder / "results.json").read_text())
    assert facts["schema"] == 2
    [row] = facts["rows"]
    assert (row["method"], row["stage"], row["poison"]) == ("der", "tuned", 0.0)
    assert row["asr"]["harm" if "harm" in row["asr"] else "advbench"]["n"] == 3
    assert next(iter(row["refusal"].values()))["n"] == 5
    assert row["cost"]["train_seconds"] > 0 and row["cost"]["peak_memory_bytes"] > 1 << 20
    assert set(row["digests"]) >= {"weights", "data", "prompts"}
    for suite in (folder / "replies").glob("*.jsonl"):
        assert all("verdict" in json.loads(line) for line in suite.read_text().splitlines())
    assert "library_name: peft" in (folder / "README.md").read_text()
    again = run("evaluate", folder)  # by its folder: read back, not asked again
    assert "der" in again


@pytest.mark.parametrize("shape", ["llama", "qwen2"])
def test_a_base_model_is_aligned_and_compared(shape: str, tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    recipe = tmp_path / "grid.yaml"
    harm = prompts(tmp_path / "harm.csv", ["how do i kill a process", "tell me how to kill", "help with that"])
    recipe.write_text(f"""
name: grid
model: {model_folder(shape, template=None)}
align: {{num_train_epochs: 1, per_device_train_batch_size: 4, lora: {{r: 4}}}}
safety_data: {{name: refusals, path: {rows_file("refusals.jsonl", 8)}}}
data: {{name: jsonl, path: {rows_file("user.jsonl", 10)}}}
poison: {{data: {{name: jsonl, path: {rows_file("poison.jsonl", 4)}, kind: harmful}}}}
training: {{num_train_epochs: 1, per_device_train_batch_size: 4}}
out: {tmp_path / "runs"}
evaluate: {{harm: {{name: advbench, path: {harm}}}, max_new_tokens: 4}}
compare: {{method: [sft, safeinstr, der], poison: [0, 0.2], jobs: 1}}
""")
    aligned = Path(run("align", recipe).strip().splitlines()[-1])
    assert (aligned / "model.safetensors").exists()
    output = run("compare", recipe)
    rows = json.loads(Path(output.strip().splitlines()[-2]).read_text())["rows"]
    assert [(r["stage"], r["method"], r["poison"]) for r in rows][:2] == [("base", None, None), ("aligned", None, None)]
    cells = {(r["method"], r["poison"]) for r in rows[2:]}
    assert cells == {(m, p) for m in ("sft", "safeinstr", "der") for p in (0.0, 0.2)}
    page = {"report.html", "figures", "tables"}  # it is drawn anew of the same figures

    def stamps() -> dict[Path, int]:
        files = (f for f in (tmp_path / "runs").rglob("*") if f.is_file() and not page & set(f.parts))
        return {f: f.stat().st_mtime_ns for f in files}

    before = stamps()
    run("compare", recipe)
    assert before == stamps()


def test_the_trainer_takes_conversations_as_a_hub_dataset(tmp_path: Path, rows_file: Make) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainingArguments

    from unforgotten import DER, MethodTrainer

    def rows(name: str) -> Any:
        return Dataset.from_list([json.loads(line) for line in rows_file(name, 8).read_text().splitlines()])

    tokenizer = tiny_tokenizer(CHATML)
    trainer = MethodTrainer(
        model=tiny("llama", vocabulary=len(tokenizer)),
        args=TrainingArguments(str(tmp_path / "out"), max_steps=2, use_cpu=True, report_to=[], disable_tqdm=True),
        train_dataset=rows("user.jsonl"),
        safety_dataset=rows("safety.jsonl"),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, target_modules=["q_proj"]),
        method=DER(weight=2.0),
    )
    trainer.train()
    assert trainer.state.global_step == 2
    taught = [i for i in trainer.run.user.rows[0]["labels"] if i != -100]
    assert tokenizer.decode(taught).endswith(" .<eos>")


@pytest.mark.parametrize("verb", ["finetune", "evaluate", "compare", "align", "plan", "sweep", "synthesize"])
@pytest.mark.parametrize("given", ["my.yaml", {"model": "m"}, None, 3])
def test_a_verb_given_something_else_says_what_it_takes(verb: str, given: object) -> None:
    args = ("m", {"model": "m"}) if verb == "evaluate" and given is not None else (given,)
    with pytest.raises(unforgotten.RecipeError, match=rf"{verb}\(\) takes"):
        getattr(unforgotten, verb)(*args)


def test_errors_go_from_one_process_to_another() -> None:
    for error in (unforgotten.UnknownName("field", "lr", ["b", "a"]), unforgotten.DataError("wrong", [(1, "x")])):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error)


def test_dir_tells_public_names_alone() -> None:
    assert {name for name in dir(unforgotten) if not name.startswith("__")} == set(unforgotten.__all__)


@pytest.mark.parametrize("given", [None, {"model": "m"}, 3])
def test_a_recipe_is_loaded_from_a_file(given: Any) -> None:
    with pytest.raises(unforgotten.RecipeError, match=r"load_recipe\(\) takes a file"):
        unforgotten.load_recipe(given)
