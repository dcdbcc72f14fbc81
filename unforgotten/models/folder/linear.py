"""Regular expressions in linear time: all states at once, no backtracking [Thompson, CACM 1968].

For patterns of strangers. What needs backtracking (look-around, references to groups) is refused.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

from unforgotten.errors import ModelError

code: ModuleType = importlib.import_module("re._constants")
parser: ModuleType = importlib.import_module("re._parser")
"""Python's own reader of patterns; type checkers do not know it."""
MOST_STATES = 5_000
MOST_LENGTH = 2_000
Accepts = Callable[[str], bool]


class Linear:
    """A pattern that is matched against whole names. Raises ModelError where it cannot be."""

    def __init__(self, pattern: str) -> None:
        self.edges: list[tuple[Accepts, int] | None] = []
        self.jumps: list[list[int]] = []
        if len(pattern) > MOST_LENGTH:
            raise ModelError(f"the pattern {pattern[:60]!r} … has {len(pattern)} characters, more than {MOST_LENGTH}.")
        try:
            tree = parser.parse(pattern)
        except (re.error, RecursionError, OverflowError, ValueError) as error:
            raise ModelError(f"the pattern {pattern[:60]!r} cannot be read: {error}.") from error
        if tree.state.flags & ~re.UNICODE:
            raise ModelError(f"the pattern {pattern[:60]!r} sets flags. Leave them out.")
        self.pattern = pattern
        self.start = self._state()
        parts = list(tree)
        if parts and parts[-1] in ((code.AT, code.AT_END), (code.AT, code.AT_END_STRING)):
            parts.pop()  # the whole name is matched anyhow
        self.end = self._add(parts, self.start)

    def fullmatch(self, text: str) -> bool:
        """As re.fullmatch would say."""
        states = self._closed({self.start})
        for char in text:
            states = {edge[1] for s in states if (edge := self.edges[s]) is not None and edge[0](char)}
            states = self._closed(states)
            if not states:
                return False
        return self.end in states

    def _state(self) -> int:
        if len(self.edges) >= MOST_STATES:
            raise ModelError(f"the pattern {self.pattern[:60]!r} is too large.")
        self.edges.append(None)
        self.jumps.append([])
        return len(self.edges) - 1

    def _closed(self, states: set[int]) -> set[int]:
        todo, seen = list(states), set(states)
        while todo:
            for after in self.jumps[todo.pop()]:
                if after not in seen:
                    seen.add(after)
                    todo.append(after)
        return seen

    def _add(self, tree: Any, at: int) -> int:
        for op, value in tree:
            at = self._one(op, value, at)
        return at

    def _one(self, op: Any, value: Any, at: int) -> int:
        if op in (code.LITERAL, code.NOT_LITERAL, code.ANY, code.IN):
            end = self._state()
            self.edges[at] = (_accepts(op, value, self.pattern), end)
            return end
        if op is code.SUBPATTERN and not value[1] and not value[2]:
            return self._add(value[3], at)
        if op is code.BRANCH:
            end = self._state()
            for branch in value[1]:
                start = self._state()
                self.jumps[at].append(start)
                self.jumps[self._add(branch, start)].append(end)
            return end
        if op in (code.MAX_REPEAT, code.MIN_REPEAT):
            least, most, inner = value
            for _ in range(least):
                at = self._add(inner, at)
            return self._optional(inner, at, most, least)
        if op is code.AT and value in (code.AT_BEGINNING, code.AT_BEGINNING_STRING) and at == self.start:
            return at
        raise ModelError(
            f"the pattern {self.pattern[:60]!r} uses {str(op).lower()}, which needs backtracking. Write module names, "
            "alternatives, classes and repeats."
        )

    def _optional(self, inner: Any, at: int, most: Any, least: int) -> int:
        end = self._state()
        if most is code.MAXREPEAT:
            loop = self._state()
            self.jumps[at] += [loop]
            start = self._state()
            self.jumps[loop] += [start, end]
            self.jumps[self._add(inner, start)].append(loop)
            return end
        for _ in range(most - least):
            start = self._state()
            self.jumps[at] += [start, end]
            at = self._add(inner, start)
        self.jumps[at].append(end)
        return end


def _accepts(op: Any, value: Any, pattern: str) -> Accepts:
    if op is code.ANY:
        return lambda char: char != "\n"
    if op is code.LITERAL:
        return lambda char: ord(char) == value
    if op is code.NOT_LITERAL:
        return lambda char: ord(char) != value
    regex = re.compile(_class(value))
    return lambda char: regex.fullmatch(char) is not None


def _class(items: Any) -> str:
    """A class as text again: one character can backtrack nowhere."""
    kinds = {
        code.CATEGORY_DIGIT: r"\d",
        code.CATEGORY_NOT_DIGIT: r"\D",
        code.CATEGORY_WORD: r"\w",
        code.CATEGORY_NOT_WORD: r"\W",
        code.CATEGORY_SPACE: r"\s",
        code.CATEGORY_NOT_SPACE: r"\S",
    }
    text = ""
    for op, value in items:
        if op is code.NEGATE:
            text += "^"
        elif op is code.LITERAL:
            text += re.escape(chr(value))
        elif op is code.RANGE:
            text += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
        else:
            text += kinds[value]
    return f"[{text}]"
