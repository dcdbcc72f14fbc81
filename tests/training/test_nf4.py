"""A base in 4 bits trains as one in which its weights, unpacked, stand; what cannot be is refused with the mend.

On the CPU, through bitsandbytes' own kernels; where the extra `qlora` is missing, what needs it is skipped and the
refusals are tested all the same.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from tests.training.shapes import tiny
from tests.training.test_trainer import arguments
from tests.verbs.finetune.test_finetune import logits, no_absolute_path, recipe_of
from unforgotten import testing
from unforgotten.errors import RecipeError, UnsupportedError
from unforgotten.models import adapters, load, nf4
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.finetune.job import resolve

Make = Callable[..., Path]
quantises = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes, the extra qlora, is not installed"
)
SIZES = {"hidden_size": 64, "intermediate_size": 128}
"""bitsandbytes packs blocks of 64 values."""
LORA = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])


# What needs no bitsandbytes.


def test_without_bitsandbytes_the_extra_is_named_before_anything_is_made(
    tmp_path: Path, model_folder: Make, rows_file: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    recipe = recipe_of(tmp_path, model_folder("llama"), rows_file, load_in="nf4")
    for does in (nf4.check, nf4.config, lambda: finetune(recipe)):
        with pytest.raises(UnsupportedError, match=r"pip install 'unforgotten\[qlora\]'.*leave out `load_in`"):
            does()
    assert not (tmp_path / "runs").exists()


def test_the_extra_that_is_named_brings_it() -> None:
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert any(r.startswith("bitsandbytes") for r in extras["optional-dependencies"]["qlora"])


def test_a_device_that_cannot_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", torch)  # any module that loads
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    with pytest.raises(UnsupportedError, match="not on mps"):
        nf4.check()
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    nf4.check()


def test_what_needs_whole_weights_is_refused_at_the_door(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    def recipe(**more: Any) -> Any:
        return recipe_of(tmp_path, model_folder("llama"), rows_file, load_in="nf4", **more)

    with pytest.raises(RecipeError, match="no whole weights to train"):
        recipe(lora=None)
    for method in ("magmax", "safelora"):
        with pytest.raises(RecipeError, match=f"unforgotten repair --method {method}"):
            recipe(method=["ema", method])
    with pytest.raises(RecipeError, match="rounds each weight to one of 16 values.*stack"):
        resolve(recipe(align={}, existing="merge"))
    with pytest.raises(RecipeError, match="nf4"):
        recipe_of(tmp_path, model_folder("llama"), rows_file, load_in="int3")
    assert resolve(recipe()).folder != resolve(recipe_of(tmp_path, model_folder("llama"), rows_file)).folder


# What needs it.


def folder_of(tmp_path: Path, shape: str = "llama") -> Path:
    tiny(shape, **SIZES).save_pretrained(tmp_path / shape)
    return tmp_path / shape


def unpacked(model: Any, plain: Any) -> Any:
    """`plain` with the weights that the quantised model has, by bitsandbytes' own functions."""
    import bitsandbytes as bnb

    actual = copy.deepcopy(plain)
    linears = dict(actual.named_modules())
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, bnb.nn.Linear4bit):
                state = module.weight.quant_state
                linears[name].weight.copy_(bnb.functional.dequantize_4bit(module.weight.data, state))
    return actual


@quantises
@pytest.mark.parametrize("shape", ["llama", "gemma2", "qwen2"])
def test_the_base_is_the_folders_rounded_to_nf4_and_the_head_is_whole(shape: str, tmp_path: Path) -> None:
    import bitsandbytes as bnb

    plain = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, shape)).eval()
    model = load.load_model(str(tmp_path / shape), load_in="nf4", trains=True).eval()
    weights, packed = dict(plain.named_parameters()), 0
    for name, p in model.named_parameters():
        if nf4.is_4_bit(p):
            packed += 1
            data, state = bnb.functional.quantize_4bit(weights[name].data, quant_type="nf4", compress_statistics=True)
            expected = bnb.functional.dequantize_4bit(data, state)
            assert torch.equal(bnb.functional.dequantize_4bit(p.data, p.quant_state), expected)
            assert not torch.equal(expected, weights[name])
        else:
            assert torch.equal(p, weights[name].float()), name
    assert packed == 14 and nf4.facts(model)["weights_in_4_bits"] == 14
    assert not any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(logits(model), logits(unpacked(model, plain)), rtol=0, atol=1e-5)


@quantises
def test_a_forward_in_eval_mode_does_not_cut_the_gradients(tmp_path: Path) -> None:
    """bitsandbytes repacks weights for inference on some CPUs, and what it repacked has no backward."""
    from transformers import BitsAndBytesConfig

    plain = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path)).eval()
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)

    def loaded() -> Any:  # as a user does, who gives it to MethodTrainer
        return AutoModelForCausalLM.from_pretrained(tmp_path / "llama", quantization_config=settings)

    model = loaded()
    whole = unpacked(model, plain)
    # The loss is proved, and LwF's states are stored, in eval mode.
    spec = {"name": "lwf", "weight": 1.0}
    actual = trained(model, "merge", spec, tmp_path / "nf4", loss="chunked")
    alike(actual, trained(whole, "merge", spec, tmp_path / "whole"), first(plain, "merge"))
    run_before = loaded()
    logits(run_before)
    if getattr(run_before.model.layers[0].mlp.up_proj.weight.quant_state, "packing_format_for_cpu", False):
        with pytest.raises(UnsupportedError, match="Load it again"):
            trained(run_before, "merge", "sft", tmp_path / "late")


