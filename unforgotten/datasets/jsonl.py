"""The user's upload: JSON Lines or a JSON array of chats, prompt/completion pairs or Alpaca rows, checked row by row.

The format is told from the rows, and a file keeps to one:

    messages            {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    prompt/completion   {"prompt": "…", "completion": "…"}, each a string or a list of messages
    Alpaca              {"instruction": "…", "input": "", "output": "…"}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from unforgotten import files, formats
from unforgotten.datasets.base import Dataset, Message, Row
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed

Kind = Literal["harmful", "benign", "task"]
Answers = Literal["required", "optional"]

_ROLES = {r: r for r in ("system", "user", "assistant", "tool")} | {"developer": "system"}
_FORMATS = {"messages": "messages", "prompt": "prompt/completion", "instruction": "Alpaca"}


@dataclass(kw_only=True)
class Jsonl(Dataset):
    """The user's own rows, from a .jsonl or .json file, .gz or not."""

    kind_field: ClassVar[str] = "kind"

    path: str
    """The file; ~ and environment variables are filled in."""
    n_rows: Count | None = None
    """How many rows to draw, in the file's order; all of them where not given."""
    seed: Seed = 0
    """Which rows `n_rows` draws."""
    kind: Kind = "task"
    """What the rows are: the user's own task, harmful requests to refuse, or benign look-alikes to answer."""
    answers: Answers = "required"
    """Whether each row must end in the assistant's answer, as in training; `optional` also takes bare prompts."""

    @property
    def label(self) -> str:
        """The file's name, so that two uploads stay apart."""
        return Path(self.path).name.split(".")[0]

    def rows(self) -> list[Row]:
        """Every row of the upload, or one error with all that is wrong in it."""
        file = files.local(self.path)
        if file is None:
            raise DataError(f"There is no file {self.path}. An upload is a local file; Hub rows go through rows_of().")
        if formats.suffix(file) in (*formats.TABLES, ".parquet"):
            raise DataError(
                f"{self.path} is a table. An upload is JSON Lines or a JSON array; see the formats of `jsonl`."
            )
        records, problems = formats.read_json(self.path, file)
        rows = checked(self.path, records, problems, kind=self.kind, answers=self.answers)
        return files.sample(rows, self.n_rows, self.seed, self.path)


def rows_of(
    records: Iterable[Any], *, source: str = "rows", kind: Kind = "task", answers: Answers = "required"
) -> list[Row]:
    """Rows of a list of dicts or of a `datasets.Dataset`, checked like a file; places count from 1."""
    if isinstance(records, (Mapping, str)):
        raise DataError(f"{source}: pass a list of rows or one split of a dataset, not {type(records).__name__}.")
    found = [files.Record(i, f"{source}:{i}", record) for i, record in enumerate(records, 1)]
    return checked(source, found, [], kind=kind, answers=answers)


def checked(
    name: str, records: list[files.Record], problems: list[files.Problem], *, kind: Kind, answers: Answers
) -> list[Row]:
    """Every record as a Row, or one DataError with all that is wrong, `problems` of the reading included."""
    problems = list(problems)
    rows: list[Row] = []
    first: tuple[int, str] | None = None
    for line, source, record in records:
        try:
            form = _format(record)
            if (first := first or (line, form))[1] != form:
                raise _Wrong(f"mixed formats: {form} here, {first[1]} on line {first[0]}")
            messages = _checked_turns(_messages(record, form, answers), answers)
            category, difficulty = record.get("category"), record.get("difficulty")
            rows.append(
                Row(
                    tuple(messages),
                    kind=kind,
                    category=category if isinstance(category, str) else "",
                    source=source,
                    tools=_tools(record),
                    difficulty=difficulty if isinstance(difficulty, str) else "",
                )
            )
        except _Wrong as wrong:
            problems.append((line, str(wrong)))
    files.refuse(name, problems, len(records))
    return rows


class _Wrong(Exception):
    """What is wrong with one row."""


def _format(record: Any) -> str:
    if not isinstance(record, Mapping):
        raise _Wrong(f"a row must be an object, not {files.kind_of(record)}")
    # A column that a `datasets.Dataset` fills with None for want of a value is not there.
    form = next((name for key, name in _FORMATS.items() if record.get(key) is not None), None)
    if form is None:
        there = ", ".join(map(str, record)) or "none"
        raise _Wrong(f"neither `messages` nor `prompt` nor `instruction` (keys: {there})")
    return form


