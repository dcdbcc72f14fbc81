"""A user's file made clean: each row in one form, `messages`, or dropped with the reason; for `data fix`.

Of preference data only what is unambiguous stays: the row whose label is true, the answer that was chosen. Rows marked
as not to be learnt, and rows with marks that cannot be honoured, are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unforgotten.datasets.reading import files, marks
from unforgotten.datasets.reading.conversation import Conversation, Wrong, conversation

_REJECTED = ("rejected", "rejected_response", "rejected_responses", "rejected_messages", "non_preferred_output")


@dataclass(frozen=True, slots=True)
class Fixed:
    """What became of a file's rows: lines to write, and what was dropped and changed, by line."""

    lines: list[str]
    dropped: list[files.Problem]
    changed: list[files.Problem]

    def sentences(self) -> list[str]:
        """The report: every line that was dropped or changed, those of one kind together."""
        said = [f"{len(self.lines):,} rows are written; {len(self.dropped):,} dropped."]
        for verb, each in (("dropped", self.dropped), ("changed", self.changed)):
            said += [f"{places(lines)} {verb}: {what}" for what, lines in _by_kind(each).items()]
        return said


def fixed(records: Iterable[files.Record], problems: Iterable[files.Problem]) -> Fixed:
    """Every record as a line of JSON Lines in the house's own form; `problems` are those of reading."""
    lines: list[str] = []
    dropped = list(problems)
    changed: list[files.Problem] = []
    for line, _, record in records:
        try:
            plain, changes = _without_preference(record)
            plain = _without_marks_on_others(plain, changes)
            talk = conversation(plain, "required")
        except Wrong as wrong:
            dropped.append((line, str(wrong).partition(f" {marks.FIX}")[0].rstrip(".;")))
            continue
        lines.append(json.dumps(_canonical(talk), ensure_ascii=False))
        changed += [(line, change) for change in dict.fromkeys([*changes, *talk.changes])]
    return Fixed(lines, sorted(dropped), changed)


def places(lines: list[int]) -> str:
    """`line 3`, or `lines 1–3, 7`."""
    ranges: list[list[int]] = []
    for line in sorted(set(lines)):
        if ranges and line == ranges[-1][1] + 1:
            ranges[-1][1] = line
        else:
            ranges.append([line, line])
    text = ", ".join(str(a) if a == b else f"{a}–{b}" for a, b in ranges)
    return f"line{'' if text.isdecimal() else 's'} {text}"


def _by_kind(problems: list[files.Problem]) -> dict[str, list[int]]:
    kinds: dict[str, list[int]] = {}
    for line, what in problems:
        kinds.setdefault(what, []).append(line)
    return kinds


def _canonical(talk: Conversation) -> dict[str, Any]:
    """The row in one form; a context turn is marked weight 0."""
    turns = [
        {**_in_order(message), **({"weight": 0} if i in talk.context_turns else {})}
        for i, message in enumerate(talk.messages)
    ]
    row: dict[str, Any] = {"messages": turns}
    for name, value in (("tools", list(talk.tools)), ("category", talk.category), ("difficulty", talk.difficulty)):
        if value:
            row[name] = value
    return row


def _in_order(message: Mapping[str, Any]) -> dict[str, Any]:
    """Role and content first. What an instruction's template reads apart (`instruction`, `input`) stays."""
    return {"role": message["role"], "content": message["content"], **message}


