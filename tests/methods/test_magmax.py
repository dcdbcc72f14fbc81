"""MagMax by hand, and the end of a real run against the formula on θ_safe, θ₀ and an SFT run of the same seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

from tests.methods.step import arguments, exact
from tests.training.shapes import tiny
from unforgotten import testing
from unforgotten.errors import ModelError, RecipeError
from unforgotten.methods.magmax import larger_change
from unforgotten.registry import build
from unforgotten.training.trainer import MethodTrainer

USER = testing.ragged_rows(8, 1)
Weights = dict[str, Tensor]


def test_nine_weights_by_hand() -> None:
    base = torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0], [-2.0, -2.0, -2.0]])
    safe = torch.tensor([[3.0, -1.0, 1.0], [4.0, -4.0, 0.0], [-2.0, -5.0, 0.0]])
    tuned = torch.tensor([[2.0, 4.0, 1.0], [-4.0, 3.0, 1.0], [-1.0, -6.0, -4.0]])
    # Changes   safe  2 −2  0   4 −4  0    0 −3  2
    #           task  1  3  0  −4  3  1    1 −4 −2
    # kept            2  3  0  −4 −4  1    1 −4 −2   (of 4 and −4, and of 2 and −2, the task's)
    whole = [[3.0, 4.0, 1.0], [-4.0, -4.0, 1.0], [-1.0, -6.0, -4.0]]
    half = [[2.0, 2.5, 1.0], [-2.0, -2.0, 0.5], [-1.5, -4.0, -3.0]]
    assert larger_change(base, safe, tuned, 1.0).tolist() == whole
    assert larger_change(base, safe, tuned, 0.5).tolist() == half
    assert torch.equal(larger_change(base, safe, tuned, 0.0), base)


def test_narrow_weights_are_merged_in_float32() -> None:
    # 1 + 2⁻⁷ is bfloat16's next number after 1; half of that change is lost in it and kept in float32.
    base, tuned = torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0 + 2**-7], dtype=torch.bfloat16)
    actual = larger_change(base, base, tuned, 0.5)
    assert actual.dtype == torch.float32 and actual.item() == 1 + 2**-8


def weights_of(model: Any) -> Weights:
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def dense_weights(model: Any) -> Weights:
    """Every weight with its adapters in it, by the Hub's names, written out as W + Σ (α/r) B A."""
    tensors = {n.removeprefix("base_model.model."): p.detach() for n, p in model.named_parameters()}
    weights = {n.replace(".base_layer", ""): p.clone() for n, p in tensors.items() if ".lora_" not in n}
    for name, a in tensors.items():
        if ".lora_A." in name:
            module = name.partition(".lora_A.")[0]
            weights[f"{module}.weight"] += 8 / 4 * tensors[name.replace("lora_A", "lora_B")] @ a  # α/r
    return weights


def finished(method: Any, adapter_mode: Any, folder: Path, base: Any = None) -> tuple[Any, Weights]:
    """A run of three steps: its trainer, with the model that it ended with, and θ_safe."""
    model = testing.tiny_model(adapter_mode, dtype=torch.float64)
    aligned = dense_weights(model)
    trainer = MethodTrainer(
        model=model, unaligned_model=base, args=arguments(folder, max_steps=3), train_dataset=USER, method=method,
        compute_loss_func=exact,
    )  # fmt: skip
    trainer.train()
    return trainer, aligned


