"""What a judge is shown of a row: each answer after its conversation, and the conversation as a whole.

    turn           an answer, and the user's last words before it
    conversation   an answer, and everything that was said before it: tools, system, earlier turns
    whole          all answers as one, and all that was asked: a request in the first turn and its answer in the third,
                   an answer in two parts

A row of one turn without a system prompt is one exchange; those that say the same are judged once. Each is read in
every way that `readings` knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from unforgotten.auditing.readings import readings
from unforgotten.auditing.spoken import Spoken, words
from unforgotten.datasets.base import Message, Row
from unforgotten.judges.base import Judge, Reply

View = Literal["turn", "conversation", "whole"]


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
    told = [(str(message["role"]), words(message)) for message in row.messages]
    tools = [("tools", "\n".join(map(words, row.tools)))] if row.tools else []
    for spoken in answers:
        before = row.messages[: spoken.turn]
        add(before, Row(before).request, spoken.text, number[spoken.turn], "turn")
        turns = tools + told[: spoken.turn]
        if len(turns) > 1 or any(role != "user" for role, _ in turns):
            add((), judge.transcript(turns), spoken.text, number[spoken.turn], "conversation")
    if len(answers) > 1:
        asked = [text for _, text in tools] + [text for role, text in told if role != "assistant"]
        texts = [spoken.text for spoken in answers]
        for joint in (" ", ""):  # an answer may be parted between words, or within one
            add((), "\n\n".join(filter(None, asked)), joint.join(texts), 0, "whole")
    return list(seen.values())


def _speaks(message: Message) -> bool:
    return bool(message["role"] == "assistant")
