"""YAML as recipes need it: plain values, each key once, and never more of it than a person would write.

What YAML allows beyond that is refused with its line: aliases that multiply, cycles, keys that are no text, tags. Dates
stay text, and `1:30` and `010` are no numbers. Bounds are settings: UNFORGOTTEN_MAX_YAML_BYTES, _VALUES and _DEPTH.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from unforgotten.errors import RecipeError
from unforgotten.runs import strict_read

BOUNDS = {"bytes": 262_144, "values": 100_000, "depth": 40}
"""The longest text, values with every alias written out, and levels of nesting, where no variable says otherwise."""
PLAIN = {f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")}


def load(text: str, where: str) -> Any:
    """The value of one YAML document. Raises RecipeError that names `where`, the line and what to write instead."""
    if len(text.encode("utf-8", "surrogatepass")) > (most := bound("bytes")):
        raise RecipeError(f"{where} has more than {most:,} bytes (UNFORGOTTEN_MAX_YAML_BYTES).")
    try:
        loader = _BoundedLoader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _Refused as error:
        raise RecipeError(f"{where}{error}") from None
    except (yaml.YAMLError, ValueError) as error:  # a number of more digits than Python reads
        raise RecipeError(f"{where} is not YAML: {error}") from None


def load_file(path: Path) -> Any:
    """The same of a file, of which no more is read than may be."""
    try:
        text = strict_read.content(path, bound("bytes") + 1).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from None
    return load(text, str(path))


def bound(name: str) -> int:
    """One bound, as its variable or BOUNDS has it."""
    variable = f"UNFORGOTTEN_MAX_YAML_{name.upper()}"
    given = os.environ.get(variable, "")
    if given and not (given.isdecimal() and int(given)):
        raise RecipeError(f"{variable} is {given!r}; it must be a number above 0.")
    return int(given or BOUNDS[name])


class _Refused(Exception):
    def __init__(self, node: Any, why: str) -> None:
        mark = getattr(node, "start_mark", node)
        super().__init__(f", line {mark.line + 1}: {why}" if mark is not None else f": {why}")


class _BoundedLoader(yaml.SafeLoader):
    """Counts while it reads, so that what is too much is refused before it is there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.most, self.deepest = bound("values"), bound("depth")
        self.values, self.level = 0, 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """A node, with its size known: an alias counts as much as what it stands for."""
        event = self.peek_event()
        before = self.values
        if isinstance(event, yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise _Refused(event, f"`*{event.anchor}` refers to itself, so it has no end. Remove the alias.")
            self._count(self.sizes[id(node)], event)
            return node
        if event.tag and event.tag != "!" and event.tag not in PLAIN:
            raise _Refused(event, f"the tag {event.tag[:60]!r} is not supported. Write plain values.")
        self._count(1, event)
        self.level += 1
        if self.level > self.deepest:
            raise _Refused(event, f"more than {self.deepest} levels of nesting (UNFORGOTTEN_MAX_YAML_DEPTH).")
        node = super().compose_node(parent, index)
        self.level -= 1
        self.sizes[id(node)] = self.values - before
        return node

    def _count(self, more: int, event: Any) -> None:
        self.values += more
        if self.values > self.most:
            raise _Refused(event, f"more than {self.most:,} values, aliases written out (UNFORGOTTEN_MAX_YAML_VALUES).")

    def flatten_mapping(self, node: MappingNode) -> None:
        """Merges what `<<` names, after every key was seen to be text and to stand once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                shown = repr(key.value) if isinstance(key, ScalarNode) else "a list or a mapping"
                raise _Refused(key, f"a key must be text, but {shown} is not. Put it in quotes.")
            if key.value in seen:
                raise _Refused(key, f"{key.value!r} appears twice in one mapping. Keep one.")
            seen.add(key.value)
        super().flatten_mapping(node)


_DROPPED = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_BoundedLoader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] not in _DROPPED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# Without the sixtieths and the octal numbers of YAML 1.1: `1:30` would be 90 and `010` be 8.
_BoundedLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,20})\Z|0x[0-9a-fA-F_]{1,16}\Z"), list("-+0123456789")
)
_BoundedLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+][0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
    ),
    list("-+0123456789."),
)