def first(base: Any, how: str) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in laid_out(copy.deepcopy(base), how).named_parameters() if p.requires_grad}


def alike(actual: Any, expected: Any, start: Any) -> None:
    """Equal to a thousandth of the way that training went."""
    went = testing.distance(expected, start)
    assert went > 1e-5, "nothing was trained"
    assert testing.distance(actual, expected) <= 1e-3 * went


def laid_out(base: Any, how: str) -> Any:
    """θ_safe and what is trained, on a base in 4 bits or on a whole one."""
    torch.manual_seed(1)
    if how == "merge":
        return adapters.fresh(base, LORA)
    from peft import get_peft_model

    model = get_peft_model(base, LORA, adapter_name=adapters.ALIGNED if how == "stack" else "default")
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.copy_(torch.randn(p.shape, generator=generator) * 0.02)
    return adapters.stack(model, LORA) if how == "stack" else model


def trained(base: Any, how: str, method: Any, folder: Path, **more: Any) -> dict[str, torch.Tensor]:
    settings = {"max_steps": 3, "optim": "sgd", "learning_rate": 0.1, **more}
    resume, loss = settings.pop("resume", None), settings.pop("loss", "auto")
    trainer = MethodTrainer(
        model=laid_out(base, how),
        args=arguments(folder, **settings),
        train_dataset=testing.ragged_rows(12, 1),
        safety_dataset=testing.ragged_rows(8, 2),
        memory=Memory(n_rows=8),
        method=method,
        loss=loss,
    )
    assert trainer.run.adapter_mode == how
    trainer.train(resume_from_checkpoint=resume)
    return trainer.run.weights.snapshot()


METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "safeinstr": {},
    "grsap": {},
    "der": {"weight": 50.0},
    "derpp": {"weight": 50.0},
    "lwf": {"weight": 1.0},
    "agem": {},
    "refresh": {},
    "ewc": {"space": "adapter", "weight": 5.0},
    "lisa": {"safety_steps": 1, "user_steps": 1},
    "ema": {},
    "constrained_sft": {"beta": 2.0},
    "anchor": {},
    "kl": {},
    "safegrad": {},
}


@quantises
# Stacked is what a recipe takes in 4 bits by itself.
@pytest.mark.parametrize(
    "how", ["stack", *(pytest.param(how, marks=pytest.mark.slow) for how in ("merge", "continue"))]
)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_as_on_the_unpacked_weights(method: str, how: str, tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path))
    model = load.load_model(str(tmp_path / "llama"), load_in="nf4", trains=True)
    whole = unpacked(model, plain)
    spec = {"name": method, **METHODS[method]}
    expected, actual = trained(whole, how, spec, tmp_path / "whole"), trained(model, how, spec, tmp_path / "nf4")
    alike(actual, expected, first(plain, how))


@quantises
def test_fisher_over_the_dense_change_needs_no_dense_weight(tmp_path: Path) -> None:
    plain = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path))
    model = load.load_model(str(tmp_path / "llama"), load_in="nf4", trains=True)
    whole, spec = unpacked(model, plain), {"name": "ewc", "weight": 5.0, "space": "weights"}
    expected = trained(whole, "stack", spec, tmp_path / "whole")
    alike(trained(model, "stack", spec, tmp_path / "nf4"), expected, first(plain, "stack"))


