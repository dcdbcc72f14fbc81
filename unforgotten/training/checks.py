"""A training's arguments, checked at the door: types, what methods need, and set-ups in which one cannot be right."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import torch

from unforgotten import registry
from unforgotten.errors import DataError, RecipeError, UnsupportedError
from unforgotten.methods.base import TURNS, Method, turns
from unforgotten.methods.sft import SFT
from unforgotten.models import nf4
from unforgotten.training import chunked
from unforgotten.training.replay_memory import Memory

if TYPE_CHECKING:
    from unforgotten.methods.base import Run


def named(method: Any) -> dict[str, Method]:
    """One method or a list of them, by name, in the order in which their turns are taken."""
    specs = method if isinstance(method, (list, tuple)) else [method]
    built = [registry.build("methods", spec) for spec in specs]
    methods: dict[str, Method] = {}
    if not built:
        raise RecipeError("method= names no method. For plain fine-tuning write `sft`.")
    for each in built:
        if not isinstance(each, Method):
            given = (
                f"the class {each.__name__}: write {each.__name__}()" if isinstance(each, type) else type(each).__name__
            )
            raise RecipeError(f"method= takes methods or their names, not {given}.")
        name = str(registry.spec_of(each)["name"]).replace("/", "_").replace(":", "_")
        if name in methods:
            raise RecipeError(f"The method {name!r} is named twice.")
        methods[name] = each
    refuse_turns(methods.values())
    return methods


def refuse_turns(methods: Iterable[Method]) -> None:
    """Raises RecipeError for a method of a user's that would do nothing in silence, or fail in the midst of training.

    Its turns have to take what a run gives them, and it has to take one; a flag of the first edition decides nothing.
    """
    for method in methods:
        cls = type(method)
        if hasattr(cls, "needs_base"):
            raise RecipeError(f"{cls.__name__}.needs_base is called needs_unaligned_model here.")
        for turn in TURNS:
            wanted, has = (list(inspect.signature(getattr(each, turn)).parameters) for each in (Method, cls))
            try:
                inspect.signature(getattr(cls, turn)).bind(*wanted)
            except TypeError:
                raise RecipeError(
                    f"{cls.__name__}.{turn}({', '.join(has)}) has to take ({', '.join(wanted)}), as in "
                    "methods/base/method.py."
                ) from None
        if not isinstance(method, SFT) and not turns(cls):
            raise RecipeError(
                f"{cls.__name__} takes no turn, so it would train as sft does. A method defines one or more of "
                f"{', '.join(TURNS)}."
            )


def refuse_types(max_length: Any, memory: Any, chat: Any, peft_config: Any, loss: Any, args: Any) -> None:
    """Raises RecipeError for an argument of another type, which would fail in the midst of things."""
    from peft import PeftConfig
    from transformers import TrainingArguments

    from unforgotten.models.chat import Chat

    is_int = isinstance(max_length, int) and not isinstance(max_length, bool)
    if max_length is not None and not (is_int and max_length > 1):
        raise RecipeError(f"max_length= must be a whole number above 1, or None, not {max_length!r}.")
    for name, value, kind in (
        ("memory", memory, Memory),
        ("chat", chat, Chat),
        ("peft_config", peft_config, PeftConfig),
        ("args", args, TrainingArguments),
    ):
        if value is not None and not isinstance(value, kind):
            raise RecipeError(f"{name}= takes a {kind.__name__}, not {type(value).__name__}.")
    if loss not in get_args(chunked.Loss):
        raise RecipeError(f"loss= must be one of {', '.join(get_args(chunked.Loss))}, not {loss!r}.")


def refuse_missing(methods: Mapping[str, Method], *, safety_rows: bool, unaligned_model: bool) -> None:
    """Raises DataError or RecipeError where a method is not given what it reads, or two cannot both have it."""
    in_need = [name for name, method in methods.items() if method.needs_safety]
    if in_need and not safety_rows:
        raise DataError(f"{', '.join(in_need)} needs safety rows. Pass safety_dataset= (refusals and look-alikes).")
    needy = [name for name, method in methods.items() if method.needs_unaligned_model]
    if needy and not unaligned_model:
        raise RecipeError(f"{', '.join(needy)} needs θ₀, the weights before alignment. Pass unaligned_model=.")
    needy = [name for name, m in methods.items() if m.needs_unaligned_model or m.reads_aligned]
    if any(methods[name].dense for name in needy[:-1]):
        raise RecipeError(
            f"{' and '.join(needy)} cannot both edit whole weights in one run, since θ_safe is gone after the first "
            f"edit. Name {needy[0]!r} here, then run `unforgotten repair --method {needy[-1]}` on the result."
        )


def refuse_held_out(share: float, safety_rows: bool, args: Any) -> None:
    """Raises DataError or UnsupportedError where safety rows cannot be held out, or measured."""
    if share and not safety_rows:
        raise DataError("memory.held_out needs safety rows. Pass safety_dataset= (refusals and look-alikes).")
    if share and (getattr(args, "fsdp", None) or _asked_of_launcher("ACCELERATE_USE_FSDP")):
        raise UnsupportedError(
            f"memory.held_out cannot run under FSDP, where each rank has only a part of each tensor. {USE_DDP}"
        )


def refuse_4_bits(methods: Iterable[Method], model: Any, continues: bool) -> None:
    """Raises UnsupportedError for edits of whole weights on a base in 4 bits.

    continues: θ_safe's own adapter is trained, so an edit relative to θ_safe is none of one adapter.
    """
    edits = [type(m).__name__ for m in methods if m.needs_unaligned_model or m.dense or (m.reads_aligned and continues)]
    if edits and nf4.is_quantised(model):
        raise UnsupportedError(
            f"{', '.join(edits)} edits whole weights, but this model's weights are in 4 bits. Train without it, then "
            "run `unforgotten repair` on the saved adapter with the unquantised models."
        )


def refuse_shapes(methods: Iterable[Method], run: Run) -> None:
    """Raises UnsupportedError for weights that a method would leave out: no matrix, nor factors of a linear layer."""
    for method in methods:
        if getattr(method, "space", None) == "weights" and getattr(method, "weight", 1) and run.adapter_mode != "full":
            run.weights.deltas()
        stacked = [n for n, p in run.weights.params().items() if p.ndim > 2 and ".experts." in n]
        if method.needs_unaligned_model and not method.dense and stacked:
            raise UnsupportedError(
                f"{type(method).__name__} edits matrices, but {stacked[0]} holds those of all experts in one tensor "
                f"({len(stacked)} such). Train without it, then run `unforgotten repair` on the saved files, where "
                "each expert has separate matrices. Or train adapters on linear layers."
            )


def refuse_collator(collator: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Raises UnsupportedError for a collator of the user's that puts other labels in place of the rows' own.

    DataCollatorForLanguageModeling does: every token of the prompt would be learnt. Asked on one row.
    """
    row = max(rows[:100], key=lambda row: len(row["input_ids"]))
    batch = collator([{name: list(row[name]) if name != "row_id" else row[name] for name in row}])
    labels = batch.get("labels") if hasattr(batch, "get") else None
    learnt = [] if labels is None else [label for label in torch.as_tensor(labels).flatten().tolist() if label != -100]
    if learnt != [label for label in row["labels"] if label != -100]:
        raise UnsupportedError(
            f"data_collator={type(collator).__name__} gives {len(learnt)} labels to a row that has "
            f"{sum(label != -100 for label in row['labels'])}. The loss would include tokens outside the answer. "
            "Leave it out, or use a collator that pads `labels` as they are, such as DataCollatorForSeq2Seq."
        )


