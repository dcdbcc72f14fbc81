"""config.json and its like, checked by their numbers before anything is built of them.

A layer count of 10^9 would fill memory in Transformers' own configuration classes, before a single weight is read. What
the files hold bounds what the configuration may ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder.header import Shapes

SIZES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "n_embd"),
    *("n_layer", "n_head", "n_inner", "d_model", "num_key_value_heads", "head_dim", "max_position_embeddings"),
)
"""Where they stand they are whole numbers above 0, or lists of such, or null."""
DTYPES = {
    "auto",
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "half",
    "float",
    "double",
    "float8_e4m3fn",
    "float8_e5m2",
}
MOST_LAYERS = 256
"""Layers that may always be asked for; more only where the files hold as many tensors."""
MOST = 1 << 24
"""The largest whole number, but for what counts no parts: token ids, frequencies, seeds."""
FREE = re.compile(r"theta|seed|base|param|flos|token_id|tokens_seen|scale|total", re.I)
LAYERS = re.compile(r"(^|_)(layers?|blocks|depth|n_layer)$")
IMPLEMENTATION = re.compile(r"[a-z0-9_|]*")
MOST_VALUES = 50_000
"""Values of a configuration in all: lists of modules that a quantiser left alone are the longest there are."""
MOST_LABELS = 30_000
"""Of a classifier; Transformers names each of them."""
MOST_NESTED = 1 << 16
"""The largest whole number in a list of lists, such as a size of images."""


def check(config: dict[str, Any], called: str, tensors: Shapes | None = None) -> None:
    """Raises ModelError for a number, type or name that no model has. tensors: what the files hold, where known."""
    count = len(tensors) if tensors else 0
    _few(config, called)
    widest = max((n for shape in (tensors or {}).values() for n in shape), default=0)
    layers = experts = 1
    for key, value, where in _walk(config):
        refuse = f"{called}: config.json: {where} is {str(value)[:60]!r}"
        if key.endswith("_implementation") and not _plain(value):
            raise ModelError(f"{refuse}, which would download code from the Hub. Remove the key.")
        if key in ("dtype", "torch_dtype") and not _is_dtype(value):
            raise ModelError(f"{refuse}, which is not a precision. Write float32, bfloat16 or float16.")
        if key in SIZES and not _is_size(value):
            raise ModelError(f"{refuse}. It must be a whole number above 0.")
        for number in value if isinstance(value, list) else [value]:
            if type(number) not in (int, float):
                continue
            if abs(number) > (1 << 62) or (abs(number) > MOST and type(number) is int and not FREE.search(key)):
                raise ModelError(f"{refuse}, beyond what any model has ({MOST:,}).")
            if tensors is None or type(number) is not int or key.startswith("max_"):
                continue
            if LAYERS.search(key):
                layers = max(layers, number)
                if number > max(MOST_LAYERS, count):
                    raise ModelError(f"{refuse}, but the weights' files hold {count} tensors.")
            if "expert" in key:
                experts = max(experts, number)
                if number > max(64, count, widest):
                    raise ModelError(f"{refuse}, but the weights' files hold {count} tensors.")
            if key == "vocab_size" and number > max(widest, 1 << 18):
                raise ModelError(f"{refuse}, but the widest tensor of its files has {widest:,} rows.")
    fused = sum(shape[0] for shape in (tensors or {}).values() if len(shape) == 3)
    if tensors is not None and layers * experts > 4 * (count + fused) + 20_000:
        raise ModelError(f"{called}: config.json asks for {layers} layers of {experts} experts; its files hold fewer.")


def _few(config: dict[str, Any], called: str) -> None:
    """Raises ModelError for tables so long, or repeats so many, that reading them alone would hang or fill memory."""
    values = 0
    for key, value, where in _walk(config):
        refuse = f"{called}: config.json: {where} is {str(value)[:60]!r}"
        nested = _nested(value) if isinstance(value, list) else []
        values += 1 + len(nested)
        if values > MOST_VALUES:
            raise ModelError(f"{called}: config.json holds more than {MOST_VALUES:,} values.")
        if key == "num_labels" and (type(value) is not int or not 0 < value <= MOST_LABELS):
            raise ModelError(f"{refuse}. It must be a whole number from 1 to {MOST_LABELS:,}.")
        if isinstance(value, list) and any(isinstance(v, list) for v in value):
            most = MOST_LAYERS if LAYERS.search(key) or key == "attention_types" else MOST_NESTED
            if any(type(n) is int and abs(n) > most for n in nested):
                raise ModelError(f"{refuse}, a list of lists with numbers beyond {most:,}.")
            if key == "attention_types" and len(nested) > MOST_LAYERS:  # each pattern is repeated as often as it says
                raise ModelError(f"{refuse}, which names more than {MOST_LAYERS} kinds of attention.")


def _nested(value: Any) -> list[Any]:
    """What lists within lists hold; what objects hold is walked by itself."""
    leaves: list[Any] = []
    todo = [value]
    while todo:
        inner = todo.pop()
        todo += [v for v in inner if isinstance(v, list)]
        leaves += [v for v in inner if not isinstance(v, (list, dict))]
    return leaves


def weights_file(config: dict[str, Any], called: str) -> str | None:
    """The file that config.json itself names for weights, which Transformers takes first."""
    name = config.get("transformers_weights")
    if name is None:
        return None
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise ModelError(
            f"{called}: config.json names {str(name)[:80]!r} for its weights, which is not a safetensors file."
        )
    return inside(name, "config.json", called)


def inside(name: Any, file: str, called: str) -> str:
    """A file's name as a path within the folder. Raises ModelError where it is none."""
    if not isinstance(name, str) or not re.fullmatch(r"[\w.@+ -]+(/[\w.@+ -]+)*", name) or len(name) > 255:
        raise ModelError(f"{called}: {file} names {str(name)[:80]!r}, which is not a file of this folder.")
    if any(part in ("..", ".") for part in name.split("/")):
        raise ModelError(f"{called}: {file} names {name!r}, which points out of the folder.")
    return name


def _walk(config: dict[str, Any]) -> Iterator[tuple[str, Any, str]]:
    todo: list[tuple[str, Any]] = [("", config)]
    while todo:
        where, value = todo.pop()
        for key, inner in value.items() if isinstance(value, dict) else ((str(i), v) for i, v in enumerate(value)):
            place = f"{where}.{key}" if where else key
            if isinstance(value, dict):
                yield key, inner, place
            if isinstance(inner, (dict, list)):
                todo.append((place, inner))


def _plain(value: Any) -> bool:
    values = value.values() if isinstance(value, dict) else [value]
    return all(v is None or (isinstance(v, str) and IMPLEMENTATION.fullmatch(v) is not None) for v in values)


def _is_dtype(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_dtype(v) for v in value.values())
    return value is None or (isinstance(value, str) and value.removeprefix("torch.") in DTYPES)


def _is_size(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(v) is int and v >= 0 for v in value)
    return value is None or (type(value) is int and value > 0)
