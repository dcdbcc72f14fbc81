"""What pydantic says of wrong fields, in one sentence for each field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any


def sentence(errors: Iterable[Any], what: str, shortly: Callable[[Any], str]) -> str:
    """One sentence for each field: what each type that it may have says of the value, joined by `or`."""
    said: dict[tuple[str, str], list[str]] = {}
    for e in errors:
        # A field of several types has an error for each, under a name of pydantic's own, such as `constrained-float`.
        place = e["loc"][:1] if len(e["loc"]) > 1 and _is_tag(e["loc"][1]) else e["loc"]
        key = ".".join(map(str, place)) or what, shortly(e["input"])
        said.setdefault(key, []).append(e["msg"])
    problems = (
        f"{where}: {' or '.join([messages[0], *(m.removeprefix('Input ') for m in messages[1:])])} (got {value})"
        for (where, value), messages in said.items()
    )
    return f"{what}: {'; '.join(problems)}"


_TAGS = re.compile(r"(constrained-)?(str|int|float|bool)|literal\[|dict\[|list\[|none|nullable")


def _is_tag(part: Any) -> bool:
    """Whether a part of a place is pydantic's name of one type of a union."""
    return isinstance(part, str) and _TAGS.match(part) is not None