def refuse_packing(args: Any) -> None:
    """Raises UnsupportedError for TRL's packing and padding-free batches."""
    if getattr(args, "packing", False) or getattr(args, "padding_free", False):
        raise UnsupportedError(
            "packing / padding_free joins several rows into one. A row's stored states could not be found, and rows "
            "could attend to each other. Set packing=False and padding_free=False."
        )


def refuse_shards(methods: Iterable[Method], args: Any) -> None:
    """Raises UnsupportedError where the arguments, or accelerate's launcher, ask for FSDP and a method cannot have it.

    Asked, not given: on the CPU accelerate drops FSDP without a word.
    """
    methods = list(methods)
    if getattr(args, "fsdp", None) or _asked_of_launcher("ACCELERATE_USE_FSDP"):
        config = getattr(args, "fsdp_config", None)
        version_given = config.get("version") if isinstance(config, dict) else None
        version = str(version_given or os.environ.get("FSDP_VERSION") or 1)
        if not version.isdecimal():
            raise RecipeError(f"FSDP's version is {version!r}. Set it to 1 or 2 (fsdp_config, or FSDP_VERSION).")
        _refuse_fsdp(methods, int(version))
    working = ", ".join(_names(_working(methods)))
    if working and (getattr(args, "deepspeed", None) or _asked_of_launcher("ACCELERATE_USE_DEEPSPEED")):
        raise UnsupportedError(
            f"{working} cannot run under DeepSpeed, whose engine owns gradients and steps. {USE_DDP}"
        )
    parts = getattr(args, "parallelism_config", None) is not None or any(map(_asked_of_launcher, PARTS))
    if parts and (unsure := ", ".join(_names(m for m in methods if not vars(type(m)).get("fsdp2", False)))):
        raise UnsupportedError(
            f"{unsure} cannot run with parallelism_config or Megatron, where each rank has only a part of a tensor or "
            f"of a row. {USE_DDP}"
        )


