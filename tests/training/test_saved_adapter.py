"""The saved adapter is the trained one: whatever two adapters change, their sum is saved exactly, or refused before."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from tests.training.families import family
from unforgotten.errors import ModelError, TrainingError, UnsupportedError
from unforgotten.models import adapters, load, saved_adapter
from unforgotten.models import check_saved as saved
from unforgotten.models.saved_adapter import save_adapter
from unforgotten.recipe.recipe import Recipe
from unforgotten.verbs.finetune.finetune import finetune
from unforgotten.verbs.finetune.job import resolve

IDS = torch.tensor([[5, 9, 13, 2, 44, 7, 31, 8, 5, 60]])
Q_V = ["q_proj", "v_proj"]


def moved(model: Any, seed: int) -> None:
    """Random values in whatever an adapter trains, so that nothing is 0 or as the base has it."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) * 0.1


def stacked(base: Any, lower: dict[str, Any], upper: dict[str, Any]) -> Any:
    model = get_peft_model(base, LoraConfig(**{"r": 2, "target_modules": Q_V, **lower}), adapter_name=adapters.ALIGNED)
    moved(model, 1)
    model = adapters.stack(model, LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": Q_V, **upper}))
    moved(model, 2)
    return model.eval()


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


PATTERN = {"rank_pattern": {"q_proj": 7}, "alpha_pattern": {"layers.1.self_attn.v_proj": 11}}
JOINED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("llama", {}, {}),
    ("llama", PATTERN, {"rank_pattern": {"layers.0.self_attn.q_proj": 5}}),
    ("llama", {"use_rslora": True}, PATTERN),
    ("llama", {"lora_bias": True}, {}),
    ("llama", {}, {"lora_bias": True, "use_rslora": True}),
    ("llama", {"target_modules": ["q_proj", "embed_tokens"]}, {"target_modules": ["embed_tokens", "lm_head"]}),
    ("llama", {"target_modules": "all-linear"}, {"target_modules": ["embed_tokens"]}),
    ("llama", {"layers_to_transform": [0]}, {"layers_to_transform": [1], "target_modules": ["down_proj"]}),
    ("llama", {"modules_to_save": ["lm_head"]}, {}),
    ("llama", {}, {"modules_to_save": ["norm", "embed_tokens"]}),
    ("llama", {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["embed_tokens"]}),
    ("gemma2", {"target_modules": ["embed_tokens", "q_proj"]}, {"target_modules": ["lm_head", "v_proj"]}),
    ("gemma2", {"target_modules": ["embed_tokens"]}, {"target_modules": ["embed_tokens"]}),
    ("qwen2", {"target_modules": ["k_proj"], "lora_bias": True}, {"target_modules": ["lm_head"]}),
    ("gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True}, {"target_modules": ["c_fc", "c_proj", "wte"]}),
    ("opt", {"target_modules": ["fc1", "embed_tokens"]}, {"target_modules": ["fc2"]}),
]


@pytest.mark.parametrize(("shape", "lower", "upper"), JOINED, ids=str)
def test_two_adapters_are_saved_as_their_exact_sum(
    shape: str, lower: dict[str, Any], upper: dict[str, Any], tmp_path: Path
) -> None:
    model = stacked(family(shape, dtype=torch.float64), lower, upper)
    live = logits(model)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert all(n in frozen for n, _ in model.named_parameters() if adapters.belongs(n, adapters.ALIGNED))
    save_adapter(model, tmp_path, "somebody/base", None)
    again = PeftModel.from_pretrained(family(shape, dtype=torch.float64), str(tmp_path)).double()
    torch.testing.assert_close(logits(again), live, rtol=1e-6, atol=1e-6)
    assert (logits(family(shape, dtype=torch.float64)) - live).abs().max() > 1e-2
    torch.testing.assert_close(logits(model), live, rtol=0, atol=0)  # joining leaves the live model as it was


REFUSED: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    ("llama", {"use_dora": True}, {}, "DoRA|Dora"),
    ("llama", {}, {"use_dora": True}, "DoRA|Dora"),
    ("llama", {"use_dora": True, "target_modules": ["embed_tokens"]}, {}, "DoRA|Dora"),
    ("llama", {"trainable_token_indices": [3, 5]}, {}, "trainable_token_indices"),
    ("llama", {}, {"trainable_token_indices": {"embed_tokens": [3]}}, "trainable_token_indices"),
    ("llama", {"layer_replication": [[0, 2], [1, 2]]}, {}, "layer_replication"),
    ("llama", {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ("llama", {"modules_to_save": ["lm_head"]}, {"target_modules": ["lm_head"]}, "modules_to_save"),
    ("llama", {"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ("llama", {"alora_invocation_tokens": [3, 4], "task_type": "CAUSAL_LM"}, {}, "ALora"),
    ("mixtral", {"target_modules": "all-linear"}, {}, "experts kept as one parameter"),
    ("mixtral", {}, {"target_modules": [], "target_parameters": ["experts.down_proj"]}, "experts kept as one"),
]


@pytest.mark.parametrize(("shape", "lower", "upper", "named"), REFUSED, ids=str)
def test_what_has_no_exact_sum_is_refused_before_training(
    shape: str, lower: dict[str, Any], upper: dict[str, Any], named: str
) -> None:
    with pytest.raises(UnsupportedError, match=named) as error:
        stacked(family(shape), lower, upper)
    assert "lora.existing: merge" in str(error.value) and "lora.existing: continue" in str(error.value)


MERGED: list[tuple[str, dict[str, Any]]] = [
    ("llama", {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}),
    ("gemma2", {"target_modules": ["lm_head"]}),
    ("gemma2", {"target_modules": ["embed_tokens", "v_proj"]}),
    ("gemma2", {"target_modules": ["embed_tokens", "lm_head"]}),
    ("gemma2", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    ("gemma2", {"modules_to_save": ["lm_head"]}),
    ("gemma2", {"modules_to_save": ["embed_tokens"]}),
    ("gemma2", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}),
    ("gemma2", {"trainable_token_indices": [5, 9]}),
    ("gpt2", {"target_modules": ["c_attn", "wte"], "fan_in_fan_out": True}),
    ("gpt2", {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True}),
    ("llama", {"use_dora": True}),
    ("mixtral", {"target_modules": "all-linear"}),
    ("deepseek_v3", {"target_modules": "all-linear"}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("shape", "config"), MERGED, ids=str)
def test_a_merged_model_is_the_adapted_one_and_so_is_what_is_read_back(
    shape: str, config: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    base = family(shape, dtype=dtype)
    kinds = {n: b.dtype for n, b in base.named_buffers()}
    lora = LoraConfig(**{"r": 2, "target_modules": Q_V, **config})
    model = get_peft_model(base, lora, autocast_adapter_dtype=False)
    moved(model, 1)
    live = logits(model).float()
    plain, _ = load.merged(model, IDS[0].tolist())
    near = {"rtol": 0.0, "atol": float(live.abs().max()) * (1e-5 if dtype == torch.float32 else 3e-2)}
    torch.testing.assert_close(logits(plain).float(), live, **near)
    plain.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again).float(), live, **near)
    read = again.state_dict()
    assert set(read) == set(plain.state_dict()) and all(torch.equal(read[n], t) for n, t in plain.state_dict().items())
    assert {n: b.dtype for n, b in plain.named_buffers()} == kinds and {p.dtype for p in plain.parameters()} == {dtype}


def test_a_merge_that_changes_the_model_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.tuners.lora import Linear

    model = get_peft_model(family("llama"), LoraConfig(r=2, target_modules=Q_V))
    moved(model, 1)
    whole = Linear.get_delta_weight
    monkeypatch.setattr(Linear, "get_delta_weight", lambda self, name: whole(self, name) * 1.5)
    with pytest.raises(ModelError, match="changed a logit by"):
        load.merged(model, IDS[0].tolist())


def test_an_adapter_without_a_merged_form_is_refused_by_name() -> None:
    model = get_peft_model(family("llama"), LoraConfig(r=2, target_modules=Q_V, lora_bias=True))
    with pytest.raises(UnsupportedError, match=r"cannot be merged into its base.*lora.existing: continue"):
        load.merged(model, IDS[0].tolist())


@pytest.mark.parametrize("how", ["stack", "continue", "merge"])
def test_an_aligned_adapter_that_once_began_at_random_is_right_and_a_fresh_one_is_not(how: str, tmp_path: Path) -> None:
    aligned = get_peft_model(family("llama"), LoraConfig(r=2, target_modules=Q_V, init_lora_weights=False))
    aligned.save_pretrained(tmp_path)
    safe = logits(aligned)
    name = adapters.ALIGNED if how == "stack" else "default"
    model = load.put_adapter(family("llama"), str(tmp_path), name, trainable=how == "continue")
    wild = LoraConfig(r=2, target_modules=Q_V, init_lora_weights=False)
    if how == "merge":
        model = load.merged(model, IDS[0].tolist())[0]
    if how != "continue":
        put = adapters.stack if how == "stack" else adapters.fresh
        with pytest.raises(ModelError, match="init_lora_weights=False"):
            put(model, wild)
        model = put(model, LoraConfig(r=3, target_modules=Q_V))
    assert adapters.adapter_mode_of(model) == how
    moved(model, 1) if how != "continue" else None
    with adapters.aligned_only(model, how):  # type: ignore[arg-type]
        torch.testing.assert_close(logits(model), safe, rtol=1e-4, atol=1e-5)


def test_rows_of_an_embedding_that_the_head_shares_are_refused_before_they_are_trained_on(tmp_path: Path) -> None:
    for shape, shares in (("gemma2", True), ("llama", False)):
        made = get_peft_model(family(shape), LoraConfig(r=2, target_modules=Q_V, trainable_token_indices=[3, 5]))
        made.save_pretrained(tmp_path / shape)
        load.put_adapter(family(shape), str(tmp_path / shape), "default", trainable=False)
        if not shares:
            load.put_adapter(family(shape), str(tmp_path / shape), "default", trainable=True)
            continue
        with pytest.raises(UnsupportedError, match=r"single rows.*the head shares.*lora.existing: merge"):
            load.put_adapter(family(shape), str(tmp_path / shape), "default", trainable=True)


ROOM = [True, False]


def proved(model: Any, folder: Path, adapter: str | None, room: bool) -> dict[str, Any]:
    ids = saved.prompts([{"input_ids": row} for row in ([3, 4, 5], [9, 8, 7, 6], list(range(3, 60)))])
    live = saved.heard(model, ids)
    return saved.proved(model, live, ids, folder, lambda: load.load_model(str(folder)), adapter, room=room)


def bundled(tmp_path: Path, shape: str = "llama", **config: Any) -> tuple[Any, Path, str]:
    """A trained adapter on a local base, saved as a run saves it."""
    base = tmp_path / "base"
    family(shape).save_pretrained(base)
    lora = LoraConfig(**{"r": 2, "target_modules": Q_V, "task_type": "CAUSAL_LM", **config})
    model = get_peft_model(load.load_model(str(base)), lora)
    moved(model, 1)
    return model, tmp_path / "adapter", save_adapter(model, tmp_path / "adapter", str(base), None)


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ("llama", {}), ("llama", {"use_dora": True}), ("llama", {"trainable_token_indices": [5, 9]}),
        ("llama", {"modules_to_save": ["lm_head", "norm"]}), ("llama", {"lora_bias": True, "use_rslora": True}),
        ("gemma2", {"target_modules": ["lm_head", "embed_tokens"]}), ("llama", PATTERN),
        ("gpt2", {"target_modules": "all-linear"}), ("mixtral", {"target_modules": "all-linear"}),
        ("llama", {"layers_to_transform": [1]}),
    ],
    ids=str,
)  # fmt: skip
def test_an_adapter_of_any_kind_is_proved_from_its_file(
    shape: str, config: dict[str, Any], room: bool, tmp_path: Path
) -> None:
    model, folder, name = bundled(tmp_path, shape, **config)
    before = {n: p.clone() for n, p in model.named_parameters()}
    actual = proved(model, folder, name, room)
    assert actual["largest_logit_deviation"] <= 1e-6 and actual["prompts"] == 3 and actual["dtype"] == "float32"
    assert actual["how"] == ("loaded again" if room else "on the live base")
    after = dict(model.named_parameters())
    assert set(after) == set(before) and all(torch.equal(after[n], p) for n, p in before.items())


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("shape", ["llama", "gemma2", "mixtral", "deepseek_v3", "gpt_neox"])
def test_a_whole_model_is_proved_from_its_files(shape: str, room: bool, tmp_path: Path) -> None:
    model = family(shape)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    actual = proved(model, tmp_path, None, room)
    assert actual["largest_logit_deviation"] == 0 and actual["how"] == ("loaded again" if room else "tensor by tensor")
    file = sorted(tmp_path.glob("*.safetensors"))[-1]
    tensors = load_file(file)
    tensors[sorted(tensors)[-1]] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(TrainingError, match=r"not the trained model.*checkpoints are kept"):
        proved(model, tmp_path, None, room)


def _scaled(folder: Path) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_alpha": 64}))


def _one_bit(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] += 1e-7
    save_file(tensors, file)


def _one_less(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, file)


@pytest.mark.parametrize("room", ROOM)
@pytest.mark.parametrize("spoil", [_scaled, _one_bit, _one_less])
def test_a_file_that_is_not_the_trained_adapter_is_an_error(
    spoil: Callable[[Path], None], room: bool, tmp_path: Path
) -> None:
    model, folder, name = bundled(tmp_path)
    spoil(folder)
    with pytest.raises(TrainingError, match="not the trained model"):
        proved(model, folder, name, room)


def test_a_trained_tensor_that_is_not_saved_is_an_error(tmp_path: Path) -> None:
    model, folder, name = bundled(tmp_path)
    layer = model.base_model.model.model.norm
    layer.extra = torch.nn.ParameterDict({name: torch.nn.Parameter(torch.ones(2))})
    with pytest.raises(TrainingError, match="1 trained tensors are not in it"):
        proved(model, folder, name, True)


def test_logits_that_are_no_numbers_do_not_pass() -> None:
    one = [torch.ones(2, 3)]
    assert saved.deviation(one, [torch.full((2, 3), torch.nan)])[0] == float("inf")
    assert saved.deviation([torch.full((2, 3), torch.nan)], [torch.full((2, 3), torch.nan)])[0] == float("inf")
    assert saved.deviation(one, [torch.ones(2, 4)])[0] == float("inf")
    assert saved.deviation(one, [torch.ones(2, 3) * 0.5]) == (0.5, 1.0)


def test_a_run_whose_file_differs_publishes_nothing_and_keeps_its_checkpoints(
    tmp_path: Path, model_folder: Any, rows_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {
        "model": str(model_folder("llama")),
        "safety_data": {"name": "refusals", "path": str(rows_file("safe.jsonl", 4))},
        "data": {"name": "jsonl", "path": str(rows_file("user.jsonl", 8))}, "method": "sft",
        "lora": {"r": 2, "target_modules": ["q_proj", "v_proj"]}, "out": str(tmp_path / "runs"),
        "training": {"num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 0.05},
    }  # fmt: skip
    whole = saved_adapter.save_adapter

    def spoiled(model: Any, folder: Path, *more: Any) -> str:
        name = whole(model, folder, *more)
        _scaled(folder)
        return name

    with monkeypatch.context() as patch:
        patch.setattr(saved_adapter, "save_adapter", spoiled)
        with pytest.raises(TrainingError, match="saved adapter is not the trained model: a logit deviates"):
            finetune(Recipe.model_validate(settings))
    folder = resolve(Recipe.model_validate(settings)).folder
    assert not (folder / "adapter").exists() and not (folder / "trained.json").exists()
    assert list((folder / "checkpoints").glob("checkpoint-*"))
    lines: list[str] = []
    assert finetune(Recipe.model_validate(settings), lines.append) == folder
    proof = json.loads((folder / "trained.json").read_text())["saved"]
    assert proof["largest_logit_deviation"] <= proof["limit"] and proof["how"] == "loaded again"
    assert any("gives the trained model's logits: loaded again" in line for line in lines)


def _without_bias(folder: Path) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_bias": False}))


def _other_rank(folder: Path) -> None:
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": 4}))


@pytest.mark.parametrize(
    ("spoil", "named"),
    [(_one_less, "lacks tensors"), (_without_bias, "does not describe"), (_other_rank, "size mismatch")],
)
def test_an_adapter_that_would_be_read_in_part_is_refused(
    spoil: Callable[[Path], None], named: str, tmp_path: Path
) -> None:
    _, folder, _ = bundled(tmp_path, lora_bias=True)
    load.put_adapter(family("llama"), str(folder), "default", trainable=False)
    spoil(folder)
    with pytest.raises(ModelError, match=named):
        load.put_adapter(family("llama"), str(folder), "default", trainable=False)
