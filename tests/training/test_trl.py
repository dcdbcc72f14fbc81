"""TRL's SFTTrainer and ours agree on the same tokens, and our mixin does on SFTTrainer what it does on Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import TrainingArguments
from trl import SFTConfig, SFTTrainer

from tests.training.shapes import tiny
from unforgotten import testing
from unforgotten.errors import UnsupportedError
from unforgotten.methods.der import DER
from unforgotten.training.collate import Collator
from unforgotten.training.trainer import MethodMixin, MethodTrainer

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_steps": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
    "optim": "sgd",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


class SafeSFTTrainer(MethodMixin, SFTTrainer):
    """What a TRL user writes."""


def lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])


def weights(trainer: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    trainer.train()
    return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if p.requires_grad}


def ours(cls: Any, args: Any, method: Any, adapter: bool, **more: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return weights(
        cls(
            model=tiny("llama"),
            args=args,
            train_dataset=testing.ragged_rows(16, 1),
            safety_dataset=testing.ragged_rows(12, 2),
            peft_config=lora() if adapter else None,
            method=method,
            **more,
        )
    )


@pytest.fixture
def tokenizer() -> Any:
    from tests.training.shapes import tiny_tokenizer

    return tiny_tokenizer()


def trl_args(folder: Path, **more: Any) -> SFTConfig:
    return SFTConfig(str(folder), gradient_checkpointing=False, max_length=None, **SETTINGS, **more)


@pytest.mark.parametrize("adapter", [True, False])
def test_sft_is_trls_sft_on_the_same_tokens(tmp_path: Path, tokenizer: Any, adapter: bool) -> None:
    from datasets import Dataset

    rows = [{k: r[k] for k in ("input_ids", "labels")} for r in testing.ragged_rows(16, 1)]
    model = tiny("llama")
    torch.manual_seed(42)  # where MethodTrainer draws the adapter from: the arguments' seed
    theirs = SFTTrainer(
        model=get_peft_model(model, lora()) if adapter else model,
        args=trl_args(tmp_path / "trl"),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=Collator(0),
    )
    expected = weights(theirs)
    actual = ours(MethodTrainer, TrainingArguments(str(tmp_path / "ours"), **SETTINGS), "sft", adapter)
    assert testing.distance(expected, actual) <= 1e-5


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("method", ["sft", "safeinstr", DER(weight=50.0)], ids=["sft", "safeinstr", "der"])
def test_the_mixin_on_sfttrainer_is_methodtrainer(tmp_path: Path, tokenizer: Any, method: Any, adapter: bool) -> None:
    expected = ours(MethodTrainer, TrainingArguments(str(tmp_path / "ours"), **SETTINGS), method, adapter)
    actual = ours(SafeSFTTrainer, trl_args(tmp_path / "trl"), method, adapter, processing_class=tokenizer)
    assert testing.distance(expected, actual) <= 1e-5


@pytest.mark.parametrize("layout", ["packing", "padding_free"])
def test_joined_rows_are_refused_with_what_to_set(tmp_path: Path, tokenizer: Any, layout: str) -> None:
    with pytest.raises(UnsupportedError, match="packing=False and padding_free=False"):
        ours(SafeSFTTrainer, trl_args(tmp_path, **{layout: True}), "der", True, processing_class=tokenizer)
