"""Which parts of a row a template writes, and where: read off a rendering in which each part ends in a mark of its own.

A mark is a number in Unicode noncharacters, which stand in no text. It goes behind the last character of a part that is
not white space, so that what templates ask of a text (how it begins, what it holds) is answered as without it. Where
the marked rendering is the plain one but for its marks, each mark says where its part ends.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from unforgotten.datasets.base import Message

START, END = "\ufdd1", "\ufde2"
DIGITS = "".join(chr(code) for code in range(0xFDD2, 0xFDE2))
_MARK = re.compile(f"{START}([{DIGITS}]+){END}")
_ESCAPED = re.compile(r"\\u(fd[de][0-9a-f])", re.IGNORECASE)
THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_NO_WORDS = {"role", "type", "id", "tool_call_id", "index"}
"""Keys that hold no words of anybody."""
_OF_SCHEMAS = {"type", "format", "$ref", "$schema", "$id", "required", "name", "description"}
"""Keys of a tool's schema whose texts are the format's own, or are marked."""
TOOLS = -1
"""The place of what is declared beside the messages."""


@dataclass(frozen=True, slots=True)
class Part:
    """One text of a row."""

    message: int
    """Which message it stands in; TOOLS for the tools that are declared."""
    kind: str
    """content, thought, call, argument; tool, description, parameter, value; else the message's own key."""
    text: str
    call: int = 0
    """Which of the message's calls, or of the declared tools, it belongs to."""
    name: str = ""
    """What it is called: the key of an argument, the name of a call."""
    alone: bool = False
    """It carries no mark: a number, or a name that the template looks up."""


class Marker:
    """Puts marks into a conversation and keeps the list of its parts."""

    def __init__(self, messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> None:
        self.parts: list[Part] = []
        self.messages = [self._message(i, message) for i, message in enumerate(messages)]
        self.tools = [self._tool(i, tool) for i, tool in enumerate(tools)]

    def _mark(self, text: str, *facts: Any) -> str:
        """The text with its mark; a blank one is no part."""
        bare = text.rstrip()
        if not bare:
            return text
        self.parts.append(Part(facts[0], facts[1], text, *facts[2:]))
        number = "".join(DIGITS[int(digit, 16)] for digit in f"{len(self.parts) - 1:x}")
        return f"{bare}{START}{number}{END}{text[len(bare) :]}"

    def _message(self, place: int, message: Message) -> Message:
        marked: Message = {}
        for key, value in message.items():
            if key in _NO_WORDS:
                marked[key] = value
            elif key == "tool_calls" and isinstance(value, list):
                marked[key] = [self._call(place, n, call) for n, call in enumerate(value)]
            else:
                marked[key] = self._texts(value, place, "thought" if key in THOUGHTS else key, 0, key)
        return marked

    def _call(self, place: int, n: int, call: Any) -> Any:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            return call
        name = str(function.get("name", ""))
        other_fields = {
            key: self._texts(value, place, "argument", n, key)
            for key, value in function.items()
            if key not in ("name", "arguments")
        }
        beside = {
            key: value if key in _NO_WORDS else self._texts(value, place, "argument", n, key)
            for key, value in call.items()
            if key != "function"
        }
        marked = {"name": self._mark(name, place, "call", n, name), **other_fields}
        arguments = function.get("arguments")
        if isinstance(arguments, dict):
            marked["arguments"] = {
                self._mark(key, place, "argument", n, key): self._texts(value, place, "argument", n, key)
                for key, value in arguments.items()
            }
        elif "arguments" in function:
            marked["arguments"] = self._texts(arguments, place, "argument", n, "arguments")
        marked_call = {**beside, "function": {key: marked[key] for key in function}}
        return {key: marked_call[key] for key in call}

    def _texts(self, value: Any, place: int, kind: str, n: int, name: str) -> Any:
        if isinstance(value, str):
            return self._mark(value, place, kind, n, name)
        if isinstance(value, dict):
            held = {k: v if k in _NO_WORDS and kind == "content" else self._texts(v, place, kind, n, name)
                    for k, v in value.items()}  # fmt: skip
            if kind == "argument":
                self.parts += [Part(place, kind, key, n, name, alone=True) for key in value]
            return held
        if isinstance(value, (list, tuple)):
            return [self._texts(item, place, kind, n, name) for item in value]
        if kind == "argument" and value is not None:
            self.parts.append(Part(place, kind, str(value), n, name, alone=True))
        return value

    def _tool(self, n: int, tool: dict[str, Any]) -> dict[str, Any]:
        function = tool.get("function")
        if isinstance(function, dict):
            return {**tool, "function": self._tool(n, function)}
        name = str(tool.get("name", ""))
        if "name" not in tool:  # a tool of some server's own, which no template writes out
            self.parts.append(Part(TOOLS, "tool", str(tool.get("type", "")), n, str(tool.get("type", "")), alone=True))
        marked = {key: self._described(value, n, name, key) for key, value in tool.items()}
        if isinstance(tool.get("name"), str):
            marked["name"] = self._mark(name, TOOLS, "tool", n, name)
        if isinstance(tool.get("description"), str):
            marked["description"] = self._mark(tool["description"], TOOLS, "description", n, name)
        return marked

    def _described(self, value: Any, n: int, name: str, under: str = "") -> Any:
        """A tool's parameters: their descriptions are marked, and names and values are looked for as they are."""
        if isinstance(value, str) and under not in _OF_SCHEMAS:
            self.parts.append(Part(TOOLS, "value", value, n, name, alone=True))
        if isinstance(value, dict):
            if isinstance(properties := value.get("properties"), dict):
                self.parts += [Part(TOOLS, "parameter", key, n, name, alone=True) for key in properties]
            return {
                key: self._mark(item, TOOLS, "description", n, name)
                if key == "description" and isinstance(item, str)
                else self._described(item, n, name, key)
                for key, item in value.items()
            }
        return [self._described(item, n, name, under) for item in value] if isinstance(value, list) else value


def has_marks(*texts: str) -> bool:
    """Does a text hold such characters already?"""
    return any(START in text or END in text for text in texts)


def ends(marked: str, plain: str) -> dict[int, list[int]] | None:
    """Where each part's writing ends in `plain`, by its number; None where marks changed what was written."""
    marked = marked if START in marked else _ESCAPED.sub(lambda match: chr(int(match[1], 16)), marked)
    places: dict[int, list[int]] = {}
    taken = 0
    for match in _MARK.finditer(marked):
        number = int("".join(f"{DIGITS.index(digit):x}" for digit in match[1]), 16)
        places.setdefault(number, []).append(match.start() - taken)
        taken += len(match[0])
    return places if _MARK.sub("", marked) == plain else None


def variants(text: str) -> Iterator[str]:
    """A text as templates may write it: as it is, in JSON, in HTML, as a Python literal."""
    import html
    import json

    bare = text.strip()
    yield bare
    yield json.dumps(bare, ensure_ascii=False)[1:-1]
    yield json.dumps(bare)[1:-1]
    yield html.escape(bare)
    yield html.escape(bare, quote=False)
    yield repr(bare)[1:-1]


def squeezed(text: str) -> str:
    """A text without its white space, which templates lay out anew."""
    return "".join(text.split())
