"""Weight edits on models on disk: what a run leaves, edited without training, opens in plain transformers and peft."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.shapes import tiny
from unforgotten.errors import ModelError, RecipeError
from unforgotten.verbs.repair.repair import repair

Make = Callable[..., Path]


def moved(model: Any, seed: int, size: float = 0.05) -> Any:
    """The same model with every weight moved a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p += size * torch.randn(p.shape, generator=generator)
    return model


def adapter(model: Any, folder: Path, seed: int, rank: int = 2) -> Any:
    """A LoRA with random factors on `model`, saved; returns the PEFT model."""
    config = LoraConfig(r=rank, lora_alpha=4, target_modules=["q_proj", "v_proj", "down_proj"])
    wrapped = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if ".lora_" in name:
                p.copy_(0.2 * torch.randn(p.shape, generator=generator))
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture
def three(model_folder: Make, tmp_path: Path) -> tuple[Path, Path, Path]:
    """θ₀ and θ_safe whole, and θ* as an adapter on θ_safe."""
    base = model_folder("llama", name="base")
    moved(AutoModelForCausalLM.from_pretrained(base), 1).save_pretrained(tmp_path / "aligned")
    adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "aligned"), tmp_path / "tuned", 2)
    return base, tmp_path / "aligned", tmp_path / "tuned"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t.double() for n, t in AutoModelForCausalLM.from_pretrained(folder).state_dict().items()}


def merged(aligned: Path, tuned: Path) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(aligned), str(tuned)).merge_and_unload()
    return {n: t.double() for n, t in model.state_dict().items()}


