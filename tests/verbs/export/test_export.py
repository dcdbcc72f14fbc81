"""Exports open in plain transformers and peft with the run's logits, hold no path, and leave the run as it was."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from tests.verbs.finetune.test_finetune import logits, no_absolute_path, recipe_of
from unforgotten.cli import app
from unforgotten.errors import ModelError, RecipeError, UnknownName
from unforgotten.verbs.export import verify
from unforgotten.verbs.export.export import export
from unforgotten.verbs.export.vllm import served
from unforgotten.verbs.finetune.finetune import finetune

Make = Callable[..., Path]
ALIGN = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.02,
    "lora": {"r": 2, "lora_alpha": 16, "target_modules": ["q_proj"]},
}


def run_of(tmp_path: Path, model: Path | str, rows_file: Make, **more: Any) -> Path:
    safe = {"name": "refusals", "path": str(rows_file("harm.jsonl", 12, seed=7))}
    own = {"evaluate": {"harm": [safe], "judge": "keywords", "max_new_tokens": 12}}
    return finetune(recipe_of(tmp_path, model, rows_file, method="sft", **{**own, **more}))


def bytes_of(folder: Path) -> dict[str, str]:
    """Every file of a run, links into others followed: what an export must not change."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and "exports" not in f.parts]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.mark.parametrize(("shape", "existing"), [("llama", "merge"), ("qwen2", "stack"), ("gemma2", "merge")])
