"""What the assistant says in a row.

With a model's chat it is the text of the tokens in the loss, read back from their ids: calls, thoughts and whatever
else the template prints, up to the length limit. Without one it is every string of the assistant's turns, the keys of
a call's arguments too: more than any template prints, so that nothing that might be learnt is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat, Encoded

STRUCTURE = frozenset(
    "role content tool_calls function function_call name arguments parameters type id tool_call_id index text "
    "reasoning reasoning_content thinking properties description required instruction input weight train".split()
)
"""Keys that are the format's and not its author's."""
KINDS = frozenset({"function", "text", "object", "string", "number", "integer", "boolean", "array", "thinking"})
"""Values of `type` that say nothing."""
OUTSIDE = -100
"""The label of a token outside the loss (models/chat/rows.py)."""


@dataclass(frozen=True, slots=True)
class Spoken:
    """What one assistant turn adds to the loss."""

    turn: int
    """Its place in the row's messages."""
    text: str


def words(value: Any) -> str:
    """Every word of a turn, of a tool or of any part of them, the content first; each key and value on its own line."""
    if isinstance(value, Mapping) and isinstance(value.get("content"), str):
        # An Alpaca row's `instruction` and `input` are in its content already.
        rest = list(_strings({k: v for k, v in value.items() if k not in ("content", "role")}))
        content = value["content"]
        return "\n".join([*([content] if content else []), *(text for text in rest if text not in content)])
    return "\n".join(_strings(value))


def pieces(message: Mapping[str, Any]) -> list[list[str]]:
    """A turn's words in the ways that they may be meant to be read on; an answer may be parted among them.

    Its content alone; its content where marks of a thought part it; then with thoughts and the values of its calls;
    every word of it in order, names, ids and keys too; the names of its calls alone, and the keys alone.
    """
    content = str(message.get("content") or "")
    thoughts = [text for key in THOUGHTS for text in _values(message.get(key))]
    calls = [call for call in message.get("tool_calls") or [] if isinstance(call, Mapping)]
    arguments = [_arguments(call) for call in calls]
    called = [text for each in arguments for text in _values(each)]
    usual = ("role", "content", "tool_calls", *THOUGHTS)
    beside = [text for key, value in message.items() if key not in usual for text in _every(value)]
    functions = [call["function"] if isinstance(call.get("function"), Mapping) else {} for call in calls]
    names = [str(function.get("name") or "") for function in functions]
    every = [
        text
        for call, name, given in zip(calls, names, arguments, strict=True)
        for text in (str(call.get("id") or ""), name, *_every(given))
        if text
    ]
    parted = [text for text in _THOUGHT_MARKS.split(content) if text.strip()]
    return [
        [content], parted, [*thoughts, content], [content, *thoughts, *called], [*thoughts, content, *called],
        [*thoughts, content, *beside, *every], names, [key for each in arguments for key in _keys(each)],
    ]  # fmt: skip


WAYS = 8
"""In which `pieces` reads a turn."""
_THOUGHT_MARKS = re.compile(r"</?think>|\[/?THINK\]|</?seed:think>")
THOUGHTS = ("reasoning_content", "thinking", "reasoning")


def _arguments(call: Any) -> Any:
    function = call.get("function") if isinstance(call, Mapping) else None
    given = function.get("arguments") if isinstance(function, Mapping) else None
    if isinstance(given, str):
        try:
            return json.loads(given)
        except (ValueError, RecursionError):
            return given
    return given


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _values(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _values(item)
    elif isinstance(value, str) and value:
        yield value


def _every(value: Any) -> Iterator[str]:
    """Every key and value in order."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield str(key)
            yield from _every(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _every(item)
    elif value not in (None, "") and not isinstance(value, bool):
        yield str(value)


def _keys(value: Any) -> Iterator[str]:
    for key, item in value.items() if isinstance(value, Mapping) else ():
        yield str(key)
        yield from _keys(item)
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _keys(item)


def _strings(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            name = str(name)
            if name not in STRUCTURE:
                yield name
            yield from _strings(item, name)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from _strings(item, key)
    elif isinstance(value, str):
        if value and not (key == "type" and value in KINDS):
            yield value
    elif value is not None and not isinstance(value, bool) and key not in STRUCTURE:
        yield str(value)


def trained_turns(row: Row) -> list[int]:
    """Places of the assistant turns that the loss sees: neither marked as context, nor opening the conversation."""
    asked = next((i for i, message in enumerate(row.messages) if message["role"] in ("user", "tool")), 0)
    return [
        i
        for i, message in enumerate(row.messages)
        if message["role"] == "assistant" and i >= asked and i not in row.context_turns
    ]


def spoken(row: Row, chat: Chat | None = None, max_length: int | None = None) -> list[Spoken]:
    """The row's answers, in order; with a chat those of which the loss sees something. Raises what encoding raises."""
    if chat is None:
        return [Spoken(i, words(row.messages[i])) for i in trained_turns(row)]
    answers: list[Spoken] = []
    for example in chat.examples(row)[0]:
        limit = len(example.labels) if max_length is None else max_length
        pieces: dict[int, list[str]] = {}
        for turn, start, end in _runs(chat, row, example):
            if text := _text(chat, example.input_ids[start : min(end, limit)]):
                pieces.setdefault(turn, []).append(text)
        answers += [Spoken(turn, "\n".join(texts)) for turn, texts in pieces.items()]
    return answers


def _runs(chat: Chat, row: Row, example: Encoded) -> list[tuple[int, int, int]]:
    """(turn, first token, end) of every unbroken stretch of the example that is in the loss."""
    runs, at = [], 0
    for inside, labels in groupby(label != OUTSIDE for label in example.labels):
        n = len(list(labels))
        runs += [(at, at + n)] if inside else []
        at += n
    if example.turn is not None:
        return [(example.turn, *run) for run in runs]
    turns = trained_turns(row)
    if len(runs) == len(turns):
        return [(turn, *run) for turn, run in zip(turns, runs, strict=True)]
    # A template's own marks may part a turn. Every turn ends in a token that ends turns, and mostly has no other.
    closed = [example.input_ids[end - 1] in chat.end_ids for _, end in runs]
    if sum(closed) == len(turns) and closed[-1]:
        before = [sum(closed[:n]) for n in range(len(runs))]
        return [(turns[n], *run) for n, run in zip(before, runs, strict=True)]
    # Two turns may stand side by side, or a turn hold such a token: where does each end?
    ends = [(turn, _length(chat, row, turn)) for turn in turns]
    return [(turn, *run) for run in runs for turn in [next((t for t, end in ends if run[0] < end), turns[-1])]]


def _length(chat: Chat, row: Row, turn: int) -> int:
    """Tokens of the row up to the end of a turn; its turns nest, or each would be an example of its own."""
    before = frozenset(i for i in row.context_turns if i < turn)
    up_to = replace(row, messages=row.messages[: turn + 1], context_turns=before)
    return len(chat.examples(up_to)[0][-1].input_ids)


def _text(chat: Chat, ids: Sequence[int]) -> str:
    """Ids as text, every mark in it but the tokens that end the turn."""
    ids = list(ids)
    while ids and ids[-1] in chat.end_ids:
        ids.pop()
    return chat.decode(ids, skip_special_tokens=False)
