"""Keys that a recipe does not have, by what stands in their place: those of the first edition and of other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_TRAINING = {
    # The first edition's.
    "epochs": "num_train_epochs",
    "batch_size": "per_device_train_batch_size",
    "accumulation": "gradient_accumulation_steps",
    "schedule": "lr_scheduler_type",
    "warmup": "warmup_ratio",
    "max_length_tokens": "max_length",
    # axolotl's, LLaMA-Factory's and TRL's.
    "num_epochs": "num_train_epochs",
    "micro_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "lr": "learning_rate",
    "lr_scheduler": "lr_scheduler_type",
    "optimizer": "optim",
    "gradient_clipping": "max_grad_norm",
    "cutoff_len": "max_length",
    "sequence_len": "max_length",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
}
_LORA = {
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "targets": "target_modules",
    "rank": "r",
    "lora_r": "r",
    "lora_rank": "r",
    "lora_target": "target_modules",
    "lora_target_modules": "target_modules",
}
_TOP = {
    # The first edition's.
    "policy": "lora.existing",
    "base": "unaligned_model",
    "safety": "safety_data",
    # axolotl's, LLaMA-Factory's and TRL's.
    "base_model": "model",
    "model_name_or_path": "model",
    "model_name": "model",
    "model_revision": "revision",
    "model_revision_name": "revision",
    "chat_template": "template",
    "torch_dtype": "dtype",
    "load_in_4bit": "load_in: nf4",
    "quantization_bit": "load_in: nf4",
    "dataset": "data",
    "datasets": "data",
    "train_file": "data",
    "dataset_name": "data",
    "output_dir": "out",
    "run_name": "name",
    "lora_r": "lora.r",
    "lora_rank": "lora.r",
    "lora_alpha": "lora.lora_alpha",
    "lora_dropout": "lora.lora_dropout",
    "lora_target": "lora.target_modules",
    "lora_target_modules": "lora.target_modules",
    "target_modules": "lora.target_modules",
    "lora_target_linear": "lora.target_modules: all-linear",
    "learning_rate": "training.learning_rate",
    "weight_decay": "training.weight_decay",
    "num_train_epochs": "training.num_train_epochs",
    "per_device_train_batch_size": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "lr_scheduler_type": "training.lr_scheduler_type",
    "warmup_ratio": "training.warmup_ratio",
    "warmup_steps": "training.warmup_steps",
    "max_length": "training.max_length",
    "max_steps": "training.max_steps",
    "bf16": "training.bf16",
    "gradient_checkpointing": "training.gradient_checkpointing",
    "save_steps": "training.save_steps",
    "logging_steps": "training.logging_steps",
    **{old: f"training.{new}" for old, new in _TRAINING.items()},
}
_VALUES: dict[tuple[str, ...], dict[str, str]] = {
    ("replay",): {"safety": "safety_data"},
    ("lora", "existing"): {"merged": "merge", "stacked": "stack"},
}


_LORA_OF_OTHERS = {"lora_alpha": "lora_alpha", "lora_dropout": "lora_dropout", "target_modules": "target_modules"} | {
    old: new for old, new in _LORA.items() if old.startswith("lora_")
}
_GRID = {old: new for old, new in _TOP.items() if new in ("model", "data")}


def is_known(name: str) -> bool:
    """Whether the top level of a recipe has an entry here for this key."""
    return name in _TOP


def searched(name: str) -> str | None:
    """What a field of `training` or `lora`, named alone in sweep.fields, is called there; None for any other name."""
    new = _TOP.get(name, "")
    return new if new.startswith(("training.", "lora.")) and ":" not in new else None


def faults(tree: Mapping[str, Any]) -> list[str]:
    """A sentence for each key of the recipe that has another name here."""
    return [f"{key} is called {new} here" for key, new in _found(tree)]


def _found(tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from ((key, new) for key, new in _TOP.items() if key in tree)
    yield from _below(tree, ("training",), _TRAINING)
    yield from _below(tree, ("align",), _TRAINING)
    yield from _below(tree, ("lora",), _LORA)
    yield from _below(tree, ("align", "lora"), _LORA)
    yield from _below(tree, ("training",), _LORA_OF_OTHERS, into="lora")
    yield from _below(tree, ("align",), _LORA_OF_OTHERS, into="align.lora")
    yield from _below(tree, ("compare",), _GRID)
    sources = _at(tree, ("compare", "replay"))
    if isinstance(sources, list) and "safety" in sources:
        yield "compare.replay: safety", "compare.replay: safety_data"
    for path, names in _VALUES.items():
        value = _at(tree, path)
        if isinstance(value, str) and value in names:
            yield f"{'.'.join(path)}: {value}", f"{'.'.join(path)}: {names[value]}"
    searched = _at(tree, ("sweep", "fields"))
    for name in searched if isinstance(searched, Mapping) else ():
        part, dot, field = str(name).partition(".")
        table = {"training": _TRAINING, "lora": _LORA}.get(part, {})
        if dot and field in table:
            yield f"sweep.fields.{name}", f"sweep.fields.{part}.{table[field]}"


def _below(
    tree: Mapping[str, Any], path: tuple[str, ...], names: Mapping[str, str], into: str | None = None
) -> Iterator[tuple[str, str]]:
    """Old and new name of each key of `names` that stands at `path`; the new one stands there too, or at `into`."""
    part = _at(tree, path)
    for old, new in names.items() if isinstance(part, Mapping) else ():
        if old in part:
            yield f"{'.'.join(path)}.{old}", f"{into or '.'.join(path)}.{new}"


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree
