"""Fields of Transformers' TrainingArguments that a recipe's `training:` may have beside its own."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from unforgotten import registry
from unforgotten.errors import UnknownName

_NO_EVALUATION = "stage finetune evaluates nothing while it trains; see `probe` and `evaluate`"
_HUB = "`unforgotten export` pushes a model to the Hub"
_SHARDS = "shards are not set in a recipe; start the same command under `torchrun` for several GPUs"
_RESULT = "every run saves its last weights and resumes exactly, which this would change"
ELSEWHERE: dict[str, str] = {
    "output_dir": "write `out` at the top level",
    "seed": "write `seed` at the top level",
    "data_seed": "write `seed` at the top level",
    "run_name": "write `name` at the top level",
    "report_to": "write `report_to` at the top level",
    "do_train": "name the command: `unforgotten finetune`",
    "do_eval": _NO_EVALUATION,
    "do_predict": _NO_EVALUATION,
    "local_rank": _SHARDS,
    "fsdp": _SHARDS,
    "fsdp_config": _SHARDS,
    "deepspeed": _SHARDS,
    "accelerator_config": _SHARDS,
    "parallelism_config": _SHARDS,
    "resume_from_checkpoint": "the same command resumes by itself",
    "restore_callback_states_from_checkpoint": _RESULT,
    "ignore_data_skip": _RESULT,
    "load_best_model_at_end": _RESULT,
    "metric_for_best_model": _RESULT,
    "greater_is_better": _RESULT,
    "save_strategy": "set `save_steps`",
    "save_only_model": _RESULT,
    "save_total_limit": "two checkpoints are kept until the run is done",
    "enable_jit_checkpoint": "SIGTERM saves the step under way in every run",
    "logging_strategy": "set `logging_steps`",
    "auto_find_batch_size": "the batch decides the result: set `per_device_train_batch_size` yourself",
    "train_sampling_strategy": "use `group_by_length: true`",
    "length_column_name": "rows carry their lengths already",
    "remove_unused_columns": "rows have no other columns",
    "label_names": "rows have no other columns",
    "prediction_loss_only": _NO_EVALUATION,
    "per_device_eval_batch_size": _NO_EVALUATION,
    "batch_eval_metrics": _NO_EVALUATION,
    "include_for_metrics": _NO_EVALUATION,
    "fp16_full_eval": _NO_EVALUATION,
    "bf16_full_eval": _NO_EVALUATION,
    "disable_tqdm": "the command shows its own progress",
    "project": "write `report_to` at the top level, and set the tracker's own variables",
}
"""Fields that a recipe does not take from TrainingArguments, and what to do in their place."""


def unknown(name: str, part: str, own: Iterable[str], where: str) -> UnknownName | None:
    """What to raise for a field that neither `training:` nor TrainingArguments has."""
    if name in (own := list(own)) or name in _hints():
        return None
    theirs = [field for field in difflib.get_close_matches(name, _hints(), 3) if _elsewhere(field) is None]
    return UnknownName(f"field of {where}, in {part}", name, {*own, *theirs})


def at_top(name: str) -> str | None:
    """What to say of a field of TrainingArguments that stands at the top of a recipe; None for any other name."""
    if name not in _hints():
        return None
    if (why := _elsewhere(name)) is not None:
        return f"{name} is no field of a recipe: {why}"
    return f"{name} is called training.{name} here"


def passed_through(name: str) -> tuple[Any, Mapping[str, Any]] | None:
    """Default and JSON schema of a field that `training:` passes on to TrainingArguments; None for any other name."""
    from transformers import TrainingArguments

    if name not in _hints() or _elsewhere(name) is not None:
        return None
    field = TrainingArguments.__dataclass_fields__[name]
    default = None if field.default is dataclasses.MISSING else field.default
    return default, TypeAdapter(_hints()[name]).json_schema()


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with numbers that YAML reads as text (1e-8) made numbers.

    Raises ValueError that names each field that is none, that stands elsewhere, or that has a value of another type.
    """
    hints = _hints()
    wrong, values = [], dict[str, Any]()
    for name, value in given.items():
        if name not in hints:
            wrong.append(f"{name} is a field neither of `training:` nor of Transformers' TrainingArguments")
        elif (why := _elsewhere(name)) is not None:
            wrong.append(f"{name} is not set here: {why}")
        else:
            try:
                values[name] = _typed(hints[name], value)
            except (ValidationError, ValueError):
                wanted = getattr(hints[name], "__name__", None) or re.sub(r"\w+\.", "", str(hints[name]))
                wrong.append(f"{name} takes {wanted}, not {registry.shortly(value)}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return values


def _elsewhere(name: str) -> str | None:
    if name.startswith(("hub_", "push_to_hub")):
        return _HUB
    if name.startswith("trackio_"):
        return ELSEWHERE["project"]
    return _NO_EVALUATION if name.startswith("eval_") else ELSEWHERE.get(name)


def _typed(hint: Any, value: Any) -> Any:
    if registry.wants_number(hint, value):
        raise ValueError("true and false are no numbers")
    if isinstance(value, Mapping):
        value = _numbers(value)
    typed = TypeAdapter(hint).validate_python(value)
    return typed if isinstance(typed, (bool, int, float, str)) and not hasattr(typed, "value") else value


def _numbers(value: Any) -> Any:
    """A mapping's values with the numbers that YAML reads as text (1e-8) made numbers, at every depth."""
    if isinstance(value, Mapping):
        return {name: _numbers(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and _EXPONENT.fullmatch(value) else value


_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d{1,3}")


@functools.cache
def _hints() -> dict[str, Any]:
    """TrainingArguments' fields and their types. Imports Transformers, so it is asked only where a recipe has one."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # tells at import what it lacks for kernels
    from transformers import TrainingArguments

    hints = typing.get_type_hints(TrainingArguments)
    return {field.name: hints[field.name] for field in dataclasses.fields(TrainingArguments) if field.init}