def test_magmax_on_disk_is_the_formula_on_whole_models(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, aligned, tuned = three
    out = repair({"name": "magmax", "weight": 0.5}, unaligned_model=str(base), aligned=str(aligned), tuned=str(tuned),
                 out=str(tmp_path / "out"))  # fmt: skip
    zero, safe, last, actual = weights(base), weights(aligned), merged(aligned, tuned), weights(out)
    for name in actual:
        first, second = safe[name] - zero[name], last[name] - zero[name]
        expected = zero[name] + 0.5 * torch.where(first.abs() > second.abs(), first, second)
        torch.testing.assert_close(actual[name], expected, atol=1e-6, rtol=1e-5)
    assert (out / "tokenizer.json").exists() and (out / "chat_template.jinja").exists()
    facts = json.loads((out / "repair.json").read_text())
    assert facts["method"] == {"name": "magmax", "weight": 0.5} and facts["result"] == "model"
    assert facts["edited"] == sum(not torch.equal(actual[name].float(), last[name].float()) for name in actual)
    assert str(tmp_path) not in (out / "repair.json").read_text()


def test_safelora_on_an_adapter_gives_an_adapter(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, aligned, tuned = three
    out = repair({"name": "safelora", "select": "threshold", "threshold": 1.0}, unaligned_model=str(base),
                 aligned=str(aligned), tuned=str(tuned), out=str(tmp_path / "out"))  # fmt: skip
    zero, safe, last, actual = weights(base), weights(aligned), merged(aligned, tuned), merged(aligned, out)
    changed = 0
    for name in actual:
        v, change = safe[name] - zero[name], last[name] - safe[name]
        if change.any():
            changed += 1
            torch.testing.assert_close(actual[name] - safe[name], v @ v.T @ change / v.norm(), atol=1e-5, rtol=1e-3)
        else:
            assert torch.equal(actual[name], safe[name])
    assert changed == 6
    assert "model.safetensors" not in [f.name for f in out.iterdir()]


@pytest.mark.parametrize("tuned_is", ["an adapter", "whole weights"])
def test_interpolation_on_disk_needs_no_base_and_keeps_an_adapter_an_adapter(
    tuned_is: str, three: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    _, aligned, tuned = three
    safe, last = weights(aligned), merged(aligned, tuned)
    if tuned_is == "whole weights":
        model = AutoModelForCausalLM.from_pretrained(aligned)
        model.load_state_dict({name: t.float() for name, t in last.items()})
        model.save_pretrained(tmp_path / "whole")
        tuned = tmp_path / "whole"
    out = repair({"name": "interpolate", "scale": 0.3}, aligned=str(aligned), tuned=str(tuned),
                 out=str(tmp_path / "out"))  # fmt: skip
    is_adapter = (out / "adapter_model.safetensors").exists()
    assert is_adapter == (tuned_is == "an adapter")
    actual = merged(aligned, out) if is_adapter else weights(out)
    assert any((last[name] - safe[name]).any() for name in actual)
    for name, tensor in actual.items():
        torch.testing.assert_close(tensor, 0.7 * safe[name] + 0.3 * last[name], atol=1e-6, rtol=1e-5)
    facts = json.loads((out / "repair.json").read_text())
    assert set(facts["models"]) == {"aligned", "tuned"} and facts["edited"] > 0


def test_safemerge_on_disk_merges_changes_and_an_adapter_of_both_ranks_holds_it(
    three: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """ΔW itself is merged: of ranks 2 and 3 it has rank 5."""
    from unforgotten.models.saved_adapter import bundle

    base, aligned, tuned = three
    adapter(AutoModelForCausalLM.from_pretrained(aligned), tmp_path / "safety", 9, rank=3)
    bundle(aligned, tmp_path / "safety")
    edit = {"name": "safemerge", "safety_adapter": str(tmp_path / "safety"), "threshold": 1.0}
    given = {"unaligned_model": str(base), "aligned": str(aligned), "tuned": str(tuned)}
    out = repair(edit, **given, out=str(tmp_path / "out"))
    small = repair(edit, **given, out=str(tmp_path / "small"), as_lora=5)
    safe, last, safety = weights(aligned), merged(aligned, tuned), merged(aligned, tmp_path / "safety")
    changed = 0
    for name, tensor in weights(out).items():
        user, other = last[name] - safe[name], safety[name] - safe[name]
        changed += bool(user.any())
        expected = safe[name] + 0.8 * user + 0.2 * other if user.any() else safe[name]
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(merged(aligned, small)[name], expected, atol=1e-5, rtol=1e-4)
    assert changed == 6
    with pytest.raises(RecipeError, match="reads θ₀.*--unaligned-model"):
        repair(edit, aligned=str(aligned), tuned=str(tuned), out=str(tmp_path / "none"))


def test_an_adapter_on_the_base_is_told_from_one_on_the_aligned_model(model_folder: Make, tmp_path: Path) -> None:
    """A joined adapter (θ_safe and θ* in one, on θ₀), with its base bundled, is seen as the dense model that it is."""
    from unforgotten.models.saved_adapter import bundle

    base = model_folder("llama", name="base")
    adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "safe", 1)
    adapter(AutoModelForCausalLM.from_pretrained(base), tmp_path / "joined", 2)
    bundle(base, tmp_path / "joined")
    out = repair("magmax", unaligned_model=str(base), aligned=str(tmp_path / "safe"), tuned=str(tmp_path / "joined"),
                 out=str(tmp_path / "out"))  # fmt: skip
    zero, safe, last = weights(base), merged(base, tmp_path / "safe"), merged(base, tmp_path / "joined")
    for name, tensor in weights(out).items():
        first, second = safe[name] - zero[name], last[name] - zero[name]
        expected = zero[name] + torch.where(first.abs() > second.abs(), first, second)
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-5)


def test_a_dense_result_as_an_adapter_is_the_nearest_one_and_its_error_is_told(
    three: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, aligned, tuned = three
    lines: list[str] = []
    whole = repair(
        "magmax", unaligned_model=str(base), aligned=str(aligned), tuned=str(tuned), out=str(tmp_path / "whole")
    )
    out = repair("magmax", unaligned_model=str(base), aligned=str(aligned), tuned=str(tuned), out=str(tmp_path / "out"),
                 as_lora=3, say=lines.append)  # fmt: skip
    safe, best, actual = weights(aligned), weights(whole), merged(aligned, out)
    left = total = 0.0
    for name in best:
        change = best[name] - safe[name]
        singular = torch.linalg.svdvals(change) if change.ndim == 2 else torch.zeros(0)
        total += float(change.square().sum())
        if change.ndim == 2 and "embed" not in name and "lm_head" not in name:
            assert float((actual[name] - best[name]).square().sum()) == pytest.approx(
                float(singular[3:].square().sum()), rel=1e-3, abs=1e-9
            )
        left += float((actual[name] - best[name]).square().sum())
    error = json.loads((out / "repair.json").read_text())["approximation"]["relative_error"]
    assert error == pytest.approx((left / total) ** 0.5, rel=1e-3)
    assert 0 < error < 1 and any(f"{100 * error:.1f} %" in line for line in lines)


def test_an_adapter_as_a_smaller_adapter(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    """SafeLoRA leaves an adapter of the tuned one's rank, 2; asked for 1, it is the nearest of rank 1."""
    base, aligned, tuned = map(str, three)
    edit = {"name": "safelora", "layers": 2}
    own = repair(edit, unaligned_model=base, aligned=aligned, tuned=tuned, out=str(tmp_path / "own"))
    out = repair(edit, unaligned_model=base, aligned=aligned, tuned=tuned, out=str(tmp_path / "out"), as_lora=1)
    safe, best, actual = weights(three[1]), merged(three[1], own), merged(three[1], out)
    for name in actual:
        change, kept = best[name] - safe[name], actual[name] - safe[name]
        if change.any():
            values = torch.linalg.svdvals(change)  # Eckart and Young: what rank 1 must leave out
            assert (change - kept).norm() == pytest.approx(float(values[1:].norm()), rel=1e-3)
            assert torch.linalg.matrix_rank(kept, rtol=1e-4) == 1


def test_what_cannot_be_repaired_is_refused_and_nothing_is_left(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, aligned, tuned = map(str, three)
    with pytest.raises(RecipeError, match="DER works during training.*magmax, safelora"):
        repair("der", unaligned_model=base, aligned=aligned, tuned=tuned, out=str(tmp_path / "out"))
    with pytest.raises(RecipeError, match="exists already"):
        repair("magmax", unaligned_model=base, aligned=aligned, tuned=tuned, out=tuned)
    other = tiny("llama", vocabulary=77)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match="same shape and vocabulary|two models of one architecture"):
        repair("magmax", unaligned_model=base, aligned=str(tmp_path / "other"), tuned=str(tmp_path / "other"),
               out=str(tmp_path / "out"))  # fmt: skip
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_run_of_the_verbs_repaired_afterwards_is_the_run_with_the_method(
    model_folder: Make, rows_file: Make, tmp_path: Path
) -> None:
    """finetune(sft) and then repair(safelora) gives what finetune(safelora) gives."""
    from unforgotten.recipe.read import parse
    from unforgotten.verbs.finetune.finetune import finetune

    model = model_folder("qwen2")
    common = {
        "model": str(model),
        "out": str(tmp_path / "runs"),
        "align": {
            "num_train_epochs": 1,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "lora": {"r": 2, "target_modules": "all-linear"},
        },
        "safety_data": [{"name": "jsonl", "path": str(rows_file("safe.jsonl", 8)), "kind": "harmful"}],
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 8))},
        "lora": {"r": 2, "target_modules": "all-linear", "lora_dropout": 0.0},
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2},
    }
    plain = finetune(parse({**common, "method": "sft"}))
    edited = finetune(parse({**common, "method": {"name": "safelora", "layers": 4}}))
    aligned = next((tmp_path / "runs" / "aligned").glob("[!.]*"))
    out = repair({"name": "safelora", "layers": 4}, unaligned_model=str(model), aligned=str(aligned),
                 tuned=str(plain / "adapter"), out=str(tmp_path / "out"))  # fmt: skip
    first, second = (load_file(f / "adapter_model.safetensors") for f in (edited / "adapter", out))
    assert set(first) == set(second)
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, atol=1e-6, rtol=1e-4)
    assert any(
        not torch.equal(first[n], t) for n, t in load_file(plain / "adapter" / "adapter_model.safetensors").items()
    )
    whole = finetune(parse({**common, "method": "magmax"}))
    assert (whole / "model" / "model.safetensors").exists() and not (whole / "adapter").exists()


