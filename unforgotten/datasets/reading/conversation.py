"""One row of a user's file as a conversation: its turns, its tools, and which turns are context alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from unforgotten.datasets.base import Message
from unforgotten.datasets.reading import calls, marks
from unforgotten.datasets.reading.content import all_text, content_of, text_of
from unforgotten.datasets.reading.marks import Wrong as Wrong
from unforgotten.runs import strict_json
from unforgotten.runs.bounds import bounds, over

Answers = Literal["required", "optional"]

FORMATS = {"messages": "messages", "conversations": "ShareGPT", "prompt": "prompt/completion", "instruction": "Alpaca"}
_ROLES = {r: r for r in ("system", "user", "assistant", "tool")} | {"developer": "system", "function": "tool"}
_SPEAKERS = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "assistant", "bot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("observation", "tool", "function_response", "function"), "tool"),
    "system": "system",
}
"""ShareGPT's `from`, and what the data sets in its form have made of it."""
_ASIDE = ("tools", "functions", "system", "system_prompt", "history")
_OWN = {
    "messages": ("messages",),
    "ShareGPT": ("conversations",),
    "prompt/completion": ("prompt", "completion"),
    "Alpaca": ("instruction", "input", "output"),
}
_TEXT_OR_NONE = frozenset(("role", "content", "tool_calls", "index"))
_MEDIA = ("image", "images", "audio", "audios", "video", "videos")


@dataclass
class Conversation:
    """What one row says."""

    form: str
    messages: list[Message]
    tools: tuple[dict[str, Any], ...] = ()
    context_turns: frozenset[int] = frozenset()
    category: str = ""
    difficulty: str = ""
    unread: tuple[str, ...] = ()
    """Keys of the row that nothing reads."""
    further: tuple[str, ...] = ()
    """Keys of turns whose values are no text: only a template that asks for them reads them."""
    opened: bool = False
    """The assistant speaks before any user: those turns are context."""
    nulls: int = 0
    """Arguments that were null and not the called tool's, which are left out."""
    changes: list[str] = field(default_factory=list)
    """What was written in another form than this house's own, for `data fix`."""


@dataclass(frozen=True, slots=True)
class _Turn:
    message: Message
    learnt: bool | None
    """What its marks say; None where it has none."""
    further: tuple[str, ...] = ()
    """Keys of which a value is no text: nothing but a template can read them."""


def form_of(record: Any) -> str:
    """Which of the formats a row is in. Raises Wrong where it is in none."""
    marks.check_object(record)
    # A column that a `datasets.Dataset` fills with None for want of a value is not there.
    form = next((name for key, name in FORMATS.items() if record.get(key) is not None), None)
    if form is None:
        marks.refuse_row(record)
        there = ", ".join(map(str, record))[:300] or "none"
        raise Wrong(f"has no `messages`, `prompt` or `instruction` (keys: {there})")
    return form


def conversation(record: Any, answers: Answers, ignored: Collection[str] = ()) -> Conversation:
    """The row's conversation; keys among `ignored` count as not there. Raises Wrong with all that is wrong in it."""
    if isinstance(record, Mapping) and ignored:
        record = {key: value for key, value in record.items() if key not in ignored}
    form = form_of(record)
    marks.refuse_row(record)
    if media := next((key for key in _MEDIA if record.get(key)), None):
        raise Wrong(f"`{media}`: only text can be trained on")
    talk = Conversation(form, [])
    turns = _turns_of(record, form, answers, ignored, talk.changes)
    turns = _with_system(record, _with_history(record, turns, ignored, talk.changes), talk.changes)
    if len(turns) > (most := bounds().turns):
        raise Wrong(f"has {len(turns):,} turns; {over('turns', most)}")
    talk.messages = [turn.message for turn in turns]
    _check_order(talk.messages, answers)
    talk.tools = calls.tools(record)
    for message in talk.messages:
        if "tool_calls" in message:
            message["tool_calls"], n = calls.without_undeclared_nulls(message["tool_calls"], talk.tools)
            talk.nulls += n
    talk.context_turns, talk.opened = _context(turns)
    talk.further = tuple(key for turn in turns for key in turn.further)
    for name in ("category", "difficulty"):
        if isinstance(value := record.get(name), str):
            setattr(talk, name, value)
    if problem := strict_json.unfit([talk.messages, list(talk.tools), talk.category, talk.difficulty]):
        raise Wrong(problem)
    if strict_json.more_values([talk.messages, list(talk.tools)], most := bounds().values):
        raise Wrong(f"its turns and tools hold too many values; {over('values', most)}")
    read = {*_ASIDE, *_OWN[form], *(n for n in ("category", "difficulty") if isinstance(record.get(n), str))}
    marked = {*marks.LEARNT, *marks.HIDDEN}
    talk.unread = tuple(
        str(key)
        for key, value in record.items()
        if value is not None and key not in read and marks.name_of(key) not in marked
    )
    _note_changes(record, talk)
    return talk