@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_a_run_ends_with_the_larger_changes_in_a_plain_model(adapter_mode: Any, tmp_path: Path) -> None:
    base = testing.base_of(testing.tiny_model(adapter_mode, dtype=torch.float64), adapter_mode)
    weight = 0.8
    trainer, safe = finished({"name": "magmax", "weight": weight}, adapter_mode, tmp_path / "it", base)
    actual, sft = trainer.model, finished("sft", adapter_mode, tmp_path / "sft")[0].model
    tuned, expected, from_safety, from_task = dense_weights(sft), {}, 0, 0
    for name in base:
        first, second = safe[name] - base[name], tuned[name] - base[name]
        keeps = first.abs() > second.abs()
        from_safety, from_task = from_safety + int(keeps.sum()), from_task + int((second.abs() > first.abs()).sum())
        expected[name] = base[name] + weight * (first * keeps + second * ~keeps)
    assert from_safety > 100 and from_task > 100
    assert not hasattr(actual, "peft_config") and isinstance(actual, LlamaForCausalLM)
    assert testing.distance(dict(actual.state_dict()), expected) < 1e-12
    plain = LlamaForCausalLM(actual.config).double()
    plain.load_state_dict(expected)
    ids = torch.tensor([USER[2]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(actual.eval()(input_ids=ids).logits, plain.eval()(input_ids=ids).logits)
    assert trainer.edited == ([] if adapter_mode == "full" else ["magmax"]) and trainer.model_wrapped is actual


@pytest.mark.parametrize("given", ["module", "state dict", "folder"])
def test_the_base_may_be_a_module_a_state_dict_or_a_folder(given: str, tmp_path: Path) -> None:
    """Of an architecture whose head is its embedding: a module tells that tensor twice, a file once."""
    base = tiny("gemma2", dtype=torch.float64)
    with torch.no_grad():
        for p in base.parameters():
            p += 0.01
    wanted = weights_of(base)
    if given == "folder":
        base.save_pretrained(tmp_path / "base")
    model = tiny("gemma2", dtype=torch.float64)
    trainer = MethodTrainer(
        model=model, unaligned_model={"module": base, "state dict": base.state_dict()}.get(given, tmp_path / "base"),
        args=arguments(tmp_path / "run", max_steps=1), train_dataset=USER, method={"name": "magmax", "weight": 0.0},
        compute_loss_func=exact,
    )  # fmt: skip
    trainer.train()
    assert testing.distance(weights_of(trainer.model), wanted) == 0.0  # λ 0 is the base itself


def test_without_the_base_it_is_refused_at_the_door(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unaligned_model"):
        finished("magmax", "merge", tmp_path)


@pytest.mark.parametrize("base", ["vocabulary", "width", "architecture", "folder"])
def test_another_base_is_refused_before_anything_is_trained(base: str, tmp_path: Path) -> None:
    models = {
        "vocabulary": lambda: (tiny("llama", vocabulary=65), "embed_tokens.weight|lm_head.weight"),
        "width": lambda: (tiny("llama", intermediate_size=40), r"mlp\.\w+_proj.weight is \(32, 48\)|\(48, 32\)"),
        "architecture": lambda: (tiny("qwen2"), r"self_attn\.\w_proj\.bias"),
        "folder": lambda: (tmp_path / "base", "embed_tokens.weight|lm_head.weight"),
    }
    given, tensor = models[base]()
    if base == "folder":
        tmp_path.joinpath("base").mkdir()
        save_file(weights_of(tiny("llama", vocabulary=65)), tmp_path / "base" / "model.safetensors")
    with pytest.raises(ModelError, match=tensor):
        MethodTrainer(
            model=testing.tiny_model("merge"), unaligned_model=given, args=arguments(tmp_path / "run", max_steps=1),
            train_dataset=USER, method="magmax",
        )  # fmt: skip


def test_two_edits_in_one_run_are_refused_with_what_to_do(tmp_path: Path) -> None:
    base = testing.base_of(testing.tiny_model("merge", dtype=torch.float64), "merge")
    with pytest.raises(RecipeError, match="unforgotten repair --method safelora"):
        finished(["magmax", "safelora"], "merge", tmp_path, base)


def test_a_weight_below_0_is_refused() -> None:
    with pytest.raises(RecipeError, match="weight"):
        build("methods", {"name": "magmax", "weight": -0.5})


@pytest.mark.parametrize("method", ["magmax", "safelora"])
@pytest.mark.parametrize("adapter_mode", ["merge", "continue", "full"])
def test_a_base_that_is_the_aligned_model_is_refused_before_training(
    method: str, adapter_mode: Any, tmp_path: Path
) -> None:
    from unforgotten import testing
    from unforgotten.training.finished_weights import LiveModel

    model = testing.tiny_model(adapter_mode)
    live = LiveModel(model, adapter_mode, "tuned", {})
    with pytest.raises(ModelError, match="before alignment and the aligned model are the same"):
        finished(method, adapter_mode, tmp_path, {name: live[name].detach().clone() for name in live.names()})