@quantises
@pytest.mark.parametrize("more", [{"gradient_checkpointing": True}, {"loss": "chunked"}], ids=["checkpointing", "loss"])
def test_checkpointed_activations_and_the_chunked_loss(more: dict[str, Any], tmp_path: Path) -> None:
    if "gradient_checkpointing" in more:
        more = {**more, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    folder = str(folder_of(tmp_path))

    def base() -> Any:
        return load.load_model(folder, load_in="nf4", trains=True)

    plain = trained(base(), "stack", "der", tmp_path / "plain")
    assert testing.distance(plain, trained(base(), "stack", "der", tmp_path / "it", **more)) <= 1e-5


@quantises
def test_a_resumed_run_ends_bit_for_bit_where_the_other_does(tmp_path: Path) -> None:
    folder = str(folder_of(tmp_path))

    def run(at: str, **more: Any) -> dict[str, torch.Tensor]:
        base = load.load_model(folder, load_in="nf4", trains=True)
        more = {"optim": "adamw_torch", "learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2} | more
        return trained(base, "stack", "der", tmp_path / at, max_steps=4, **more)

    through = run("through")
    shutil.copytree(tmp_path / "through", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-4")
    assert testing.distance(through, run("again", resume=True)) == 0.0


@quantises
def test_other_scales_are_another_base(tmp_path: Path) -> None:
    """Twice the weights pack to the same values: only their scales tell, and stored states must not be mixed up."""
    folder_of(tmp_path)
    double = AutoModelForCausalLM.from_pretrained(tmp_path / "llama")
    with torch.no_grad():
        for layer in double.model.layers:
            layer.mlp.up_proj.weight.mul_(2)
    double.save_pretrained(tmp_path / "double")
    keys = []
    for name in ("llama", "double"):
        base = load.load_model(str(tmp_path / name), load_in="nf4", trains=True)
        rows = testing.ragged_rows(4, 1)
        keys.append(MethodTrainer(model=laid_out(base, "stack"), args=arguments(tmp_path), train_dataset=rows)._key())
    assert keys[0] != keys[1]


@quantises
def test_whole_weights_are_not_edited_nor_merged(tmp_path: Path) -> None:
    base = load.load_model(str(folder_of(tmp_path)), load_in="nf4", trains=True)
    model = laid_out(base, "stack")
    with pytest.raises(UnsupportedError, match="cannot be merged into a base in 4 bits"):
        load.merged(model, [1, 2, 3])
    for method in ("magmax", "safelora"):
        with pytest.raises(UnsupportedError, match="unforgotten repair"):
            MethodTrainer(
                model=model,
                args=arguments(tmp_path),
                train_dataset=testing.ragged_rows(4, 1),
                safety_dataset=testing.ragged_rows(4, 2),
                method=method,
                unaligned_model={},
            )


ALIGN = {
    "num_train_epochs": 1,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.02,
    "lora": {"r": 4, "lora_alpha": 16},
}


@quantises
@pytest.mark.parametrize("start", ["aligned here", "whole", "a run's folder"])
def test_a_run_from_the_recipe_to_an_adapter_on_the_unquantised_base(
    start: str, tmp_path: Path, model_folder: Make, rows_file: Make
) -> None:
    from unforgotten.models.locate_aligned import aligned_of
    from unforgotten.models.shelf import Shelf
    from unforgotten.recipe.data_sets import DataSets

    base = model_folder("llama", **SIZES)
    below = base
    if start == "a run's folder":
        below = finetune(recipe_of(tmp_path, base, rows_file, method="sft")) / "adapter"
    more: dict[str, Any] = {"align": ALIGN} if start == "aligned here" else {}
    recipe = recipe_of(tmp_path, below, rows_file, load_in="nf4", method={"name": "der", "weight": 10.0}, **more)
    run = finetune(recipe)
    assert finetune(recipe) == run
    facts = json.loads((run / "environment.json").read_text())
    assert facts["quantised"]["load_in"] == "nf4" and facts["quantised"]["weights_in_4_bits"] == 14
    done = json.loads((run / "trained.json").read_text())
    assert done["adapter_mode"] == ("merge" if start == "whole" else "stack")
    no_absolute_path(run / "adapter", tmp_path)
    # The adapter on the unquantised base, by plain PEFT, is what the folder itself opens as.
    unquantised = AutoModelForCausalLM.from_pretrained(base)
    by_peft = logits(PeftModel.from_pretrained(unquantised, str(run / "adapter")))
    torch.testing.assert_close(
        by_peft, logits(AutoModelForCausalLM.from_pretrained(run / "adapter")), rtol=0, atol=1e-5
    )
    # Evaluation puts it on the base in 4 bits: the logits of the unpacked base under the same adapter.
    model = Shelf().model(run, recipe)
    assert nf4.is_quantised(model)
    quantised = load.load_model(str(base), load_in="nf4")
    beside = PeftModel.from_pretrained(unpacked(quantised, AutoModelForCausalLM.from_pretrained(base)), run / "adapter")
    torch.testing.assert_close(logits(model), logits(beside), rtol=0, atol=1e-5)
    assert (logits(model) - by_peft).abs().max() > 1e-4
    aligned = Shelf().model(aligned_of(recipe, DataSets()), recipe)
    assert nf4.is_quantised(aligned) and (logits(aligned) - logits(model)).abs().max() > 1e-4


@quantises
def test_results_say_that_the_base_was_in_4_bits(tmp_path: Path, model_folder: Make, rows_file: Make) -> None:
    from unforgotten.evaluation.measure_all import measure_all
    from unforgotten.verbs.evaluate.run import of_run
    from unforgotten.verbs.evaluate.stage import of_stage

    asked = rows_file("harm.jsonl", 3, answered=False)
    harm = {"name": "jsonl", "path": str(asked), "answers": "optional", "kind": "harmful"}
    recipe = recipe_of(
        tmp_path,
        model_folder("llama", **SIZES),
        rows_file,
        load_in="nf4",
        align=ALIGN,
        method="sft",
        evaluate={"harm": harm, "max_new_tokens": 4, "conditions": ["default"]},
    )
    stages = [of_stage(recipe, stage) for stage in ("aligned", "base")]
    rows = measure_all([of_run(finetune(recipe), recipe), *stages])
    for row in rows:
        assert any("4 bits (nf4)" in note for note in row.notes)
    assert len({row.digests.loaded for row in rows}) == 3
