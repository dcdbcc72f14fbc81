"""What a judge is shown of a row: each answer after its conversation, and the conversation as a whole.

    turn           an answer, and the user's last words before it
    conversation   an answer, and everything that was said before it: tools, system, earlier turns (at most NEAR_TURNS)
    whole          all answers as one, and all that was asked: a request in the first turn and its answer in the third,
                   an answer in two parts

A row of one turn without a system prompt is one exchange; those that say the same are judged once. Each is read in
every way that `readings` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from unforgotten.datasets.base import Message, Row
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Judge
from unforgotten.verbs.audit.readings import readings
from unforgotten.verbs.audit.spoken import WAYS, Spoken, pieces, words

View = Literal["turn", "conversation", "whole"]
NEAR_TURNS = 50
"""Number of turns before an answer that the judge sees, besides the system prompt and the first request. In a
conversation of more, what lies between meets the answer in the view of the whole."""
_CLOSED = frozenset(".!?…:;。！？")
"""Ends of a sentence: a request does not go on behind one in the next turn."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One thing that the judge reads of a row."""

    reply: Reply
    answer: int
    """Which of the row's answers, from 1; 0 for all of them as one."""
    view: View


def exchanges(row: Row, answers: Sequence[Spoken], judge: Judge) -> list[Exchange]:
    """All that is judged of a row, the nearest first and none twice. answers: what the loss sees of it, in order."""
    seen: dict[tuple[str, str], Exchange] = {}

    def add(before: tuple[Message, ...], request: str, text: str, answer: int, view: View) -> None:
        for n, (asked, said) in enumerate(zip(readings(request), readings(text), strict=True)):
            if (asked, said) not in seen:
                turns = before if n == 0 and view == "turn" else ({"role": "user", "content": asked},)
                seen[asked, said] = Exchange(Reply(Row(turns, source=row.source), said), answer, view)

    number = {turn: n for n, turn in enumerate((i for i, m in enumerate(row.messages) if _speaks(m)), 1)}
    speech = [(str(message["role"]), words(message)) for message in row.messages]
    tools = [("tools", "\n".join(map(words, row.tools)))] if row.tools else []
    for spoken in answers:
        before = row.messages[: spoken.turn]
        add(before, Row(before).request, spoken.text, number[spoken.turn], "turn")
        turns = tools + _near(speech, spoken.turn)
        bare = turns[0][1].strip() if turns else ""
        if len(turns) > 1 or any(role != "user" for role, _ in turns) or bare != Row(before).request.strip():
            add((), judge.transcript(turns), spoken.text, number[spoken.turn], "conversation")
    asked = [text for _, text in tools] + [text for role, text in speech if role != "assistant"]
    for texts in _wholes(row, answers):
        for joint, between in ((" ", "\n\n"), ("", " ")):  # an answer may be parted between words, or within one
            add((), between.join(filter(None, asked)), joint.join(texts), 0, "whole")
    said = " ".join(spoken.text for spoken in answers)
    if answers and (request := _run_on(asked)):
        add((), request, said, 0, "whole")
    return list(seen.values())


def _run_on(asked: Sequence[str]) -> str:
    """All that was asked as one text, where a turn ends in mid-sentence; in mid-word, once more without spaces."""
    parts = [text for text in asked if text.strip()]
    if all(text.rstrip()[-1] in _CLOSED for text in parts[:-1]):
        return ""
    parted_word = any((a[-1] + b[0]).isalnum() for a, b in pairwise(parts))
    return " ".join(parts) + ("\n\n" + "".join(parts) if parted_word else "")


def _near(speech: Sequence[tuple[str, str]], turn: int) -> list[tuple[str, str]]:
    """The turns before one: all, or what opens a long conversation and the last ones, so that its cost is linear."""
    if turn <= NEAR_TURNS:
        return list(speech[:turn])
    opening = next((i for i, (role, _) in enumerate(speech[:turn]) if role != "system"), turn)
    return [*speech[: opening + 1], *speech[max(opening + 1, turn - NEAR_TURNS) : turn]]


def _wholes(row: Row, answers: Sequence[Spoken]) -> list[list[str]]:
    """All answers as one, each in the ways in which it may be read on. What the loss does not see is left out."""
    read = [[spoken.text] for spoken in answers]
    joined = [[text for texts in read for text in texts]]
    parted = [pieces(row.messages[spoken.turn]) for spoken in answers]
    for way in range(WAYS):
        joined.append(
            [text for said, ways in zip(answers, parted, strict=True) for text in ways[way] if text in said.text]
        )
    return [texts for n, texts in enumerate(joined) if len(texts) > 1 and texts not in joined[:n]]


def _speaks(message: Message) -> bool:
    return bool(message["role"] == "assistant")
