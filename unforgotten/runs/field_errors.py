"""What pydantic says of wrong fields, in one sentence for each field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def sentence(errors: Iterable[Any], what: str, shortly: Callable[[Any], str], given: Mapping[str, Any]) -> str:
    """One sentence for each field: what each type that it may have says of the value, joined by `or`.

    given: the fields' values, whose own keys are told from pydantic's names of types.
    """
    said: dict[tuple[str, str], list[str]] = {}
    for e in errors:
        key = ".".join(map(str, _place(e, given))) or what, shortly(e["input"])
        said.setdefault(key, []).append(e["msg"])
    problems = (
        f"{where}: {' or '.join([messages[0], *(m.removeprefix('Input ') for m in messages[1:])])} (got {value})"
        for (where, value), messages in said.items()
    )
    return f"{what}: {'; '.join(problems)}"


_TAG = re.compile(
    r"(constrained-)?(str|int|float|bool|bytes|complex)|none|nullable"
    r"|(constrained-)?(literal|dict|list|tuple|set|frozenset|json-or-python|lax-or-strict|is-instance|is-subclass"
    r"|function-\w+)\[.*\]",
    re.DOTALL,
)


def _place(error: Any, given: Any) -> list[Any]:
    """An error's place without pydantic's names of types.

    A field of several types has an error for each, under a name such as `constrained-float`. A part that reads like one
    is a key where the value given has that key. At the end the error must also be of the key's value, not of the whole.
    """
    place, loc = list[Any](), error["loc"]
    for at, part in enumerate(loc):
        last = at == len(loc) - 1
        is_key = isinstance(given, Mapping) and part in given and not (last and given is error["input"])
        is_missing = last and error["type"] == "missing"
        if not (is_key or is_missing) and isinstance(part, str) and _TAG.fullmatch(part):
            continue
        place.append(part)
        is_index = isinstance(part, int) and isinstance(given, (list, tuple)) and part < len(given)
        given = given[part] if is_key or is_index else None
    return place


TOO_LARGE = "Input should be a number that tensors hold: a whole one in 64 bits, another one in 32"


def too_large(value: Any) -> bool:
    """Whether it is finite, and no tensor holds it: torch would raise OverflowError later, or make it infinite."""
    if isinstance(value, float):
        return 3.4e38 < abs(value) < float("inf")
    return isinstance(value, int) and not -(2**63) <= value < 2**63
