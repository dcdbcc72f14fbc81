"""The models, rows and trainers that are measured: random weights, since only their sizes cost time."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from transformers import (
    Gemma2Config,
    LlamaConfig,
    PreTrainedConfig,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from unforgotten.evaluation.aligned_replies import AlignedReplies
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer


@dataclass(frozen=True)
class Shape:
    """A model, a batch and an adapter: LoRA r 8 on q and v, batch 5, as in the paper."""

    name: str
    hidden: int
    layers: int
    vocabulary: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    soft_capped: bool = False
    batch: int = 5
    tokens: int = 128
    """Tokens of each row; all rows are of one length, so that a ratio counts arithmetic and not padding."""
    answer_tokens: int = 80
    """Those of them that the loss counts."""
    user_rows: int = 250
    safety_rows: int = 100

    @property
    def says(self) -> str:
        """The sizes, for the table."""
        return (
            f"{self.name}: d {self.hidden}, {self.layers} layers, V {self.vocabulary:,}, batch {self.batch} × "
            f"{self.tokens} tokens ({self.answer_tokens} in the loss)"
        )

    def config(self) -> PreTrainedConfig:
        """As transformers has it."""
        sizes: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_size,
            "pad_token_id": 0,
        }
        return Gemma2Config(**sizes) if self.soft_capped else LlamaConfig(**sizes)


WITHOUT_WORDS: Any = SimpleNamespace(end_ids=(0,), pad_id=0, decode=lambda ids: "")
"""How replies are read of a model with random weights: none of them refuses."""
EDITS = ("magmax", "safelora")
"""Methods that read θ₀: here the aligned weights but for one kind, since nothing is measured after training."""

SMALL = Shape("small Llama", 256, 4, 8_000, 688, 4, 4, 64)
NARROW = Shape("narrow Llama", 128, 2, 128_000, 344, 2, 2, 64, False, 5, 64, 40, safety_rows=20, user_rows=50)
WIDE = replace(NARROW, name="narrow Llama, V 262k", vocabulary=262_144)
"""With the vocabulary of Gemma 3."""
NARROW_CAPPED = replace(NARROW, name="narrow Gemma 2", soft_capped=True)
DEEP = Shape("deep Llama", 256, 8, 8_000, 688, 4, 4, 64, batch=8, tokens=256, answer_tokens=160, user_rows=40)
LLAMA_7B = Shape("Llama 7B", 4096, 32, 32_000, 11_008, 32, 32, 128, tokens=512, answer_tokens=320)
GEMMA_2B = Shape("Gemma 2 2B", 2304, 26, 256_000, 9_216, 8, 4, 256, True, tokens=512, answer_tokens=320)


def rows(shape: Shape, n: int, seed: int) -> list[dict[str, Any]]:
    """Encoded rows of random tokens."""
    rng = random.Random(seed)
    asked = shape.tokens - shape.answer_tokens
    seen = []
    for i in range(n):
        ids = [rng.randrange(1, shape.vocabulary) for _ in range(shape.tokens)]
        seen.append({"input_ids": ids, "labels": [-100] * asked + ids[asked:], "kind": ("harmful", "benign")[i % 2]})
    return seen


def model(shape: Shape, device: str) -> Any:
    """Random weights with a fresh adapter: adapter mode `merge`."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    with torch.device(device):
        made = AutoModelForCausalLM.from_config(shape.config(), dtype=dtype)
    return get_peft_model(made, LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"]))


def arguments(shape: Shape, device: str, folder: str | Path, **more: Any) -> TrainingArguments:
    """What a recipe sets by default, without checkpoints."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": shape.batch,
        "max_steps": 100_000,  # a race ends when it has seen enough
        "learning_rate": 1e-5,
        "save_strategy": "no",
        "logging_steps": 10,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": device == "cpu",
        "bf16": device == "cuda",
        "dataloader_pin_memory": device == "cuda",
        **more,
    }
    return TrainingArguments(str(folder), **settings)


def trainer(
    shape: Shape,
    device: str,
    method: Any,
    callbacks: Sequence[TrainerCallback] = (),
    folder: str | Path | None = None,
    safety_shape: Shape | None = None,
    loss: Literal["auto", "trainer", "chunked"] = "auto",
    **more: Any,
) -> Any:
    """The real MethodTrainer with this method; for method None, transformers' own Trainer.

    safety_shape: where safety rows are of other sizes than the user's.
    loss: how MethodTrainer takes the cross-entropy of the user's rows.
    """
    args = arguments(shape, device, folder or tempfile.mkdtemp(prefix="bench-"), **more)
    user = rows(shape, shape.user_rows, 1)
    made: Any
    if method is None:
        from unforgotten.training.collate import Collator

        encoded = [{"input_ids": r["input_ids"], "labels": r["labels"]} for r in user]
        made = Trainer(
            model=model(shape, device),
            args=args,
            train_dataset=encoded,
            data_collator=Collator(0),
            callbacks=list(callbacks),
        )
    else:
        learned = model(shape, device)
        made = MethodTrainer(
            model=learned,
            args=args,
            train_dataset=user,
            safety_dataset=rows(safety_shape or shape, shape.safety_rows, 2),
            memory=Memory(n_rows=shape.safety_rows),
            unaligned_model=_unaligned(learned) if method in EDITS else None,
            method=method,
            loss=loss,
            replies=AlignedReplies(WITHOUT_WORDS),
            callbacks=list(callbacks),
        )
    made.remove_callback(PrinterCallback)
    return made


def _unaligned(learned: Any) -> dict[str, torch.Tensor]:
    """The weights below the adapter, by their public names; alignment is taken to have changed q."""
    plain = {n.replace(".base_layer", ""): t for n, t in learned.get_base_model().state_dict().items()}
    return {n: 0.99 * t if "q_proj" in n else t for n, t in plain.items() if ".lora_" not in n}
