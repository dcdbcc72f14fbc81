"""A recipe's training settings as Transformers' TrainingArguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from unforgotten.recipe import Training


def arguments(training: Training, folder: Path, seed: int) -> Any:
    """Checkpoints go to `folder`; nothing is reported anywhere, metrics.jsonl is ours."""
    from transformers import TrainingArguments

    # Named only when asked for: 5.23 warns of the old name, 5.17 does not know the new one.
    more: dict[str, Any] = {}
    if training.gradient_checkpointing:
        more = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    return TrainingArguments(
        str(folder),
        num_train_epochs=training.epochs,
        per_device_train_batch_size=training.batch_size,
        gradient_accumulation_steps=training.accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.schedule,
        warmup_steps=training.warmup,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        train_sampling_strategy="group_by_length" if training.group_by_length else "random",
        bf16=training.bf16,
        save_steps=training.save_steps,
        save_total_limit=2,
        logging_steps=training.logging_steps,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        report_to=[],
        disable_tqdm=True,
        seed=seed,
        **more,
    )
