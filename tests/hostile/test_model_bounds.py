"""Tables, repeats and replacements of a stranger's model that would hang or fill memory; names that mean two things."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.hostile.test_model_folders import cache, edit, lora  # noqa: F401
from tests.training.shapes import tiny
from unforgotten.errors import DataError, ModelError
from unforgotten.models import load
from unforgotten.models.folder import place, probe_tokenizer
from unforgotten.models.folder.adapter import base_of
from unforgotten.models.folder.open import opened
from unforgotten.recipe.recipe import Recipe
from unforgotten.verbs.gate import check_gated

Make = Callable[..., Path]

CONFIGS: list[dict[str, Any]] = [
    {"num_labels": 16_000_000},
    {"num_labels": "3"},
    {"id2label": {str(i): "x" for i in range(60_000)}},
    {"pruned_heads": {str(i): [1] for i in range(60_000)}},
    {"rope_parameters": {"rope_type": "longrope", "short_factor": [1] * 60_000}},
    {"model_type": "gpt_neo", "num_layers": 2, "attention_types": [[["global", "local"], 10**9]]},
    {"model_type": "gpt_neo", "num_layers": 2, "attention_types": [[["global"] * 20_000, 250]]},
    {"sizes": [[[1 << 40]]]},
]


@pytest.mark.parametrize("numbers", CONFIGS, ids=lambda n: json.dumps(n)[:50])
def test_a_config_whose_tables_or_repeats_are_too_long_is_refused_at_once(
    numbers: dict[str, Any], model_folder: Make
) -> None:
    base = model_folder("llama")
    edit(base / "config.json", **numbers)
    start = time.process_time()
    with pytest.raises(ModelError, match=r"config\.json"):
        opened(base)
    assert time.process_time() - start < 2


ADAPTERS: list[dict[str, Any]] = [
    {"peft_type": "LOHA", "r": 1 << 20},
    {"peft_type": "POLY", "r": 1 << 16},
    {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 1 << 20, "task_type": "CAUSAL_LM"},
    {"target_parameters": ["weight"], "r": 1 << 20},
    {"layer_replication": [[0, 2]] * 500},
    {"layer_replication": [[0, 10**6]]},
    {"layer_replication": 5},
    {"init_lora_weights": "pissa_niter_1000000"},
    {"trainable_token_indices": list(range(60_000))},
    {"layers_to_transform": list(range(60_000))},
    {"anything": [[]] * 60_000},
]


@pytest.mark.parametrize("more", ADAPTERS, ids=lambda m: json.dumps(m)[:50])
def test_an_adapter_that_its_file_does_not_bear_is_refused_at_once(more: dict[str, Any], model_folder: Make) -> None:
    adapter = lora(model_folder("llama"))
    edit(adapter / "adapter_config.json", **more)
    start = time.process_time()
    with pytest.raises(ModelError, match=r"adapter_config\.json"):
        opened(adapter)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("base", ["x" * 300, "a/" + "b" * 300, "a\0b", "a/" * 3000])
def test_a_base_that_no_file_system_has_is_an_error_and_no_fault(base: str) -> None:
    with pytest.raises(ModelError, match="which is not a model"):
        base_of({"base_model_name_or_path": base}, "adapter")


TIMES = {"type": "Replace", "pattern": {"String": "☃"}, "content": "☃☃"}


@pytest.mark.parametrize(
    "part",
    [
        {"normalizer": {"type": "Sequence", "normalizers": [TIMES] * 30}},
        {"normalizer": {"type": "Sequence", "normalizers": [{**TIMES, "pattern": {"Regex": "[☀-☄]"}}] * 30}},
        {"decoder": {"type": "Sequence", "decoders": [TIMES] * 30}},
        {"normalizer": {**TIMES, "content": "ab " * 2000}},
    ],
    ids=["strings", "ranges", "decoder", "one"],
)
def test_a_rare_character_cannot_grow_into_gigabytes(part: dict[str, Any], model_folder: Make) -> None:
    base = model_folder("llama")
    edit(base / "tokenizer.json", **part)
    with pytest.raises(ModelError, match="times longer"):
        load.load_chat(str(base))


def test_a_tokenizer_that_reads_a_text_in_two_ways_is_refused(model_folder: Make) -> None:
    base = model_folder("llama")
    model = json.loads((base / "tokenizer.json").read_text())["model"]
    edit(base / "tokenizer.json", model=model | {"dropout": 0.5})
    with pytest.raises(ModelError, match="at random"):
        load.load_chat(str(base))


def test_rare_characters_of_a_pattern_are_probed() -> None:
    for pattern in ("(?=(☃+))☃*☃*x", r"\x{2603}+", r"\u2603+", "[☀-☃]+"):
        assert "☃" in probe_tokenizer.literals([pattern])
    assert probe_tokenizer.refused("☃?" * 30 + "☃" * 30)
    assert probe_tokenizer.refused("(?:☃{1,99})" * 30)


SPECIAL: list[tuple[str, dict[str, Any]]] = [
    ("tokenizer_config.json", {"extra_special_tokens": {f"k{i}": f"<{i}>" for i in range(6000)}}),
    ("tokenizer_config.json", {"model_specific_special_tokens": {f"k{i}": f"<{i}>" for i in range(6000)}}),
    ("tokenizer_config.json", {"pad_token": "x" * 5000}),
    ("tokenizer_config.json", {"pad_token": {"content": "x" * 5000}}),
    ("special_tokens_map.json", {"additional_special_tokens": [f"<{i}>" for i in range(6000)]}),
    ("added_tokens.json", {f"<{i}>": 400 + i for i in range(100_001)}),
]


@pytest.mark.parametrize(("file", "facts"), SPECIAL, ids=lambda v: v if isinstance(v, str) else next(iter(v)))
def test_special_tokens_are_few_and_short(file: str, facts: dict[str, Any], model_folder: Make) -> None:
    base = model_folder("llama")
    (base / file).write_text(
        json.dumps((json.loads((base / file).read_text()) if (base / file).exists() else {}) | facts)
    )
    with pytest.raises(ModelError, match=file):
        opened(base, part="chat")


def test_merges_of_millions_of_lines_are_refused(model_folder: Make) -> None:
    base = model_folder("llama")
    (base / "merges.txt").write_text("a b\n" * 700_000)
    with pytest.raises(ModelError, match=r"merges\.txt has 700000 lines"):
        opened(base, part="chat")


@pytest.mark.parametrize("name", ["RagTokenizer", "BertTokenizer"])
def test_a_tokenizer_class_that_does_not_fit_its_files_is_refused(name: str, model_folder: Make) -> None:
    base = model_folder("llama")
    edit(base / "tokenizer_config.json", tokenizer_class=name)
    with pytest.raises(ModelError, match="Cannot load the tokenizer"):
        load.load_chat(str(base))


def test_two_values_of_one_weight_are_refused(model_folder: Make) -> None:
    base = model_folder("llama")
    tensors = load_file(base / "model.safetensors")
    tensors |= {name.removeprefix("model."): t + 9 for name, t in tensors.items() if "layers.0" in name}
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="two values of one weight"):
        load.load_model(str(base))


def test_a_run_in_a_folder_where_others_may_rename_is_copied(model_folder: Make, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    run.mkdir(parents=True)
    (run / "environment.json").write_text("{}")
    model_folder("llama").rename(run / "model")
    assert place.is_ours(run / "model")
    run.parent.chmod(0o777)
    assert not place.is_ours(run / "model")
    run.parent.chmod(0o1777)
    assert place.is_ours(run / "model")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "x",
        "{}",
        '{"model": []}',
        '{"model": 5, "outcome": "pass", "checks": []}',
        '{"model": {}, "outcome": "pass", "checks": []}',
        '{"model": {"weights": ""}, "outcome": "pass", "checks": []}',
        '{"model": {"weights": "w"}, "outcome": "PASS", "checks": []}',
        '{"model": {"weights": "w"}, "outcome": "pass"}',
        '{"model": {"weights": "w"}, "outcome": "pass", "checks": [5]}',
    ],
)
def test_a_gate_file_that_is_none_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "gate.json").write_text(text)
    with pytest.raises(DataError, match=r"gate\.json"):
        check_gated(tmp_path, Recipe(name="x", model="m"))


def _with(tmp_path: Path, config: dict[str, Any] | None = None, **more: torch.Tensor) -> str:
    tiny("llama").save_pretrained(tmp_path)
    file, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
    file.write_text(json.dumps(json.loads(file.read_text()) | (config or {})))
    save_file(load_file(weights) | more, weights, metadata={"format": "pt"})
    return str(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"quantization_config": {"quant_method": "madeup", "bits": 4}},
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}},
        {"quantization_config": {"bits": 4}},
        {"quantization": {"bits": 4, "group_size": 64}},
        {"compression_config": {"format": "pack-quantized"}},
    ],
    ids=str,
)
def test_packed_weights_that_nothing_unpacks_are_refused(config: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="quant_method|does not know|in a form that is not supported"):
        load.load_model(_with(tmp_path, config))


@pytest.mark.parametrize("part", ["bias", "lora_A.weight", "lora_B.default.weight", "weight_scale_inv", "g_idx"])
def test_weights_of_a_layer_that_it_does_not_have_are_refused(part: str, tmp_path: Path) -> None:
    name = f"model.layers.1.mlp.up_proj.{part}"
    with pytest.raises(ModelError, match=f"1 weights of its files belong to layers.*{name}"):
        load.load_model(_with(tmp_path, **{name: torch.ones(2, 2)}))


def test_weights_of_another_part_of_a_larger_model_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ignored = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    load.load_model(_with(tmp_path / "a", **ignored))
    assert "left out" not in caplog.text
    load.load_model(_with(tmp_path / "b", **{"vision.x.weight": torch.ones(2), "mtp.0.w": torch.ones(2)}))
    assert "2 weights of its files belong to no layer of this model. They are left out, such as mtp.0.w" in caplog.text
