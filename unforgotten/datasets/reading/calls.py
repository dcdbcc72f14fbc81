"""Tool calls and tools in the forms that people have them in, as OpenAI writes them today."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from unforgotten.datasets.reading.marks import Wrong
from unforgotten.runs import strict_json

Call = dict[str, Any]


_CALL_KEYS = ("id", "type", "function", "index")
_FUNCTION_KEYS = ("name", "arguments")


def calls(turn: Mapping[str, Any], role: str, n: int, ignored: Collection[str] = ()) -> list[Call]:
    """The calls of a turn, `function_call` among them; every call has arguments, an object or the text of one.

    Any other key of a call would be lost: it is refused, unless it is among those ignored, which are left out.
    """
    given, legacy = turn.get("tool_calls"), turn.get("function_call")
    if given in (None, []) and legacy is None:
        return []
    if role != "assistant":
        raise Wrong(f"turn {n}: only the assistant calls tools, and this is a {role} turn")
    if given and legacy is not None:
        raise Wrong(f"turn {n}: has both tool_calls and function_call, its older name. Keep one")
    if legacy is not None:
        given = [{"type": "function", "function": legacy}]
    if not isinstance(given, list) or not all(_is_call(call) for call in given):
        raise Wrong(f"turn {n}: tool_calls must be a list of {{type: function, function: {{name, arguments}}}}")
    return [_call(_without(call, ignored), n) for call in given]


def _without(call: Mapping[str, Any], ignored: Collection[str]) -> dict[str, Any]:
    function = {k: v for k, v in call["function"].items() if k in _FUNCTION_KEYS or k not in ignored}
    return {k: v for k, v in call.items() if k in _CALL_KEYS or k not in ignored} | {"function": function}


def named_calls(text: str, n: int) -> list[Call]:
    """ShareGPT's `function_call` turn: the text of one {name, arguments}, or of a list of them."""
    parsed = _parsed(text, f"turn {n}: a function_call turn must be the text of {{name, arguments}}")
    given = [{"type": "function", "function": each} for each in (parsed if isinstance(parsed, list) else [parsed])]
    if not given or not all(_is_call(call) for call in given):
        raise Wrong(f"turn {n}: a function_call turn must be the text of {{name, arguments}}, or of a list of them")
    return [_call(call, n) for call in given]


def tools(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The row's tools: a list, the text of one (as columns of data sets hold it), or the older `functions`."""
    given, older = record.get("tools"), record.get("functions")
    declared = _list(given, "tools")
    if isinstance(given, str):
        declared = [_wrapped(tool) for tool in declared]
    if functions := [_wrapped(tool) for tool in _list(older, "functions")]:
        if declared and declared != functions:
            raise Wrong("has both tools and functions, its older name. Keep one")
        declared = functions
    for n, tool in enumerate(declared, 1):
        function = tool.get("function", tool)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name.strip():
            raise Wrong(f"tool {n} has no name: a tool is {{type: function, function: {{name, parameters}}}}")
    return tuple(declared)


def without_undeclared_nulls(calls: list[Call], declared: tuple[dict[str, Any], ...]) -> tuple[list[Call], int]:
    """Calls without the arguments that are null and that the called tool does not have, and how many those were.

    A data set kept as Arrow gives every call the arguments of all others, and exports them as null.
    """
    known = {f["name"]: f["parameters"] for tool in declared if _has_properties(f := tool.get("function", tool))}
    cleaned: list[Call] = []
    dropped = 0
    for call in calls:
        function = call["function"]
        given, schema = function["arguments"], known.get(function["name"])
        if isinstance(given, dict) and schema is not None:
            arguments = {k: v for k, v in given.items() if v is not None or schema["properties"].get(k) is not None}
            dropped += len(given) - len(arguments)
            call = {**call, "function": {**function, "arguments": arguments}} if len(arguments) < len(given) else call
        cleaned.append(call)
    return cleaned, dropped


def without_nulls(value: Any) -> Any:
    """A value of Arrow without what it fills in: keys whose value is null, at any depth."""
    if isinstance(value, Mapping):
        return {key: without_nulls(each) for key, each in value.items() if each is not None}
    return [without_nulls(each) for each in value] if isinstance(value, (list, tuple)) else value


def _has_properties(function: Any) -> bool:
    parameters = function.get("parameters") if isinstance(function, Mapping) else None
    return (
        isinstance(parameters, Mapping)
        and isinstance(parameters.get("properties"), Mapping)
        and isinstance(function.get("name"), str)
        and not parameters.get("additionalProperties")
    )


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str) and bool(function["name"].strip())


def _call(call: Mapping[str, Any], n: int) -> Call:
    function = {key: value for key, value in call["function"].items() if value is not None}
    given = function.get("arguments")
    name = function["name"]
    other = [key for key in function if key not in _FUNCTION_KEYS]
    if other := [*other, *(key for key, value in call.items() if value is not None and key not in _CALL_KEYS)]:
        raise Wrong(
            f"turn {n}: the call of {name!r} holds {', '.join(repr(key)[:60] for key in other[:5])}, which is not "
            "used: only name and arguments are read. Remove it, or name it in `ignore_keys`"
        )
    if isinstance(given, str) and given.strip():
        arguments = _parsed(given, f"turn {n}: the arguments of {name!r} must be an object or the text of one")
        if not isinstance(arguments, dict):
            raise Wrong(
                f"turn {n}: the arguments of {name!r} are the text of "
                f"{strict_json.kind_of(arguments)}, not of an object"
            )
        if problem := strict_json.unfit(arguments):
            raise Wrong(f"turn {n}: the arguments of {name!r}: {problem}")
    elif given is None or isinstance(given, str):
        function["arguments"] = {}
    elif not isinstance(given, Mapping):
        raise Wrong(f"turn {n}: the arguments of {name!r} must be an object or the text of one, not "
                    f"{strict_json.kind_of(given)}")  # fmt: skip
    return {**{key: value for key, value in call.items() if value is not None}, "function": function}


def _list(value: Any, key: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        value = _parsed(value, f"{key} must be a list of objects or the text of one") if value.strip() else None
    if value is None:
        return []
    if not isinstance(value, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in value):
        raise Wrong(f"{key} must be a list of objects")
    return [dict(tool) for tool in value]


def _wrapped(tool: dict[str, Any]) -> dict[str, Any]:
    bare = "function" not in tool and isinstance(tool.get("name"), str)
    return {"type": "function", "function": tool} if bare else tool


def _parsed(text: str, must: str) -> Any:
    try:
        return strict_json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Wrong(f"{must}: {strict_json.broken(error)}") from None
