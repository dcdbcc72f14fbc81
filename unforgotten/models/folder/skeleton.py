"""A model's modules built without memory, so that a configuration which asks for more than its files hold is refused.

Transformers fills what the files lack with random weights and only warns. A configuration of a stranger could thus
allocate any amount, and a model could reply with weights that nobody trained.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder.open import Opened
from unforgotten.runs import safe_text

_LOG = logging.getLogger("unforgotten")

SECONDS = 20.0
"""Of this thread's computing, to build the modules; those of the largest models take one. Waiting for a busy machine
does not count."""
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
    _known_quantiser(place.config, where)
    try:
        config = AutoConfig.from_pretrained(str(place.path), trust_remote_code=False)
        with torch.device("meta"), _bounded(10 * len(place.tensors) + 1_000, 2 * held + SPARE, where):
            skeleton = (AutoModel if headless else AutoModelForCausalLM).from_config(config, trust_remote_code=False)
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # a configuration fails in as many ways as there are architectures
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{where} makes no model: {type(error).__name__}: {reason}") from error
    prefix = f"{skeleton.base_model_prefix}."
    if twice := sorted(t for t in place.tensors if prefix != "." and prefix + t in place.tensors):
        raise ModelError(
            f"{place.called}: its files hold {twice[0]!r} and {prefix + twice[0]!r}, two values of one weight. "
            "Programs would not agree on which to load. Remove those that were not trained."
        )


def _known_quantiser(config: dict[str, Any], where: str) -> None:
    """Raises ModelError for weights that are kept in a form which Transformers would pass over in silence."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as known

    for at in (config, config.get("text_config")):
        if not isinstance(at, dict):
            continue
        given = at.get("quantization_config")
        if other := next((key for key in ("quantization", "compression_config") if at.get(key)), None):
            if not isinstance(given, dict) or not given.get("quant_method"):
                raise ModelError(
                    f"{where}: {other!r} says that its weights are packed, in a form that is not supported. Give "
                    "unpacked weights."
                )
        method = given.get("quant_method") if isinstance(given, dict) else None
        if method is not None and str(getattr(method, "value", method)) not in (*known, "bitsandbytes"):
            raise ModelError(
                f"{where}: quantization_config names the method {str(method)[:60]!r}, which Transformers does not "
                f"know and would ignore. Known methods: {', '.join(sorted(known))}. Give the unquantised weights."
            )


@contextmanager
def _bounded(modules: int, numbers: int, where: str) -> Iterator[None]:
    """Counts what is registered meanwhile, and stops it by ModelError."""
    from torch.nn.modules import module as hooks

    counts, until = {"modules": 0, "numbers": 0}, time.thread_time() + SECONDS
    counted: dict[int, Any] = {}  # a tied head is the embedding, registered again: one tensor counts once

    def module(_: Any, name: str, added: Any) -> None:
        counts["modules"] += 1
        if counts["modules"] > modules or time.thread_time() > until:
            raise ModelError(f"{where} asks for more modules than its weights' files have tensors for.")

    def tensor(_: Any, name: str, added: Any) -> None:
        if added is None or id(added) in counted:
            return
        counted[id(added)] = added
        counts["numbers"] += added.numel()
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


def check_loaded(loading_info: dict[str, Any], model: str, loaded: Any = None) -> None:
    """Raises ModelError where weights were not in the files, or had another shape: they would be random numbers.

    loaded: the model; where its files hold more of a layer than it has, such as a bias, it is another model. What else
    the files hold, such as another part of a larger model, is left out and said.
    """
    extra = sorted(str(name) for name in loading_info.get("unexpected_keys") or ())
    layers = set() if loaded is None else _layers(loaded)
    if of_layers := [name for name in extra if any(stem in layers for stem in _stems(name))]:
        raise ModelError(
            f"Cannot load the model {model!r}: {len(of_layers)} weights of its files belong to layers that have no "
            f"such weight, such as {of_layers[0]!r}. They would be left out. Check that config.json belongs to these "
            "weights. Put an adapter's factors into a separate file."
        )
    if extra and loaded is not None:
        _LOG.warning(
            f"{model}: {len(extra):,} weights of its files belong to no layer of this model. They are left out, such "
            f"as {safe_text.line(extra[0][:200])}."
        )
    for field, what in (("missing_keys", "its files lack"), ("mismatched_keys", "its files hold in another shape")):
        if names := sorted(str(n[0] if isinstance(n, tuple) else n) for n in loading_info.get(field) or ()):
            raise ModelError(
                f"Cannot load the model {model!r}: {len(names)} weights that config.json asks for {what}, such as "
                f"{names[0]!r}. They would be random numbers. Check that config.json belongs to these weights."
            )


def _layers(model: Any) -> set[str]:
    """The names of layers that hold weights and no layers, as files may write them."""
    names = [n for n, m in model.named_modules() if next(m.parameters(), None) is not None and not any(m.children())]
    prefix = f"{model.base_model_prefix}."
    return {*names, *(name.removeprefix(prefix) for name in names)}


def _stems(name: str) -> list[str]:
    """What a weight may be of: `a.b.lora_A.weight` is of a.b, `a.bias` of a."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts) - 1, max(0, len(parts) - 4), -1)]