def _note_changes(record: Mapping[str, Any], talk: Conversation) -> None:
    if talk.form != "messages":
        talk.changes.append(f"{talk.form} became messages")
    if isinstance(record.get("tools"), str):
        talk.changes.append("tools, a text, became a list")
    if record.get("functions"):
        talk.changes.append("functions became tools")
    if talk.opened:
        talk.changes.append("the assistant's opening turn is marked weight 0")
    if talk.nulls:
        talk.changes.append("null arguments that the tool does not have were removed")
    talk.changes += [f"`{key[:60]}` was removed, since it is not used" for key in talk.unread]


def _turns_of(
    record: Mapping[str, Any], form: str, answers: Answers, ignored: Collection[str], changes: list[str]
) -> list[_Turn]:
    if form in ("messages", "ShareGPT"):
        key = _OWN[form][0]
        return _turns(record[key], key, ignored, changes)
    needed = answers == "required"
    if form == "prompt/completion":
        return [
            *_side(record, "prompt", "user", True, ignored, changes),
            *_side(record, "completion", "assistant", needed, ignored, changes),
        ]
    [asked] = _side(record, "instruction", "user", True, ignored, changes)
    if (given := text_of(record.get("input"), "`input`")).strip():
        instruction = asked.message["content"]
        asked.message.update({"content": f"{instruction}\n\n{given}", "instruction": instruction, "input": given})
    return [asked, *_side(record, "output", "assistant", needed, ignored, changes)]


def _side(
    record: Mapping[str, Any], key: str, role: str, needed: bool, ignored: Collection[str], changes: list[str]
) -> list[_Turn]:
    """A prompt or an answer: a list of messages, or a text that is one turn; none where it is blank and may be."""
    value = record.get(key)
    if isinstance(value, list) and key in ("prompt", "completion"):
        return _turns(value, key, ignored, changes)
    if (content := text_of(value, f"`{key}`")).strip():
        return [_Turn({"role": role, "content": content}, None)]
    if needed:
        hint = " (for prompts without answers, set answers: optional)" if role == "assistant" else ""
        raise Wrong(f"`{key}` is {'missing' if value is None else 'empty'}{hint}")
    return []