def copied(source: Path, target: Path, dtype: torch.dtype) -> Path:
    AutoModelForCausalLM.from_pretrained(source).to(dtype).save_pretrained(target)
    return target


@pytest.mark.parametrize("method", ["safelora", "magmax"])
@pytest.mark.parametrize("stored", ["the same folder", "bfloat16", "an adapter of zeros"])
def test_a_base_that_is_the_aligned_model_is_refused(
    method: str, stored: str, three: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    """It edited 0 of 0 modules, and wrote the unsafe model as repaired."""
    _, aligned, tuned = three
    base = aligned
    if stored == "bfloat16":
        base = copied(aligned, tmp_path / "again", torch.bfloat16)
    elif stored == "an adapter of zeros":
        model = AutoModelForCausalLM.from_pretrained(aligned)
        get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "zeros")
        aligned = tmp_path / "zeros"
    with pytest.raises(
        ModelError, match="--unaligned-model .* and --aligned .* hold the same weights.*before alignment"
    ):
        repair(method, unaligned_model=str(base), aligned=str(aligned), tuned=str(tuned), out=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_a_tuned_model_that_is_the_aligned_one_is_refused(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, aligned, _ = three
    model = AutoModelForCausalLM.from_pretrained(aligned)
    get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "zeros")
    for tuned in (aligned, tmp_path / "zeros"):
        with pytest.raises(ModelError, match="--tuned .* nothing to repair"):
            repair(
                "magmax", unaligned_model=str(base), aligned=str(aligned), tuned=str(tuned), out=str(tmp_path / "out")
            )


def test_an_adapter_on_what_alignment_left_alone_is_refused(model_folder: Make, tmp_path: Path) -> None:
    base = model_folder("llama", name="base")
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight += 0.1
    model.save_pretrained(tmp_path / "aligned")
    adapter(AutoModelForCausalLM.from_pretrained(tmp_path / "aligned"), tmp_path / "tuned", 2)
    given = {"unaligned_model": str(base), "aligned": str(tmp_path / "aligned"), "tuned": str(tmp_path / "tuned")}
    with pytest.raises(
        ModelError,
        match="SafeLoRA edits only layers that alignment and fine-tuning both changed, and there is no such layer",
    ):
        repair("safelora", **given, out=str(tmp_path / "out"))
    lines: list[str] = []
    repair("magmax", **given, out=str(tmp_path / "out"), say=lines.append)
    assert lines[0] == "Edited 0 of 21 weights." and "no safer" in lines[-1], "training has moved no weight back"


def test_an_alignment_of_the_embedding_alone_is_no_layer_and_numbers_must_be_numbers(
    three: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    base, _, tuned = three
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.model.embed_tokens.weight += 0.1
    model.save_pretrained(tmp_path / "aligned")
    given = {"unaligned_model": str(base), "aligned": str(tmp_path / "aligned"), "out": str(tmp_path / "out")}
    with pytest.raises(
        ModelError,
        match="SafeLoRA edits only layers that alignment and fine-tuning both changed, and there is no such layer",
    ):
        repair("safelora", **given, tuned=str(tuned))
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[1, 1] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(ModelError, match="up_proj.weight holds NaN or infinite values"):
        repair("magmax", **given, tuned=str(tmp_path / "broken"))
    assert not (tmp_path / "out").exists()


def test_what_was_edited_is_counted_and_nothing_is_said_aloud(three: tuple[Path, Path, Path], tmp_path: Path) -> None:
    base, aligned, tuned = map(str, three)
    lines: list[str] = []
    out = repair({"name": "safelora", "layers": 2}, unaligned_model=base, aligned=aligned, tuned=tuned,
                 out=str(tmp_path / "a"), say=lines.append)  # fmt: skip
    facts = json.loads((out / "repair.json").read_text())
    assert (facts["edited"], facts["of"]) == (2, 6) and "Edited 2 of 6 modules." in lines
    lines.clear()
    out = repair({"name": "safelora", "layers": 0}, unaligned_model=base, aligned=aligned, tuned=tuned,
                 out=str(tmp_path / "b"), say=lines.append)  # fmt: skip
    assert lines[0] == "Edited 0 of 6 modules." and "no safer" in lines[-1]
    assert "no safer" in json.loads((out / "repair.json").read_text())["notes"][-1]
