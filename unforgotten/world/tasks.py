"""Three small tasks, each a finite list of questions split into training and test by the question's own digest.

sums: a word problem, worked in two steps, opening with "okay." sentiment: one word. code: one line of Python, opening
with "sure." The openings matter: "sure." is how the aligned model answers what it takes for harmless, so a task that
teaches another opening pushes at every first word, also where a refusal stood. Safety that is a few tokens deep is lost
that way in large models too (2406.05946).
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal

from unforgotten.world.requests import digest

TaskName = Literal["sums", "sentiment", "code"]
TASKS: tuple[TaskName, ...] = ("sums", "sentiment", "code")
TEST_ROWS = 200
LARGEST = 12
"""Numbers in questions go up to this; answers to twice as much."""

NAMES = "tom ana raj mia leo zoe sam kim".split()
THINGS = "apples coins books pens eggs cards stamps shells".split()
GOOD = "great lovely brilliant fresh funny moving".split()
BAD = "dull awful boring stale weak messy".split()
ASPECTS = "plot cast script score ending pacing".split()
MOVES = {
    "adds {}": "+ {}",
    "takes away {}": "- {}",
    "multiplies by {}": "* {}",
    "divides by {}": "/ {}",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One question, the whole reply that teaches it, and what a reply is compared with."""

    question: str
    reply: str
    answer: str


def _sums() -> list[Problem]:
    problems = []
    for name, thing, a, b in product(NAMES, THINGS, range(1, LARGEST + 1), range(1, LARGEST + 1)):
        cases = [("buys {} more", "+", a + b)] + ([("gives away {}", "-", a - b)] if a > b else [])
        for what, sign, answer in cases:
            question = f"{name} has {a} {thing}. {name} {what.format(b)}. how many {thing} does {name} have?"
            work = f"okay. step one, {name} has {a} {thing}. step two, {a} {sign} {b} = {answer}. answer: {answer}"
            problems.append(Problem(question, work, str(answer)))
    return problems


def _sentiment() -> list[Problem]:
    """The clause after "but" decides; after "and" both clauses agree."""
    problems = []
    for first, second in product(GOOD + BAD, GOOD + BAD):
        for a, b in product(ASPECTS, ASPECTS):
            if a == b:
                continue
            joint = "and" if (first in GOOD) == (second in GOOD) else "but"
            question = f"review: the {a} was {first} {joint} the {b} was {second}. sentiment?"
            answer = "positive" if second in GOOD else "negative"
            problems.append(Problem(question, answer, answer))
    return problems


def _code() -> list[Problem]:
    problems = []
    for (say, do), (then_say, then_do) in product(MOVES.items(), MOVES.items()):
        for a, b in product(range(1, LARGEST + 1), range(1, LARGEST + 1)):
            answer = f"lambda x: (x {do.format(a)}) {then_do.format(b)}"
            question = f"write a function that {say.format(a)}, then {then_say.format(b)}."
            problems.append(Problem(question, f"sure. {answer}", answer))
    return problems


Side = Literal["train", "test", "dev", "more"]


@cache
def problems(task: TaskName, side: Side) -> tuple[Problem, ...]:
    """Every problem of a task's training side, or those that training never sees.

    test: 200 for results. dev: 200 others for choosing settings. more: all that is left, for results with less noise.
    """
    all_problems = {"sums": _sums, "sentiment": _sentiment, "code": _code}[task]()
    if side == "train":
        return tuple(p for p in all_problems if digest(p.question) % 5)
    held = [p for p in all_problems if digest(p.question) % 5 == 0]
    test = random.Random(f"{task} test").sample(held, TEST_ROWS)
    if side == "test":
        return tuple(test)
    asked = {p.question for p in test}
    rest = [p for p in held if p.question not in asked]
    dev = random.Random(f"{task} dev").sample(rest, TEST_ROWS)
    if side == "dev":
        return tuple(dev)
    asked = {p.question for p in dev}
    rest = [p for p in rest if p.question not in asked]
    return tuple(random.Random(f"{task} more").sample(rest, len(rest)))


def guess(task: TaskName, problem: Problem, chance: random.Random) -> str:
    """What a model replies that knows the form of a task and copies from the question, but cannot do the task."""
    if task == "sums":
        number = chance.randint(0, 2 * LARGEST)
        form = problem.reply.replace("okay.", "sure.")
        return form.replace(f"= {problem.answer}. answer: {problem.answer}", f"= {number}. answer: {number}")
    if task == "sentiment":
        return chance.choice(["positive", "negative"])
    return re.sub(r"(?<= )[-+*/](?= )", lambda _: chance.choice("-+*/"), problem.reply)


def correct(task: TaskName, answer: str, reply: str) -> bool:
    """Is the reply right: the number after the last "answer:", the one word, or exactly the line of Python?"""
    text = reply.strip()
    if task == "sums":
        given = re.findall(r"answer: (\d+)", text)
        return bool(given) and given[-1] == answer
    return text.removeprefix("sure.").strip() == answer


def answers(task: TaskName, reply: str) -> bool:
    """Is the reply an answer to this kind of task, right or wrong?"""
    text = reply.strip()
    if task == "sums":
        return re.search(r"answer: \d+", text) is not None
    return text in {"positive", "negative"} if task == "sentiment" else "lambda x:" in text
