"""Weights read lazily from files and adapters, against transformers and peft; written so that both read them back."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.training.shapes import tiny
from unforgotten import testing
from unforgotten.errors import ModelError, UnsupportedError
from unforgotten.models.weights.adapted import Adapted
from unforgotten.models.weights.base import Factors, Held, check_alike
from unforgotten.models.weights.files import Files
from unforgotten.models.weights.open import opened
from unforgotten.models.weights.stream import stream

Q0, Q1 = (f"model.layers.{i}.self_attn.q_proj.weight" for i in (0, 1))


def saved(model: Any, folder: Path, **more: Any) -> Path:
    model.save_pretrained(folder, **more)
    return folder


def weights_of(model: Any) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.named_parameters()}


# Files


@pytest.mark.parametrize("shard", ["5GB", "10KB"])
def test_files_are_read_by_name_from_one_file_or_many(shard: str, tmp_path: Path) -> None:
    model = tiny("llama", dtype=torch.bfloat16)
    folder = saved(model, tmp_path, max_shard_size=shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard == "10KB")
    actual, wanted = Files(folder), weights_of(model)
    assert actual.names() == sorted(wanted)
    for name, tensor in wanted.items():
        assert actual.shape(name) == tuple(tensor.shape) and actual.dtype(name) == torch.bfloat16
        assert torch.equal(actual[name], tensor)
    assert actual.factors(Q0) is None


def test_what_changes_after_opening_is_not_read(tmp_path: Path) -> None:
    """What is read is a private copy of what was opened."""
    file = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(4), "b": torch.zeros(4)}, file)
    actual = Files(tmp_path)
    assert actual.shape("a") == (4,)
    with file.open("r+b") as out:
        out.seek(-16, os.SEEK_END)
        out.write(torch.tensor([1.0, 2.0, 3.0, 4.0]).numpy().tobytes())
    assert actual["a"].tolist() == [0.0] * 4 and actual["b"].tolist() == [0.0] * 4
    assert Files(tmp_path)["b"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_an_unknown_tensor_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    for source in (Files(tmp_path), Held({"a": torch.zeros(1)})):
        with pytest.raises(ModelError, match="no tensor 'z'"):
            source["z"]
        with pytest.raises(ModelError, match="no tensor 'z'"):
            source.shape("z")


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"\.bin files are not read"):
        Files(tmp_path)
    with pytest.raises(ModelError, match="no model folder"):
        Files(tmp_path / "nowhere")


# Adapters


def adapter(folder: Path, model: Any = None, **more: Any) -> tuple[Any, Path, Path]:
    """A tiny model with a LoRA whose B is not 0: it, its base's folder and the adapter's."""
    model = model or tiny("llama", dtype=torch.float64)
    base = saved(model, folder / "base")
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"], **more}
    torch.manual_seed(1)
    adapted = get_peft_model(model, LoraConfig(**config)).to(model.dtype)
    with torch.no_grad():
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    return adapted, base, saved(adapted, folder / "adapter")


PATTERNS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 6}},
    {"alpha_pattern": {"layers.0.self_attn.q_proj": 3, "q_proj": 5, "(v|k)_proj": 7}},
    {"alpha_pattern": {"proj": 3, r"layers\.1\..*v_proj": 5}},  # "proj" is no module's whole name
    {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 16}, "use_rslora": True},
]


@pytest.mark.parametrize("config", PATTERNS, ids=str)
def test_an_adapted_model_is_what_peft_merges(config: dict[str, Any], tmp_path: Path) -> None:
    model, base, folder = adapter(tmp_path, **config)
    actual = Adapted(Files(base), folder)
    merged = weights_of(model.merge_and_unload())
    assert actual.names() == sorted(merged)
    changed = [n for n in actual.names() if not torch.equal(actual[n], Files(base)[n])]
    assert len(changed) == 6
    for name, wanted in merged.items():
        torch.testing.assert_close(actual[name], wanted, rtol=1e-12, atol=1e-14)
        factors = actual.factors(name)
        assert (factors is not None) == (name in changed)
        if factors is not None:
            torch.testing.assert_close(Files(base)[name] + factors.dense(), wanted, rtol=1e-12, atol=1e-14)


def test_a_layer_that_keeps_its_weight_transposed_is_what_peft_merges(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2, n_positions=16))
    adapted, base, folder = adapter(tmp_path, model, target_modules=["c_attn"], fan_in_fan_out=True)
    actual, merged = Adapted(Files(base), folder), weights_of(adapted.merge_and_unload())
    name = "transformer.h.0.attn.c_attn.weight"
    assert not torch.equal(Files(base)[name], actual[name])
    torch.testing.assert_close(actual[name], merged[name])


def test_narrow_weights_are_summed_in_float32(tmp_path: Path) -> None:
    model, base, folder = adapter(tmp_path, tiny("llama", dtype=torch.bfloat16))
    actual = Adapted(Files(base), folder)
    delta = model.get_base_model().model.layers[0].self_attn.q_proj.get_delta_weight("default")
    assert actual.dtype(Q0) == torch.bfloat16 and actual[Q0].dtype == torch.float32
    torch.testing.assert_close(actual[Q0], Files(base)[Q0].float() + delta.float(), rtol=0, atol=1e-3)


def test_adapters_lie_on_adapters(tmp_path: Path) -> None:
    _, base, first = adapter(tmp_path / "a")
    _, _, second = adapter(tmp_path / "b", r=2)
    low = Adapted(Files(base), first)
    high = Adapted(low, second)
    one, two = low.factors(Q0), high.factors(Q0)
    assert one is not None and two is not None
    torch.testing.assert_close(high[Q0], Files(base)[Q0] + one.dense() + two.dense())


@pytest.mark.parametrize(
    ("config", "error"),
    [({"use_dora": True}, "not a plain LoRA"), ({"modules_to_save": ["lm_head"]}, "not a factor of a linear layer")],
)
def test_what_is_no_plain_lora_is_refused(config: dict[str, Any], error: str, tmp_path: Path) -> None:
    _, base, folder = adapter(tmp_path, **config)
    with pytest.raises(UnsupportedError, match=error):
        Adapted(Files(base), folder)


@pytest.mark.parametrize(
    ("other", "named"),
    [({"num_hidden_layers": 1}, r"layers\.1\."), ({"intermediate_size": 40}, r"layers\.0\.mlp\.down_proj\.weight")],
)
def test_an_adapter_of_another_model_is_refused(other: dict[str, Any], named: str, tmp_path: Path) -> None:
    _, _, folder = adapter(tmp_path)
    with pytest.raises(ModelError, match=named):
        Adapted(Held(weights_of(tiny("llama", **other))), folder)


def test_a_pickled_adapter_is_not_read(tmp_path: Path) -> None:
    _, base, folder = adapter(tmp_path)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match="pickled adapters are not read"):
        Adapted(Files(base), folder)


# Whatever names a model


def test_models_are_opened_from_whatever_names_them(tmp_path: Path) -> None:
    model, base, folder = adapter(tmp_path)
    merged = weights_of(model.merge_and_unload())
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(base)}))
    bundled = tmp_path / "bundled"  # what a run on a local model leaves: base and adapter in one folder
    shutil.copytree(base, bundled)
    for file in folder.glob("adapter*"):
        shutil.copy(file, bundled)
    for given in (folder, str(folder), bundled, merged, Adapted(Files(base), folder)):
        torch.testing.assert_close(opened(given, named=[str(base)])[Q0], merged[Q0])
    with pytest.raises(ModelError, match="Paths inside an adapter are not followed"):
        opened(folder)
    other = Held({n: t + 1 for n, t in weights_of(AutoModelForCausalLM.from_pretrained(base)).items()})
    torch.testing.assert_close(opened(folder, other)[Q0], merged[Q0] + 1)


def test_a_tensor_with_two_names_is_told_once_as_in_files(tmp_path: Path) -> None:
    model = tiny("gemma2")
    folder = saved(model, tmp_path)
    names = Files(folder).names()
    assert "lm_head.weight" in model.state_dict() and "lm_head.weight" not in names
    assert opened(model).names() == opened(model.state_dict()).names() == names


def test_unlike_models_are_told_apart_by_the_first_difference() -> None:
    one = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    check_alike({"base": Held(one), "tuned": Held({n: t + 1 for n, t in one.items()})})
    with pytest.raises(ModelError, match="The tuned model has 'c', but the base model does not"):
        check_alike({"base": Held(one), "tuned": Held({**one, "c": torch.zeros(1)})})
    with pytest.raises(ModelError, match=r"a is \(2, 3\) in the base model and \(3, 2\) in the tuned"):
        check_alike({"base": Held(one), "tuned": Held({**one, "a": torch.zeros(3, 2)})})


def test_factors_are_a_product() -> None:
    assert Factors(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]])).dense().tolist() == [[3, 4], [6, 8]]


# Writing


@pytest.mark.parametrize("shard_bytes", [10**9, 40_000])
def test_what_is_streamed_is_read_back_by_safetensors_and_transformers(shard_bytes: int, tmp_path: Path) -> None:
    model = tiny("llama")
    folder = saved(model, tmp_path / "in")
    edited = {Q1: torch.full((32, 32), 0.5), "model.norm.weight": torch.arange(32.0)}
    counts = stream(Files(folder), reversed(edited.items()), tmp_path / "out", shard_bytes=shard_bytes)
    wanted = weights_of(model) | edited
    assert counts == {"edited": 2, "copied": len(wanted) - 2}
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    read = {name: t for file in files for name, t in load_file(file).items()}
    assert testing.distance(read, wanted) == 0.0
    assert not list((tmp_path / "out").glob(".*"))
    shutil.copy(folder / "config.json", tmp_path / "out")
    loaded, said = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not said["missing_keys"] and not said["unexpected_keys"]
    assert testing.distance(weights_of(loaded), wanted) == 0.0
    if shard_bytes < 10**9:
        assert len(files) > 2 and all(file.stat().st_size < 2 * shard_bytes for file in files)
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in wanted.values())
        assert index["weight_map"] == {n: f.name for f in files for n in load_file(f)}
    else:
        assert [file.name for file in files] == ["model.safetensors"]


def test_every_kind_of_tensor_comes_back(tmp_path: Path) -> None:
    tensors = {
        "half": torch.randn(3).half(),
        "brain": torch.randn(2, 3).bfloat16(),
        "double": torch.randn(1, 1, 2).double(),
        "eight": torch.randn(5).to(torch.float8_e4m3fn),
        "whole": torch.tensor([-(2**40), 7]),
        "bool": torch.tensor([True, False, True]),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }
    stream(Held(tensors), [], tmp_path)
    read = load_file(tmp_path / "model.safetensors")
    assert set(read) == set(tensors)
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and read[name].shape == tensor.shape
        assert torch.equal(read[name].double(), tensor.double())
    assert [Files(tmp_path).dtype(n) for n in sorted(tensors)] == [tensors[n].dtype for n in sorted(tensors)]


def test_tensors_are_stored_as_asked(tmp_path: Path) -> None:
    like = Held({"a": torch.tensor([1 / 3], dtype=torch.float64), "b": torch.tensor([1.0])})
    stream(like, [("b", torch.tensor([2.0], dtype=torch.float64))], tmp_path, dtype=lambda name: torch.bfloat16)
    read = load_file(tmp_path / "model.safetensors")
    assert all(t.dtype == torch.bfloat16 for t in read.values())
    assert read["a"].item() == 171 / 512 and read["b"].item() == 2.0  # 1/3 to 8 binary digits


def broken(error: str) -> Iterator[tuple[str, Tensor]]:
    yield "a", torch.ones(4)
    if error == "raises":
        raise RuntimeError("no more")
    yield ("z", torch.ones(4)) if error == "unknown" else ("a", torch.ones(5))


@pytest.mark.parametrize(
    ("error", "said"), [("raises", "no more"), ("unknown", "'z' is not a tensor"), ("shape", r"\(5,\).*\(4,\)")]
)
@pytest.mark.parametrize("there", [False, True])
def test_an_edit_that_fails_leaves_nothing_half_written(error: str, said: str, there: bool, tmp_path: Path) -> None:
    like = Held({"a": torch.zeros(4), "b": torch.zeros(4)})
    if there:
        stream(like, [], tmp_path)
    with pytest.raises((RuntimeError, ValueError), match=said):
        stream(like, broken(error), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == (["model.safetensors"] if there else [])
    if there:
        assert not load_file(tmp_path / "model.safetensors")["a"].any()
