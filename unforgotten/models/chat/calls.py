"""Calls of tools as a template wants them: some print a call's arguments as JSON, others want the JSON itself."""

from __future__ import annotations

import json
from typing import Any, Literal

from unforgotten.datasets.base import Message
from unforgotten.errors import DataError

Form = Literal["object", "string"]
KEY, VALUE = "place", "Oslo-7351"
TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look it up.",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string", "description": "Where."}}},
    },
}
CALLED: Message = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "look_up", "arguments": {KEY: VALUE}}}],
}
"""The call that shows how a template writes arguments; the id has the nine characters that Mistral's ask for."""


def question() -> list[Message]:
    """What comes before the call."""
    return [{"role": "user", "content": "Say a word."}]


def form(of_object: str, of_string: str) -> Form:
    """Which form to give, from the template's text for each (empty where it refused).

    A string printed as JSON would be JSON twice over; an object printed as it is would be Python, not JSON.
    """
    twice, python = json.dumps(json.dumps({KEY: VALUE}))[1:-1], str({KEY: VALUE})
    object_is_right = VALUE in of_object and python not in of_object
    string_is_right = VALUE in of_string and twice not in of_string
    return "string" if string_is_right and not object_is_right else "object"


def tidied(message: Message, form: Form) -> Message:
    """A message without empty keys, the arguments of its calls in the form that is asked for.

    Raises DataError for arguments that are no JSON object.
    """
    tidy = {key: value for key, value in message.items() if value is not None}
    tidy["content"] = _words(tidy.get("content", ""))
    if "tool_calls" in tidy:
        called = [_call(call, form, n) for n, call in enumerate(tidy.pop("tool_calls"), 1)]
        tidy |= {"tool_calls": called} if called else {}
    return tidy


def _words(content: Any) -> Any:
    """Parts of text are one text: a template that is not for images would print the list."""
    if not isinstance(content, (list, tuple)):
        return content
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    if not all(isinstance(text, str) for text in texts):
        raise DataError("a part of the content is not of the form {type: text, text: …}.")
    return "".join(map(str, texts))


def _call(call: Any, form: Form, n: int) -> Any:
    function = call.get("function", call) if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise DataError(f"call {n} is not of the form {{type: function, function: {{name, arguments}}}}.")
    given = function.get("arguments")
    arguments = _object(given, n)
    if form == "string":
        exact = isinstance(given, str) and given.strip()
        arguments = given if exact else json.dumps(arguments, ensure_ascii=False)
    written = {**function, "arguments": arguments}
    return {**call, "function": written} if "function" in call else written


def _object(given: Any, n: int) -> Any:
    """A call's arguments; without any, no arguments."""
    if given is None or (isinstance(given, str) and not given.strip()):
        return {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise DataError(f"the arguments of call {n} are not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise DataError(f"the arguments of call {n} must be an object, not {json.dumps(given)[:40]}.")
    return given