def _without_preference(record: Any) -> tuple[Any, list[str]]:
    """A row of preference data as what it says is to be learnt, and what was done. Raises Wrong where it says none."""
    if not isinstance(record, Mapping):
        return record, []
    marks.check_object(record)
    given = {key: value for key, value in record.items() if value not in (None, "")}
    lower = [marks.name_of(key) for key in given if isinstance(key, str)]
    if twice := next((name for name in lower if name in marks.MARKS and lower.count(name) > 1), None):
        raise Wrong(f"`{twice}` appears more than once, in different case")
    names = {marks.name_of(key): key for key in given if isinstance(key, str)}
    changes: list[str] = []
    for name in ("label", "kto_tag"):
        if name in names and marks.is_verdict(value := given[names[name]]):
            if str(value).strip().lower() == "false":
                raise Wrong(f"`{name}: false` marks it as not to be learnt")
            del given[names[name]]
            changes.append(f"`{name}: true` was left out")
    if rejected := [names[name] for name in _REJECTED if name in names]:
        if not ({"chosen", "chosen_response", "preferred_output"} & set(names) or "messages" in given):
            raise Wrong(f"`{rejected[0]}` is given without the chosen answer")
        for key in rejected:
            del given[key]
        changes.append(f"the answer under `{rejected[0]}` was left out")
    if "preferred_output" in names:
        asked = given.pop("input", None)
        asked = asked if isinstance(asked, Mapping) else {}
        given |= {"messages": [*_list(asked.get("messages")), *_list(given.pop(names["preferred_output"]))]}
        given |= {key: asked[key] for key in ("tools",) if asked.get(key)}
        changes.append("`preferred_output` became the answer")
    for name in ("chosen", "chosen_response"):
        if name in names:
            given = _chosen(given, given.pop(names[name]))
            changes.append(f"`{name}` became the answer")
    return given, changes


def _without_marks_on_others(record: Any, changes: list[str]) -> Any:
    """The row without marks that would have a turn learnt that is not the assistant's: such turns never are."""
    if not isinstance(record, Mapping):
        return record
    plain = dict(record)
    for key in ("messages", "conversations", "prompt", "completion", "history"):
        if isinstance(record.get(key), list):
            plain[key] = [_without_mark(turn, changes) for turn in record[key]]
    return plain


def _without_mark(turn: Any, changes: list[str]) -> Any:
    role = str(turn.get("role") or turn.get("from")).lower() if isinstance(turn, Mapping) else ""
    if not isinstance(turn, Mapping) or role in ("assistant", "gpt", "chatgpt", "bot", "model", "function_call"):
        return turn
    asked = [k for k, v in turn.items() if marks.name_of(k) in marks.LEARNT and v in (1, True)]
    asked += [k for k, v in turn.items() if marks.name_of(k) in marks.HIDDEN and v is False]
    changes += [f"`{key}` on a {role} turn was removed: only assistant turns are learnt" for key in asked]
    return {key: value for key, value in turn.items() if key not in asked}


def _chosen(given: dict[str, Any], chosen: Any) -> dict[str, Any]:
    """The row with the chosen answer in the place of one: a text, a turn, a whole conversation or the end of one."""
    turns = [chosen] if isinstance(chosen, Mapping) else chosen
    if any(given.get(key) for key in ("completion", "output")):
        raise Wrong("has both an answer and a chosen one")
    if isinstance(turns, list):
        asks = any(isinstance(t, Mapping) and "user" in (t.get("role"), t.get("from")) for t in turns)
        if asks:  # the whole conversation; a prompt beside it says again what it begins with
            said = [t.get("content", t.get("value")) for t in turns if isinstance(t, Mapping)]
            asked = given.get("prompt") or []
            asked = [t.get("content") for t in asked if isinstance(t, Mapping)] if isinstance(asked, list) else [asked]
            if any(text not in said for text in asked):
                raise Wrong("the prompt is not part of the chosen conversation")
            return {**{k: v for k, v in given.items() if k not in ("prompt", "messages")}, "messages": turns}
    if isinstance(given.get("messages"), list):
        answer = turns if isinstance(turns, list) else [{"role": "assistant", "content": turns}]
        return {**given, "messages": [*given["messages"], *answer]}
    if "instruction" in given and "prompt" not in given:
        if isinstance(turns, list):
            raise Wrong("the chosen answer to an instruction must be text")
        return {**given, "output": turns}
    if isinstance(given.get("conversations"), list):
        answer = turns if isinstance(turns, list) else [{"from": "gpt", "value": turns}]
        return {**given, "conversations": [*given["conversations"], *answer]}
    return {**given, "completion": turns}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