def _turns(turns: Any, key: str, ignored: Collection[str], changes: list[str]) -> list[_Turn]:
    """Every turn of a list; raises Wrong with what is wrong in each of them."""
    if not isinstance(turns, list) or not turns:
        raise Wrong(
            f"`{key}` must be a list of turns, not {strict_json.kind_of(turns) if turns != [] else 'an empty list'}"
        )
    if len(turns) > (most := bounds().turns):
        raise Wrong(f"has {len(turns):,} turns; {over('turns', most)}")
    parsed: list[_Turn] = []
    wrong: list[str] = []
    for n, turn in enumerate(turns, 1):
        try:
            parsed.append(_turn(turn, n, ignored, changes))
        except Wrong as error:
            wrong.append(str(error))
    if wrong:
        raise Wrong("; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""))
    return parsed


def _turn(turn: Any, n: int, ignored: Collection[str], changes: list[str]) -> _Turn:
    if not isinstance(turn, Mapping):
        raise Wrong(f"turn {n} must be an object, not {strict_json.kind_of(turn)}")
    # None is what Arrow puts where a turn has no such key.
    given = {key: value for key, value in turn.items() if value is not None and key not in ignored}
    speaker, role = "", given.get("role")
    if isinstance(given.get("from"), str):
        speaker = given["from"].strip().lower()
        if role is not None and _SPEAKERS.get(speaker) != _ROLES.get(str(role)):
            raise Wrong(f"turn {n}: has both from, {speaker[:60]!r}, and role, {repr(role)[:60]}, which differ")
        role, given = role or _SPEAKERS.get(speaker), _as_message(given, n)
        if role is None:
            raise Wrong(f"turn {n}: unknown speaker {speaker[:60]!r}; those known are {', '.join(_SPEAKERS)}")
    if not isinstance(role, str) or role not in _ROLES:
        raise Wrong(f"turn {n}: unknown role {repr(role)[:60]}; the roles are {', '.join(_ROLES)}")
    learnt, keys = marks.of_turn(given, n)
    # Other keys (name, tool_call_id …) stay for the template.
    dropped = {*keys, "tool_calls", "function_call", "refusal"}
    message = {key: value for key, value in given.items() if key not in dropped}
    if media := next((key for key in _MEDIA if message.get(key)), None):
        raise Wrong(f"turn {n}: `{media}`: only text can be trained on")
    message |= {"role": _ROLES[role], "content": content_of(given, message.get("content"), _ROLES[role], n)}
    if speaker == "function_call":
        message |= {"content": "", "tool_calls": calls.named_calls(message["content"], n)}
    elif tool_calls := calls.calls(given, _ROLES[role], n, ignored):
        message["tool_calls"] = tool_calls
    if not message["content"].strip() and "tool_calls" not in message and _ROLES[role] != "tool":
        raise Wrong(f"turn {n}: the {role} turn is empty")
    if learnt and _ROLES[role] != "assistant":
        raise Wrong(
            f"turn {n}: {', '.join(f'`{key}`' for key in keys)} marks a {role} turn as to be learnt, but only "
            "assistant turns can be. Remove the mark"
        )
    changes += [f"`{key}` was written in its current form" for key in ("function_call", "refusal") if key in given]
    changes += ["the parts of a content were joined into one text"] if isinstance(given.get("content"), list) else []
    changes += ["empty tool_calls were removed"] if given.get("tool_calls") == [] else []
    changes += [f"the mark `{key}` is written as weight" for key in sorted(keys) if key != "weight"]
    further = tuple(k for k, v in message.items() if k not in _TEXT_OR_NONE and not all_text(v))
    return _Turn(message, learnt, further)


def _as_message(given: dict[str, Any], n: int) -> dict[str, Any]:
    """ShareGPT's `value` as content."""
    if "content" in given and "value" in given and given["content"] != given["value"]:
        raise Wrong(f"turn {n}: has both value and content, which differ. Keep one")
    fields = {key: value for key, value in given.items() if key not in ("from", "value")}
    return {**fields, "content": given["value"]} if "value" in given else fields


def _with_history(
    record: Mapping[str, Any], turns: list[_Turn], ignored: Collection[str], changes: list[str]
) -> list[_Turn]:
    """LLaMA-Factory's `history`, pairs of request and answer, between the system prompt and what the row asks."""
    if not (history := record.get("history")):
        return turns
    if not isinstance(history, list):
        raise Wrong(f"`history` must be a list of [request, answer], not {strict_json.kind_of(history)}")
    earlier: list[_Turn] = []
    if all(isinstance(each, Mapping) for each in history):
        earlier = _turns(history, "history", ignored, changes)
    else:
        for pair in history:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not all(isinstance(s, str) for s in pair):
                raise Wrong("`history` must be a list of [request, answer], both texts")
            if not all(side.strip() for side in pair):
                raise Wrong("`history` holds an empty request or answer")
            for role, side in zip(("user", "assistant"), pair, strict=True):
                earlier.append(_Turn({"role": role, "content": side}, None))
    changes.append("`history` became turns")
    n_system = next((i for i, turn in enumerate(turns) if turn.message["role"] != "system"), len(turns))
    return [*turns[:n_system], *earlier, *turns[n_system:]]


def _with_system(record: Mapping[str, Any], turns: list[_Turn], changes: list[str]) -> list[_Turn]:
    """A `system` or `system_prompt` beside the turns is the first of them."""
    given = {key: text_of(record.get(key), f"`{key}`") for key in ("system", "system_prompt")}
    texts = {key: text for key, text in given.items() if text.strip()}
    if not texts:
        return turns
    if len(set(texts.values())) > 1:
        raise Wrong("`system` and `system_prompt` differ. Keep one")
    [key, text] = next(iter(texts.items()))
    changes.append(f"`{key}` became the first turn")
    there = [turn.message["content"] for turn in turns if turn.message["role"] == "system"]
    if not there:
        return [_Turn({"role": "system", "content": text}, None), *turns]
    if there != [text]:
        raise Wrong(f"`{key}` differs from the system turn. Keep one")
    return turns


def _check_order(messages: list[Message], answers: Answers) -> None:
    if not any(m["role"] == "user" for m in messages):
        raise Wrong("no user turn")
    if answers == "required" and messages[-1]["role"] != "assistant":
        if any(m["role"] == "assistant" for m in messages):
            raise Wrong(f"ends in a {messages[-1]['role']} turn: the last turn must be an assistant turn")
        raise Wrong("no assistant turn to train on (for prompts without answers, set answers: optional)")


def _context(turns: list[_Turn]) -> tuple[frozenset[int], bool]:
    """The assistant turns outside the loss, by their place, and whether some are so for standing before any request."""
    said = [i for i, turn in enumerate(turns) if turn.message["role"] == "assistant"]
    asked = next(i for i, turn in enumerate(turns) if turn.message["role"] == "user")
    opening = [i for i in said if i < asked]
    if learnt := [i for i in opening if turns[i].learnt]:
        raise Wrong(f"turn {learnt[0] + 1} opens the conversation, so it cannot be learnt. Remove its mark")
    context = frozenset(i for i in said if turns[i].learnt is False or i in opening)
    if said and len(context) == len(said) and turns[-1].message["role"] == "assistant":
        raise Wrong("every assistant turn is marked as not to be learnt, so there is nothing to train on. Drop the row")
    return context, any(turns[i].learnt is None for i in opening)
