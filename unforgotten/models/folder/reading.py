"""JSON of a model folder, bounded: its size, how deep it nests, and numbers that are none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from unforgotten.errors import ModelError
from unforgotten.models.folder.limits import limit


def parse(data: bytes, name: str, called: str) -> dict[str, Any]:
    """An object. name: the file; called: its folder. Raises ModelError."""

    def refuse(why: str) -> ModelError:
        return ModelError(f"{called}: {name} {why}.")

    most = limit("UNFORGOTTEN_MAX_JSON_MB")
    if len(data) > most * 1e6:
        raise refuse(f"has {len(data) / 1e6:.0f} MB, more than {most:g} (UNFORGOTTEN_MAX_JSON_MB)")
    # Small values cost Python tens of bytes each: without a bound, 32 MB of `[],` become gigabytes.
    if (values := data.count(b",") + data.count(b"[") + data.count(b"{")) > 3_000_000:
        raise refuse(f"holds about {values} values, more than 3,000,000")
    try:
        tree = json.loads(data.decode("utf-8"), parse_constant=_no_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise refuse(f"is not readable JSON: {error}") from error
    if not isinstance(tree, dict):
        raise refuse("is not a JSON object")
    depth = int(limit("UNFORGOTTEN_MAX_NESTING"))
    level: list[Any] = [tree]
    for _ in range(depth):
        level = [inner for value in level for inner in _inside(value) if isinstance(inner, (dict, list))]
    if level:
        raise refuse(f"nests deeper than {depth} levels (UNFORGOTTEN_MAX_NESTING)")
    return tree


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number that a model's file may hold")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large for a number")
    return value
