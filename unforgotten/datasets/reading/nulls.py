"""Whether nulls in calls were filled in by Arrow, where a data set came as a list or a file and does not say so.

Arrow keeps all calls of a column as one record: each has the arguments of every other, and null where it has none.
`list(dataset)`, an iterator, a generator over one and `to_json` all hand that on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

_TURNS = ("messages", "conversations", "prompt", "completion", "history")


@dataclass
class Nulls:
    """What the calls of all rows say of one another."""

    keys: set[frozenset[str]] = field(default_factory=set)
    """The sets of arguments that calls have; one alone where Arrow kept them."""
    calls: Counter[str] = field(default_factory=Counter)
    absent: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often an argument of a function is null where the row does not say that the function has it."""
    declared: set[tuple[str, str]] = field(default_factory=set)
    """Arguments that a row's tools say the function has."""
    in_schema: bool = False
    """A property of a tool is null, which is no schema: only Arrow writes that."""

    def filled(self) -> bool:
        """Whether Arrow filled them in: others give no call the arguments of all, and no property null for a schema."""
        if self.in_schema:
            return True
        if len(self.keys) != 1 or len(self.calls) < 2:
            return False
        never = [(f, k) for (f, k), n in self.absent.items() if n == self.calls[f] and (f, k) not in self.declared]
        return any(self._is_set(k) for _, k in never)

    def doubtful(self) -> Counter[str]:
        """Arguments that are null in some calls and set in others, by how often: Arrow's or the user's own."""
        counts: Counter[str] = Counter()
        for (f, k), n in self.absent.items():
            if (f, k) not in self.declared and self._is_set(k):
                counts[k] += n
        return counts if len(self.keys) == 1 else Counter()

    def _is_set(self, key: str) -> bool:
        return any(self.absent[(f, key)] < calls for f, calls in self.calls.items())


def read(records: Iterable[Any]) -> Nulls:
    """What the calls and tools of these rows say; rows of any other form say nothing."""
    nulls = Nulls()
    for record in records:
        if not isinstance(record, Mapping):
            continue
        declared = dict(_declared(record, nulls))
        for name, arguments in _calls(record) if len(nulls.keys) < 2 else ():
            nulls.calls[name] += 1
            nulls.keys.add(frozenset(map(str, arguments)))
            for key, value in arguments.items():
                if declared.get(name, {}).get(key) is not None:
                    nulls.declared.add((name, str(key)))
                if value is None:
                    nulls.absent[(name, str(key))] += 1
    return nulls


def _declared(record: Mapping[str, Any], nulls: Nulls) -> Iterator[tuple[str, Mapping[str, Any]]]:
    given = record.get("tools") or record.get("functions")
    for tool in given if isinstance(given, (list, tuple)) else ():
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        parameters = function.get("parameters") if isinstance(function, Mapping) else None
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if isinstance(properties, Mapping) and isinstance(function, Mapping):
            nulls.in_schema = nulls.in_schema or any(schema is None for schema in properties.values())
            yield str(function.get("name")), properties


def _calls(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for key in _TURNS:
        for turn in turns if isinstance(turns := record.get(key), (list, tuple)) else ():
            if not isinstance(turn, Mapping):
                continue
            given = turn.get("tool_calls")
            called = [c.get("function") for c in given if isinstance(c, Mapping)] if isinstance(given, list) else []
            for function in (*called, turn.get("function_call")):
                if isinstance(function, Mapping) and isinstance(arguments := function.get("arguments"), Mapping):
                    yield str(function.get("name")), arguments
