"""What a turn says, as one text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unforgotten.datasets.reading.marks import Wrong
from unforgotten.runs import strict_json


def content_of(given: Mapping[str, Any], value: Any, role: str, n: int) -> str:
    """The turn's text; of a turn that has only a `refusal`, that."""
    text = text_of(value, f"the content of turn {n}")
    refusal = given.get("refusal")
    if refusal is None or refusal == "":
        return text
    if role != "assistant" or not isinstance(refusal, str):
        raise Wrong(f"turn {n}: `refusal` must be text, in an assistant turn")
    if text.strip():
        raise Wrong(f"turn {n}: has both content and refusal. Keep the one to train on")
    return refusal


def text_of(value: Any, what: str) -> str:
    """A string, or the joined texts of a list of {type: text} parts."""
    if isinstance(value, list):
        for part in value:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                got = part.get("type") if isinstance(part, Mapping) else strict_json.kind_of(part)
                raise Wrong(f"{what}: a part must be {{type: text, text: …}}, not {str(got)[:60]!r}")
            if more := [key for key, each in part.items() if key not in ("type", "text") and each is not None]:
                raise Wrong(f"{what}: a part holds {', '.join(map(repr, more[:5]))} besides its text. Remove it")
        value = "".join(part["text"] for part in value)
    if value is not None and not isinstance(value, str):
        raise Wrong(f"{what} must be text, not {strict_json.kind_of(value)}")
    return value or ""


def all_text(value: Any) -> bool:
    """Is every leaf of a value a text? What a template leaves out of texts is counted where it is rendered."""
    if isinstance(value, Mapping):
        return all(map(all_text, value.values()))
    return all(map(all_text, value)) if isinstance(value, (list, tuple)) else value is None or isinstance(value, str)
