"""A model's modules built without memory, so that a configuration which asks for more than its files hold is refused.

Transformers fills what the files lack with random weights and only warns. A configuration of a stranger could thus
allocate any amount, and a model could reply with weights that nobody trained.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder import Opened

SECONDS = 20.0
"""To build the modules; those of the largest models take one."""
SPARE = 50_000_000
"""Numbers that a model may have beyond its files: tied weights, buffers, tables of positions."""
PACKED = 16
"""Numbers of a quantised model in one stored byte pair, at most."""


def check(place: Opened, headless: bool = False) -> None:
    """Raises ModelError where config.json asks for far more weights than its files hold, or cannot be built."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    if place.config is None:
        return
    held = sum(math.prod(shape) for shape in place.tensors.values())
    held *= PACKED if place.config.get("quantization_config") else 1
    where = f"{place.called}: config.json"
    try:
        config = AutoConfig.from_pretrained(str(place.path), trust_remote_code=False)
        with torch.device("meta"), _bounded(10 * len(place.tensors) + 1_000, 2 * held + SPARE, where):
            made = (AutoModel if headless else AutoModelForCausalLM).from_config(config, trust_remote_code=False)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # a configuration fails in as many ways as there are architectures
        told = " ".join(str(error).split())[:300]
        raise ModelError(f"{where} makes no model: {type(error).__name__}: {told}") from error
    prefix = f"{made.base_model_prefix}."
    if twice := sorted(t for t in place.tensors if prefix != "." and prefix + t in place.tensors):
        raise ModelError(
            f"{place.called}: its files hold {twice[0]!r} and {prefix + twice[0]!r}, which are two values of one "
            "weight: each program would take another. Remove those that were not trained."
        )


@contextmanager
def _bounded(modules: int, numbers: int, where: str) -> Iterator[None]:
    """Counts what is registered meanwhile, and stops it by ModelError."""
    from torch.nn.modules import module as hooks

    counts, until = {"modules": 0, "numbers": 0}, time.monotonic() + SECONDS

    def module(_: Any, name: str, added: Any) -> None:
        counts["modules"] += 1
        if counts["modules"] > modules or time.monotonic() > until:
            raise ModelError(f"{where} asks for more modules than its weights' files have tensors for.")

    def tensor(_: Any, name: str, added: Any) -> None:
        counts["numbers"] += 0 if added is None else added.numel()
        if counts["numbers"] > numbers:
            raise ModelError(f"{where} asks for more than {numbers:,} weights; its files hold half as many at most.")

    registered = [
        hooks.register_module_module_registration_hook(module),
        hooks.register_module_parameter_registration_hook(tensor),
        hooks.register_module_buffer_registration_hook(tensor),
    ]
    try:
        yield
    finally:
        for hook in registered:
            hook.remove()


def check_loaded(told: dict[str, Any], model: str) -> None:
    """Raises ModelError where weights were not in the files, or had another shape: they would be random numbers."""
    for field, what in (("missing_keys", "its files lack"), ("mismatched_keys", "its files hold in another shape")):
        if names := sorted(str(n[0] if isinstance(n, tuple) else n) for n in told.get(field) or ()):
            raise ModelError(
                f"Cannot load the model {model!r}: {len(names)} weights that config.json asks for {what}, such as "
                f"{names[0]!r}. They would be random numbers. Check that config.json belongs to these weights."
            )
