"""Adapters taken on and off one base reply as those that were loaded by themselves, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from unforgotten.models.fingerprint import loaded_digest
from unforgotten.models.shelf import Shelf
from unforgotten.recipe.recipe import Recipe

Make = Callable[..., Path]


def adapter(base: Path, name: str, seed: int, **more: object) -> Path:
    torch.manual_seed(seed)
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **more)
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    made.save_pretrained(base.parent / name)
    return base.parent / name


@pytest.mark.parametrize("shape", ["llama", "gemma2"])
def test_several_adapters_share_one_base(shape: str, model_folder: Make) -> None:
    base = model_folder(shape)
    one, other = adapter(base, "one", 1), adapter(base, "other", 2)
    recipe = Recipe(model=str(base))
    alone = {name: loaded_digest(Shelf().model(str(name), recipe)) for name in (base, one, other)}
    assert len(set(alone.values())) == 3
    shelf = Shelf()
    for name in (one, other, base, one, base, other):
        assert loaded_digest(shelf.model(str(name), recipe)) == alone[name]
    assert shelf.loads == 1


def test_an_adapter_that_changes_more_than_its_layers_is_not_left_on_the_shelf(model_folder: Make) -> None:
    base = model_folder("llama")
    whole, plain = adapter(base, "whole", 1, modules_to_save=["lm_head"]), adapter(base, "plain", 2)
    recipe = Recipe(model=str(base))
    before = loaded_digest(Shelf().model(str(plain), recipe))
    shelf = Shelf()
    model = shelf.model(str(whole), recipe)
    with torch.no_grad():
        model.base_model.model.lm_head.modules_to_save["default"].weight.add_(1.0)
    assert loaded_digest(shelf.model(str(plain), recipe)) == before and shelf.loads == 2


def test_the_digest_is_of_what_is_in_memory(model_folder: Make) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_folder("qwen2"))
    before = loaded_digest(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 5] += 1e-6
    assert loaded_digest(model) != before
    assert loaded_digest(model.to(torch.bfloat16)) != before
