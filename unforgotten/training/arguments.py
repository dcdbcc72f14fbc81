"""A recipe's training settings as Transformers' TrainingArguments, and where else a training logs to."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from unforgotten.errors import RecipeError, UnforgottenError, UnknownName
from unforgotten.training import checkpoint, checks

if TYPE_CHECKING:
    from unforgotten.methods.base import Method
    from unforgotten.recipe.training import Training


class TrackedArguments(TrainingArguments):
    """TrainingArguments that tell trackers the recipe too, beside their own fields."""

    more: Mapping[str, Any] = {}

    def to_dict(self) -> dict[str, Any]:
        """What trackers get as the run's configuration: `recipe/<field>` of each field that is set."""
        return {**super().to_dict(), **self.more}


def arguments(
    training: Training,
    folder: Path,
    seed: int,
    report_to: Sequence[str] = (),
    name: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> TrackedArguments:
    """Checkpoints go to `folder`; metrics.jsonl is ours.

    report_to: trackers, by Transformers' names, but for tensorboard (see `tensorboard`). name: what they call the run.
    more: what they are told beside the arguments, flat.
    """
    # Named only when asked for: 5.23 warns of the old name, 5.17 does not know the new one.
    asked: dict[str, Any] = {}
    if training.gradient_checkpointing:
        asked = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}}
    if report_to:
        asked |= {"project": "unforgotten"}
    asked |= training.model_extra or {}
    options = TrackedArguments(
        str(folder),
        num_train_epochs=training.num_train_epochs,
        max_steps=training.max_steps,
        per_device_train_batch_size=training.per_device_train_batch_size,
        gradient_accumulation_steps=training.gradient_accumulation_steps,
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.lr_scheduler_type,
        warmup_steps=training.warmup_ratio if training.warmup_steps is None else training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        train_sampling_strategy="group_by_length" if training.group_by_length else "random",
        bf16=training.bf16,
        save_steps=training.save_steps,
        save_total_limit=2,
        logging_steps=training.logging_steps,
        report_to=[one for one in report_to if one != TENSORBOARD],
        run_name=name,
        disable_tqdm=True,
        seed=seed,
        **({"dataloader_pin_memory": torch.cuda.is_available(), "ddp_find_unused_parameters": False} | asked),
    )
    options.more = {f"recipe/{field}": value for field, value in _flat(more or {})}
    return options


def check_values(training: Training, part: str = "training", methods: Iterable[Method] = ()) -> None:
    """Builds a Trainer, optimizer, schedule and data loader with these settings on a model of one weight.

    So a value that Transformers or torch refuses is told before anything is loaded. methods: those of the training.
    Raises RecipeError that names `part`, or UnsupportedError for a setting in which a method cannot be right.
    """
    checks.refuse_turns(methods := list(methods))
    with tempfile.TemporaryDirectory() as folder:
        try:
            options = arguments(training, Path(folder), 0)
            trainer = _trial(options)
        except UnforgottenError:
            raise
        except Exception as error:  # the libraries raise errors of any kind, KeyError and AssertionError among them
            detail = f"no such value: {error}" if isinstance(error, KeyError) else str(error)
            raise RecipeError(f"{part}: {detail}") from None
    checks.refuse_early_steps(methods, options)
    checks.refuse(methods, options, trainer)


class _OneWeight(PreTrainedModel):
    """The smallest model that a Trainer takes."""

    config_class = PreTrainedConfig

    def __init__(self) -> None:
        super().__init__(PreTrainedConfig())
        self.layer = torch.nn.Linear(1, 1)


_NEEDS_LAYERS = ("galore", "apollo", "lomo", "adalomo")
"""Optimizers that look for a model's own layers, so that they are only asked whether they are installed."""


def _trial(options: TrainingArguments) -> Trainer:
    trainer = Trainer(model=_OneWeight(), args=options, train_dataset=[{"input_ids": [0]}])
    trainer.get_train_dataloader()
    if str(getattr(options.optim, "value", options.optim)).startswith(_NEEDS_LAYERS):
        try:
            Trainer.get_optimizer_cls_and_kwargs(options)
        except ValueError:  # it wants the model
            return trainer
    steps = options.max_steps if options.max_steps > 0 else 1000
    trainer.create_optimizer()
    schedule = trainer.create_scheduler(steps)
    for step in (0, 1, steps // 2, steps):
        for rate in getattr(schedule, "lr_lambdas", ()):
            rate(step)
    return trainer


TENSORBOARD = "tensorboard"


def check_reports(names: Sequence[str]) -> None:
    """Raises UnknownName for a tracker that Transformers has not, RecipeError for one whose package is missing."""
    from transformers.integrations import INTEGRATION_TO_CALLBACK as known

    for name in names:
        if name not in known:
            raise UnknownName("tracker in report_to", name, known)
        try:
            known[name]()
        except (RuntimeError, ImportError) as error:
            raise RecipeError(
                f"report_to: {name} needs its package, which is not installed (`pip install {name}`). {error}"
            ) from None


def tensorboard(folder: Path, checkpoints: Path) -> Any:
    """TensorBoard's callback, writing to `folder` and not to the checkpoints, which are cleared away.

    What a killed training had written after its last checkpoint is marked as void, since it comes again.
    """
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback

    newest, _ = checkpoint.newest_whole(checkpoints)
    step = int(newest.name.rpartition("-")[2]) + 1 if newest else 0
    return TensorBoardCallback(SummaryWriter(str(folder), purge_step=step if folder.exists() else None))


def _flat(tree: Mapping[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Dotted names, so that trackers can sort by them; lists as text, and what is not set left out."""
    pairs: list[tuple[str, Any]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{above}{name}.")
        elif value not in (None, []):
            pairs.append((f"{above}{name}", value if isinstance(value, (str, int, float)) else str(value)))
    return pairs