def refuse_early_steps(methods: Iterable[Method], args: Any) -> None:
    """Raises UnsupportedError for optimizers that step within the backward, where no method sees a gradient."""
    name = str(getattr(args.optim, "value", args.optim))
    if name.endswith("layerwise"):
        seen = _working(list(methods))
    elif name in ("lomo", "adalomo"):
        seen = [m for m in methods if "gradients" in turns(type(m))]
    else:
        return
    if names := ", ".join(_names(seen)):
        raise UnsupportedError(
            f"{names} cannot run with optim={name!r}, which steps during the backward pass: the method never sees the "
            "gradients. Use another optimizer, such as adamw_torch."
        )


def refuse_parts(methods: Iterable[Method], model: Any) -> None:
    """Raises UnsupportedError for a model that was loaded in parts over ranks (tp_plan, a device mesh)."""
    from torch.distributed.tensor import DTensor

    split = next((n for n, p in model.named_parameters() if isinstance(p, DTensor)), None)
    if split and (names := ", ".join(_names(_working(list(methods))))):
        raise UnsupportedError(
            f"{names} cannot run on a sharded model: this rank has only a part of {split!r}. {USE_DDP}"
        )


PARTS = ("ACCELERATE_USE_PARALLELISM_CONFIG", "ACCELERATE_USE_MEGATRON_LM")
"""Variables by which accelerate's launcher asks for sharded tensors or rows."""


def _asked_of_launcher(variable: str) -> bool:
    """Whether accelerate's launcher has set a variable; every word that accelerate takes for yes."""
    return os.environ.get(variable, "").strip().lower() in ("y", "yes", "t", "true", "on", "1")


def refuse(methods: Iterable[Method], args: Any, trainer: Any) -> None:
    """Raises UnsupportedError for FSDP, DeepSpeed and fp16 with a scaler, for each method that cannot be right there.

    Methods that only choose data (SFT, SafeInstr) run anywhere.
    """
    methods = list(methods)
    names = ", ".join(_names(_working(methods)))
    if names and trainer.is_deepspeed_enabled:
        raise UnsupportedError(f"{names} cannot run under DeepSpeed, whose engine owns gradients and steps. {USE_DDP}")
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None) if trainer.is_fsdp_enabled else None
    if plugin is not None:
        _refuse_fsdp(methods, int(getattr(plugin, "fsdp_version", 1)))
    if names and (args.fp16 or trainer.accelerator.mixed_precision == "fp16"):  # its launcher may ask for it, too
        raise UnsupportedError(
            f"{names} cannot run with fp16: the loss scaler changes the gradients that a method sees, and skips "
            "steps. Use bf16=True."
        )


USE_DDP = "Use DDP: the same script under `torchrun`, without FSDP or DeepSpeed."


def _refuse_fsdp(methods: Sequence[Method], version: int) -> None:
    if version < 2:
        if names := ", ".join(_names(_working(methods))):
            raise UnsupportedError(
                f"{names} cannot run under FSDP1, where flattened parameters have no names. {USE_DDP}"
            )
        return
    if unsure := ", ".join(_names(m for m in methods if not vars(type(m)).get("fsdp2", False))):
        raise UnsupportedError(
            f"{unsure} cannot run under FSDP2, where each rank has only a part of each tensor. So far only sft, "
            f"safeinstr and lisa are correct there. Other methods hang, or fail after the training. {USE_DDP}"
        )


def _working(methods: Sequence[Method]) -> list[Method]:
    """Methods that do more than choose data."""
    return [m for m in methods if {*turns(type(m))} - {"data"}]


def _names(methods: Iterable[Method]) -> list[str]:
    return [type(m).__name__ for m in methods]


def one_device(args: Any) -> str | None:
    """Makes this process train on one device; returns a note where it would have taken several.

    A Trainer that sees N GPUs and no ranks wraps the model in DataParallel, and makes the batch N times as large.
    """
    _ = args.device  # devices are set up on first use, and that counts the GPUs anew
    if (seen := int(args.n_gpu)) < 2:
        return None
    args._n_gpu = 1
    return (
        f"this process sees {seen} GPUs and trains on one of them, so a step has exactly the rows that the settings "
        f"give. For several GPUs, run the script under `torchrun --nproc_per_node {seen}` (DDP)"
    )


def refuse_replicas(model: Any) -> None:
    """Raises UnsupportedError for a model in DataParallel, whose replicas lose what a method watches."""
    if isinstance(model, torch.nn.DataParallel):
        raise UnsupportedError(
            "The model is wrapped in DataParallel, which multiplies the batch by the number of GPUs. Give the plain "
            "model (`model.module`). For several GPUs, run the script under `torchrun` (DDP)."
        )
