"""How θ_safe and what is trained lie in one model: `merge`, `stack`, `continue` or `full`.

    merge      θ_safe is the whole base; one fresh LoRA is trained on it. Teacher: adapter off.
    stack      θ_safe is a frozen LoRA on a public base; a fresh one is trained above it. Teacher: the lower one alone.
    continue   θ_safe is a LoRA, and that same LoRA is trained on. Teacher: its first values.
    full       every weight is trained. Teacher: the first values.

Under the last two the teacher is gone after the first step, so what a method needs of it is stored before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from unforgotten.errors import ModelError, UnsupportedError
from unforgotten.models import join

AdapterMode = Literal["merge", "stack", "continue", "full"]

KEEPS_BASE = (True, "gaussian", "eva")
"""LoRA inits that leave the base as it is and start at a delta of 0, so that adapter-off and step 0 are both θ_safe."""

TRAINED = "default"
"""PEFT's name for the adapter under training."""
ALIGNED = "aligned"
"""The name of the frozen adapter that makes θ_safe under `stack`."""


def check_init(config: Any, fresh: bool = True) -> None:
    """Refuses an adapter whose init changes the base or the first step, because the teacher would not be θ_safe then.

    fresh: it is to start from its init. One that has its values already may have had random ones before.
    """
    init = getattr(config, "init_lora_weights", True)
    if init not in KEEPS_BASE and (fresh or init is not False):
        raise ModelError(
            f"init_lora_weights={init!r} changes the base weights or starts away from θ_safe. With its adapter off, "
            "the model would not be the aligned model. Use init_lora_weights=True (or 'gaussian')."
        )
    if getattr(config, "bias", "none") != "none":
        raise ModelError(
            f"bias={config.bias!r} trains biases of the base, which stay when the adapter is off. Use bias='none'."
        )


def fresh(model: Any, config: Any) -> Any:
    """`merge`: θ_safe's full weights under one fresh adapter."""
    from peft import get_peft_model

    check_init(config)
    if getattr(config, "layer_replication", None):
        raise ModelError(
            "layer_replication repeats layers of the base. With its adapter off, the model would not be the aligned "
            "model. Leave it out."
        )
    return get_peft_model(model, config)


def stack(model: Any, config: Any) -> Any:
    """`stack`: a PeftModel whose only adapter is θ_safe's gets a fresh trainable one above it; the lower is frozen.

    Both are active in training; the sum of their deltas is what runs. Raises UnsupportedError where they could not be
    saved as one adapter.
    """
    check_init(config)
    names = list(model.peft_config)
    if names != [ALIGNED]:
        raise ModelError(f"Stacking needs exactly one loaded adapter, called {ALIGNED!r}. Found {names}.")
    try:
        model.add_adapter(TRAINED, config)
    except (TypeError, ValueError) as error:  # PEFT's own words for two adapters that cannot lie on one module
        raise UnsupportedError(
            f"PEFT cannot add this adapter above the aligned one: {error}. {join.WAY_OUT}"
        ) from error
    join.refuse(model, (ALIGNED, TRAINED))
    for module in model.modules():
        if ALIGNED in (dropout := getattr(module, "lora_dropout", {})):
            dropout[ALIGNED] = torch.nn.Identity()  # θ_safe is fixed: its own dropout must not disturb the student
    activate(model, [ALIGNED, TRAINED])
    return model


def activate(model: Any, names: list[str]) -> None:
    """Makes these adapters run; only TRAINED keeps its gradient."""
    model.base_model.set_adapter(names)
    for name, p in model.named_parameters():
        if belongs(name, ALIGNED):
            p.requires_grad_(False)


def belongs(parameter: str, adapter: str) -> bool:
    """Is it a parameter of this adapter? The factors of an embedding end with the adapter's name."""
    return adapter in parameter.split(".")


def adapter_mode_of(model: Any) -> AdapterMode:
    """Reads the mode off the model: its adapters, which of them train, and whether the trained one is fresh."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return "full"
    for name, config in configs.items():
        check_init(config, fresh=len(configs) > 1 and name == TRAINED)
    if len(configs) > 1:
        trained = {n for n in configs if any(p.requires_grad and belongs(k, n) for k, p in model.named_parameters())}
        if trained != {TRAINED} or set(configs) != {TRAINED, ALIGNED}:
            raise ModelError(
                f"Adapters {sorted(configs)}, trained {sorted(trained)}: with two adapters, {ALIGNED!r} must be frozen "
                f"and {TRAINED!r} trained. Build them with unforgotten.models.adapters.stack."
            )
        join.refuse(model, (ALIGNED, TRAINED))
        return "stack"
    ups = [p for n, p in model.named_parameters() if "lora_B" in n or "lora_embedding_B" in n]
    return "merge" if ups and all(not p.any() for p in ups) else "continue"


def refuse_shared_rows(model: Any) -> None:
    """Raises UnsupportedError for single rows trained of an embedding that the head shares.

    The file has them once, and Transformers asks for the head's as well when it opens an adapter beside its base.
    """
    from peft.utils.other import TrainableTokensWrapper

    head = model.get_base_model().get_output_embeddings()
    if isinstance(head, TrainableTokensWrapper):
        raise UnsupportedError(
            "The adapter trains single rows (trainable_token_indices) of an embedding that the head shares. "
            "Transformers cannot open the file of such an adapter. Use lora.existing: merge."
        )


def trained_adapter(model: Any) -> str | None:
    """The name of the adapter under training, or None for full fine-tuning."""
    configs = getattr(model, "peft_config", None)
    if not configs:
        return None
    return TRAINED if TRAINED in configs else next(iter(configs))


@contextmanager
def aligned_only(model: Any, adapter_mode: AdapterMode) -> Iterator[Any]:
    """θ_safe itself, in eval mode and without gradient; the model is put back after.

    Under `continue` and `full` this is the live model, and right only before the first step, as
    `run.weights.teacher` sees to.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            if adapter_mode == "merge":
                with model.disable_adapter():
                    yield model
            elif adapter_mode == "stack":
                activate(model, [ALIGNED])
                try:
                    yield model
                finally:
                    activate(model, [ALIGNED, TRAINED])
            else:
                yield model
    finally:
        model.train(was_training)