def test_every_form_replies_as_the_run_and_opens_anywhere(
    shape: str, existing: str, tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    base = model_folder(shape)
    run = run_of(tmp_path, base, rows_file, align=ALIGN, existing=existing)
    before, tuned = bytes_of(run), logits(loaded(run / "adapter"))
    assert (tuned - logits(loaded(base))).abs().max() > 1e-3, "nothing was trained"
    for form in ("adapter", "stacked", "merged"):
        made = export(str(run), form, out=str(tmp_path / "out" / form))
        torch.testing.assert_close(logits(loaded(made.folder)), tuned, rtol=0, atol=1e-4)
        facts = json.loads((made.folder / "export.json").read_text())
        assert facts["proof"]["prompts"] == 8 and facts["proof"]["largest_logit_deviation"] < 1e-3
        assert facts["form"] == form and facts["base"] is None and made.vllm.why_not == []
        no_absolute_path(made.folder, tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(made.folder)
        assert tokenizer.chat_template == AutoTokenizer.from_pretrained(run / "adapter").chat_template
        generation = GenerationConfig.from_pretrained(made.folder)
        assert generation.do_sample is False and 2 in generation.eos_token_id and generation.temperature in (None, 1.0)
        if form == "merged":
            assert not (made.folder / "adapter_config.json").exists()
    assert bytes_of(run) == before, "an export changed the run"
    # `stacked` lies on the public base itself: one adapter, both ranks.
    config = json.loads((tmp_path / "out" / "stacked" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 2 + 4 and not config.get("rank_pattern")
    actual = PeftModel.from_pretrained(loaded(base), str(tmp_path / "out" / "stacked"))
    torch.testing.assert_close(logits(actual), tuned, rtol=0, atol=1e-4)


def test_an_aligned_adapter_that_was_exchanged_is_not_stacked(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    """What a gate read is the run's own base, in which the right one is merged: both must be the same sums."""
    run = run_of(tmp_path, model_folder("llama"), rows_file, align=ALIGN, existing="merge")
    [file] = (run.parent / "aligned").glob("*/adapter/adapter_model.safetensors")
    tensors = load_file(file)
    name = next(n for n in tensors if "lora_B" in n)
    save_file(tensors | {name: tensors[name] * 1.01}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="differs from the aligned model's base plus adapter"):
        export(str(run), "stacked")
    assert not (run / "exports" / "stacked").exists()


def test_a_continued_adapter_is_one_already(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    base = model_folder("llama")
    run = run_of(tmp_path, base, rows_file, align=ALIGN, existing="continue")
    left = run / "exports" / f".stacked.{os.getpid()}"  # of an export killed in a container, where numbers repeat
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").touch()
    made = export(str(run), "stacked")
    assert made.folder == run / "exports" / "stacked" and not (made.folder / ".owner.json").exists()
    assert json.loads((made.folder / "adapter_config.json").read_text())["r"] == 2
    torch.testing.assert_close(logits(loaded(made.folder)), logits(loaded(run / "adapter")), rtol=0, atol=1e-5)


def test_an_adapter_merged_into_its_base_by_the_run_is_joined_again(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    """θ_safe given as a base and an adapter in one folder, as another run leaves it; the run keeps it merged."""
    base = model_folder("llama")
    first = run_of(tmp_path, base, rows_file) / "adapter"
    run = run_of(tmp_path, first, rows_file, seed=1, existing="merge")
    made = export(str(run), "stacked")
    assert json.loads((made.folder / "adapter_config.json").read_text())["r"] == 4 + 4
    actual = PeftModel.from_pretrained(loaded(base), str(made.folder))
    torch.testing.assert_close(logits(actual), logits(loaded(run / "adapter")), rtol=0, atol=1e-4)


def test_an_adapter_given_as_the_aligned_model_is_joined_with_the_runs(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    """One with ranks and scales of its own for each module, which the joined one has no more."""
    from peft import LoraConfig, get_peft_model

    base = model_folder("llama")
    varied = LoraConfig(r=2, lora_alpha=6, use_rslora=True, target_modules=["q_proj", "up_proj"],
                        rank_pattern={"up_proj": 3}, alpha_pattern={"up_proj": 5})  # fmt: skip
    model = get_peft_model(loaded(base), varied)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1)
    model.save_pretrained(tmp_path / "safe")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "safe")
    lora = {"r": 4, "lora_alpha": 64, "target_modules": ["q_proj", "v_proj"]}
    run = run_of(tmp_path, tmp_path / "safe", rows_file, existing="merge", lora=lora, unaligned_model=str(base))
    made = export(str(run), "stacked")
    config = json.loads((made.folder / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 3 + 4 and len(config["target_modules"]) == 2 * 3
    tuned = logits(loaded(run / "adapter"))
    torch.testing.assert_close(logits(loaded(made.folder)), tuned, rtol=0, atol=1e-4)
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(loaded(base), str(made.folder))), tuned, rtol=0, atol=1e-4
    )
    no_absolute_path(made.folder, tmp_path)


@pytest.mark.parametrize("why", ["every weight was trained", "weights of any rank"])
def test_a_whole_model_is_exported_whole_or_refused(
    why: str, tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    more = {"lora": None} if why.startswith("every") else {"align": ALIGN}
    base = model_folder("llama")
    run = finetune(recipe_of(tmp_path, base, rows_file, method="magmax" if "align" in more else "sft", **more))
    for form in ("adapter", "stacked"):
        with pytest.raises(RecipeError, match=f"{why}.*--as merged") as said:
            export(str(run), form)
        assert ("repair --as-lora" in str(said.value)) == ("align" in more)
    before = bytes_of(run)
    made = export(str(run), "merged")
    torch.testing.assert_close(logits(loaded(made.folder)), logits(loaded(run / "model")), rtol=0, atol=0)
    assert bytes_of(run) == before
    assert json.loads((made.folder / "export.json").read_text())["tensors"]["merged"] == 0


def test_merged_weights_keep_the_bases_precision_or_take_another(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    run = run_of(tmp_path, model_folder("llama", dtype=torch.bfloat16), rows_file, dtype="float32")
    wide = export(str(run), "merged", dtype="float32").folder
    assert {t.dtype for t in load_file(wide / "model.safetensors").values()} == {torch.float32}
    assert loaded(wide).dtype == torch.float32
    tuned = AutoModelForCausalLM.from_pretrained(run / "adapter", dtype=torch.float32)
    torch.testing.assert_close(logits(loaded(wide)), logits(tuned), rtol=0, atol=1e-5)
    try:  # in 16 bits the merge rounds: either the replies are the same, or nothing is written
        narrow = export(str(run), "merged", out=str(tmp_path / "narrow")).folder
    except ModelError as error:
        assert "--dtype float32" in str(error) and not (tmp_path / "narrow").exists()
    else:
        assert {t.dtype for t in load_file(narrow / "model.safetensors").values()} == {torch.bfloat16}
        deviation = json.loads((narrow / "export.json").read_text())["proof"]["largest_logit_deviation"]
        assert deviation > 1e-5


def test_an_export_that_replies_otherwise_is_an_error_and_leaves_nothing(
    tmp_path: Path, model_folder: Make, rows_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, model_folder("llama"), rows_file, align=ALIGN)
    from unforgotten.models.weights import concatenate

    inner = concatenate.concatenated

    def halved(adapters: Any, folder: Path) -> int:
        return inner(adapters[:1], folder)  # the user's half is lost

    monkeypatch.setattr(concatenate, "concatenated", halved)
    with pytest.raises(ModelError, match=r"of 8 greedy replies of the export differ.*Nothing was\s+written"):
        export(str(run), "stacked", out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_what_cannot_be_asked_is_told_before_a_model_is_loaded(
    tmp_path: Path, model_folder: Make, rows_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of(tmp_path, model_folder("llama"), rows_file, align=ALIGN)
    monkeypatch.setattr(verify, "heard", lambda *a: pytest.fail("a model was asked"))
    with pytest.raises(UnknownName, match="'stack'.*Did you mean 'stacked'"):
        export(str(run), "stack")
    with pytest.raises(RecipeError, match="--dtype float16 works only with `--as merged`"):
        export(str(run), "adapter", dtype="float16")
    with pytest.raises(RecipeError, match="--private needs --push"):
        export(str(run), "adapter", private=True)
    with pytest.raises(RecipeError, match="exists already"):
        export(str(run), "adapter", out=str(run))
    with pytest.raises(RecipeError, match="There is no run folder runs/mine-0"):
        export("runs/mine-0", "adapter")
    with pytest.raises(RecipeError, match="no recipe.yaml"):
        export(str(tmp_path / "model"), "adapter")
    with pytest.raises(RecipeError, match="OWNER/NAME"):
        export(str(run), "adapter", push_to="nobody")
    aligned = (run / "aligned").resolve()
    (aligned / "adapter").rename(aligned / "gone")
    with pytest.raises(ModelError, match="is missing from .*--as adapter"):
        export(str(run), "stacked")
    (run / "trained.json").unlink()
    with pytest.raises(RecipeError, match="is not fully trained"):
        export(str(run), "adapter")
    assert not (run / "exports").exists() or not list((run / "exports").iterdir())


def test_the_card_has_the_figures_of_these_weights_only(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    from unforgotten.verbs.evaluate.evaluate import evaluate

    run = run_of(tmp_path, model_folder("llama"), rows_file)
    assert "Until it is measured, nobody knows" in (export(str(run), "adapter").folder / "README.md").read_text()
    evaluate(str(run))
    text = (export(str(run), "merged").folder / "README.md").read_text()
    assert "library_name: transformers" in text and "95 % intervals" in text and "replies/" not in text
    assert 'from_pretrained("merged")' in text and "vllm serve merged" in text
    tree = json.loads((run / "results.json").read_text())
    tree["rows"][0]["digests"]["loaded"] = "0" * 12
    (run / "results.json").write_text(json.dumps(tree))
    text = (export(str(run), "stacked").folder / "README.md").read_text()
    assert "of other weights" in text and "intervals" not in text


def adapter_folder(folder: Path, ranks: tuple[int, ...] = (4, 4), **config: Any) -> Path:
    folder.mkdir(parents=True)
    stem = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
    tensors = {stem.format(i, "A"): torch.zeros(r, 8) for i, r in enumerate(ranks)}
    save_file(tensors | {stem.format(i, "B"): torch.zeros(8, r) for i, r in enumerate(ranks)},
              folder / "adapter_model.safetensors")  # fmt: skip
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "owner/base", "revision": "v1"}
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    return folder


def test_vllm_is_told_the_exact_command(tmp_path: Path) -> None:
    actual = served(adapter_folder(tmp_path / "a", r=20, ranks=(20,)), "a", "mine", 512)
    assert actual.commands == [
        "vllm serve owner/base --revision v1 --enable-lora --max-lora-rank 32 --lora-modules mine=a"
    ]
    whole = tmp_path / "w"
    whole.mkdir()
    assert served(whole, "w", "mine", 8).commands == ["vllm serve w --served-model-name mine"]


@pytest.mark.parametrize(
    ("says", "facts"),
    [
        ("whole modules (lm_head)", {"modules_to_save": ["lm_head"]}),
        ("rank or alpha differ", {"ranks": (4, 2)}),
        ("rank or alpha differ", {"alpha_pattern": {"q_proj": 2}}),
        ("its rank 4 is above --max-rank 2", {"max_rank": 2}),
        ("its rank 600 is above vLLM's largest, 512", {"r": 600, "ranks": (600,), "max_rank": 1000}),
        ("not a plain LoRA", {"use_dora": True}),
        ("trains biases", {"bias": "all"}),
    ],
)
def test_vllm_cannot_serve(says: str, facts: dict[str, Any], tmp_path: Path) -> None:
    limit = facts.pop("max_rank", 512)
    actual = served(adapter_folder(tmp_path / "a", **facts), "a", "mine", limit)
    assert says in actual.lines()[0] and "--as merged" in actual.lines()[0] and not actual.commands


def test_the_command_line_prints_folder_and_command(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    run = run_of(tmp_path, model_folder("llama"), rows_file)
    out = tmp_path / "my export"
    result = CliRunner().invoke(app, ["export", str(run), "--as", "adapter", "--out", str(out)])
    assert result.exit_code == 0, result.output
    first, apart, serve = result.stdout.splitlines()
    assert first == str(out)
    # The first command puts the bundled base into a folder of its own, which is a plain model.
    subprocess.run(apart, shell=True, check=True)
    words = shlex.split(serve)
    assert words[:2] == ["vllm", "serve"] and f"{run.name}={out}" in words
    AutoTokenizer.from_pretrained(words[2])
    actual = PeftModel.from_pretrained(loaded(Path(words[2])), str(out))
    torch.testing.assert_close(logits(actual), logits(loaded(run / "adapter")), rtol=0, atol=1e-5)
    wrong = CliRunner().invoke(app, ["export", str(run), "--as", "gguf"])
    assert wrong.exit_code == 2 and "adapter" in wrong.output


HUB = """
import json, sys
from pathlib import Path
from unforgotten.verbs.export.export import export
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.recipe.read import load_recipe
run = finetune(load_recipe("recipe.yaml"))
print(json.dumps({form: [str(m.folder), m.vllm.commands] for form in ("adapter", "stacked", "merged")
                  for m in [export(str(run), form)]}))
"""


def test_a_base_on_the_hub_is_named_with_its_revision_and_not_bundled(
    tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    import yaml

    revision = "0123456789" * 4
    cached = tmp_path / "home" / "hub" / "models--tiny--base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(revision)
    (cached / "snapshots").mkdir()
    base = model_folder("llama")
    base.rename(cached / "snapshots" / revision)
    recipe = recipe_of(tmp_path, "tiny/base", rows_file, method="sft", align=ALIGN, existing="merge", revision=revision)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(exclude_unset=True)))
    surroundings = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", HUB], cwd=tmp_path, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    folder, [command] = Path(made["stacked"][0]), made["stacked"][1]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("tiny/base", revision)
    assert not (folder / "config.json").exists()
    assert f"vllm serve tiny/base --revision {revision} --enable-lora --max-lora-rank 8" in command
    assert f"--chat-template {folder}/chat_template.jinja --generation-config {folder}" in command
    below = loaded(cached / "snapshots" / revision)
    whole = logits(loaded(Path(made["merged"][0])))
    torch.testing.assert_close(logits(PeftModel.from_pretrained(below, str(folder))), whole, rtol=0, atol=1e-4)
    assert "base_model: tiny/base" in (folder / "README.md").read_text()
    assert f'revision="{revision}"' in (folder / "README.md").read_text()
    assert len(made["adapter"][1]) == 2, "the adapter's own base, θ_safe, is on no Hub and bundled"
