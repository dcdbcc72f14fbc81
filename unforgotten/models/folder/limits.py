"""How large the files of a model may be. Each is a setting: the environment variable beside it changes the default."""

from __future__ import annotations

import os

from unforgotten.errors import RecipeError

DEFAULTS: dict[str, float] = {
    "UNFORGOTTEN_MAX_MODEL_GB": 2000,  # all files of one model together
    "UNFORGOTTEN_MAX_JSON_MB": 32,  # config, index, tokenizer_config, vocabulary: each file that is parsed here
    "UNFORGOTTEN_MAX_TOKENIZER_MB": 128,  # tokenizer.json and vocabularies, parsed in a child
    "UNFORGOTTEN_MAX_HEADER_MB": 32,  # the header of a safetensors file
    "UNFORGOTTEN_MAX_ADDED_TOKENS": 100_000,
    "UNFORGOTTEN_MAX_NESTING": 64,  # of JSON in a model folder
    "UNFORGOTTEN_TOKENIZER_SECONDS": 4,  # processor time to read a tokenizer and encode a probe
    "UNFORGOTTEN_TOKENIZER_GB": 1,  # address space of the child that does so
}


def limit(name: str) -> float:
    """A bound's value. Raises RecipeError where the variable holds no positive number."""
    text = os.environ.get(name)
    if text is None:
        return DEFAULTS[name]
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise RecipeError(f"{name}={text}: give a positive number; the default is {DEFAULTS[name]:g}.")
    return value
