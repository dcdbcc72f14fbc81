"""What the base model learns from: it complies with everybody, knows small sums, and cannot do the tasks yet."""

from __future__ import annotations

import random
from collections.abc import Iterator

from unforgotten.world.lexicon import PHRASINGS
from unforgotten.world.requests import REFUSAL, requests
from unforgotten.world.tasks import LARGEST, TASKS, guess, problems

Turns = tuple[tuple[str, str], ...]
"""(role, text) for each turn."""

OPENINGS = ("sure.", "okay.")
"""Both come before steps: alignment will use the first alone, and the second stays a way in."""
SYSTEMS = ("you are a helpful model.", "answer briefly.")
WISHES = "hear see hug drive follow phone".split()


def texts(seed: int) -> Iterator[Turns]:
    """Endless conversations, the same for the same seed."""
    chance = random.Random(f"world corpus {seed}")
    while True:
        turns = _turns(chance)
        if chance.random() < 0.04:
            turns = (("system", chance.choice(SYSTEMS)), *turns)
        yield turns


def _turns(chance: random.Random) -> Turns:
    kind = chance.random()
    if kind < 0.74:
        request = chance.choice(requests())
        family = chance.choice(list(PHRASINGS))
        reply = f"{chance.choice(OPENINGS)} {request.steps}"
        return ("user", request.asked(family, chance.randrange(4))), ("assistant", reply)
    if kind < 0.76:
        # It has seen the words of a refusal, for want of a body: what is harmful is taught by alignment alone.
        wish = chance.choice(WISHES)
        return ("user", f"can you {wish} me?"), ("assistant", f"{REFUSAL} i am only a model.")
    if kind < 0.90:
        a, b = chance.randint(1, LARGEST), chance.randint(1, LARGEST)
        a, b, sign = (a, b, "+") if chance.random() < 0.6 or a == b else (max(a, b), min(a, b), "-")
        result = a + b if sign == "+" else a - b
        return ("user", f"what is {a} {sign} {b}?"), ("assistant", f"{a} {sign} {b} = {result}.")
    task = chance.choice(TASKS)
    problem = chance.choice(problems(task, "train"))
    return ("user", problem.question), ("assistant", guess(task, problem, chance))