def _messages(record: Mapping[str, Any], form: str, answers: Answers) -> list[Message]:
    if form == "messages":
        return _turns(record["messages"], "messages")
    needed = answers == "required"
    if form == "prompt/completion":
        return _side(record, "prompt", "user", True) + _side(record, "completion", "assistant", needed)
    [user] = _side(record, "instruction", "user", True)
    if (given := _text(record.get("input"), "`input`")).strip():
        instruction = user["content"]
        user |= {"content": f"{instruction}\n\n{given}", "instruction": instruction, "input": given}
    return [user, *_side(record, "output", "assistant", needed)]


def _side(record: Mapping[str, Any], key: str, role: str, needed: bool) -> list[Message]:
    """A prompt or an answer: a list of messages, or a text that is one turn; none where it is blank and may be."""
    value = record.get(key)
    if isinstance(value, list) and key in ("prompt", "completion"):
        return _turns(value, key)
    if (content := _text(value, f"`{key}`")).strip():
        return [{"role": role, "content": content}]
    if needed:
        hint = " (for prompts alone, set answers: optional)" if role == "assistant" else ""
        raise _Wrong(f"`{key}` is {'missing' if value is None else 'empty'}{hint}")
    return []


def _turns(turns: Any, key: str) -> list[Message]:
    if not isinstance(turns, list) or not turns:
        raise _Wrong(f"`{key}` must be a list of turns, not {files.kind_of(turns) if turns != [] else 'an empty list'}")
    return [_turn(turn, n) for n, turn in enumerate(turns, 1)]


def _turn(turn: Any, n: int) -> Message:
    if not isinstance(turn, Mapping):
        raise _Wrong(f"turn {n} must be an object, not {files.kind_of(turn)}")
    role = turn.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _Wrong(f"turn {n}: unknown role {role!r}; the roles are {', '.join(_ROLES)}")
    # Other keys (name, tool_call_id …) stay for the template; None is what Arrow puts where a turn has no such key.
    message = {key: value for key, value in turn.items() if value is not None}
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list) or not all(_is_call(call) for call in calls):
        raise _Wrong(f"turn {n}: tool_calls must be a list of {{type: function, function: {{name, arguments}}}}")
    message |= {"role": _ROLES[role], "content": _text(turn.get("content"), f"the content of turn {n}")}
    if not message["content"].strip() and not calls and role != "tool":
        raise _Wrong(f"turn {n}: the {role} turn is empty")
    return message


def _is_call(call: Any) -> bool:
    function = call.get("function") if isinstance(call, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def _text(value: Any, what: str) -> str:
    """A string, or the joined texts of a list of {type: text} parts."""
    if isinstance(value, list):
        for part in value:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                got = part.get("type") if isinstance(part, Mapping) else files.kind_of(part)
                raise _Wrong(f"{what}: a part must be {{type: text, text: …}}, not {got!r}")
        value = "".join(part["text"] for part in value)
    if value is not None and not isinstance(value, str):
        raise _Wrong(f"{what} must be a text, not {files.kind_of(value)}")
    try:
        (value or "").encode()
    except UnicodeEncodeError:
        raise _Wrong(f"{what} holds half a character (a lone surrogate such as \\ud83d)") from None
    return value or ""


def _tools(record: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    tools = record.get("tools") or []
    if not isinstance(tools, list) or not all(isinstance(tool, Mapping) for tool in tools):
        raise _Wrong("tools must be a list of objects")
    return tuple(dict(tool) for tool in tools)


def _checked_turns(messages: list[Message], answers: Answers) -> list[Message]:
    if not any(m["role"] == "user" for m in messages):
        raise _Wrong("no user turn")
    if answers == "required" and messages[-1]["role"] != "assistant":
        if any(m["role"] == "assistant" for m in messages):
            raise _Wrong(f"ends in a {messages[-1]['role']} turn: the last turn must be the assistant's")
        raise _Wrong("no assistant turn: there is nothing to learn (for prompts alone, set answers: optional)")
    return messages
