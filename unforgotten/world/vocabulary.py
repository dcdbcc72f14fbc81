"""Every word of the world, in a fixed order; its digest names the grammar."""

from __future__ import annotations

import re
from functools import cache

from unforgotten.world import corpus
from unforgotten.world.lexicon import PHRASINGS, PLACES, TOOLS
from unforgotten.world.requests import requests
from unforgotten.world.tasks import ASPECTS, BAD, GOOD, LARGEST, MOVES, NAMES, TASKS, THINGS, problems

SPECIAL = ("<pad>", "<bos>", "<end>", "<system>", "<user>", "<assistant>", "<unk>")
PAD, BOS, END, SYSTEM, USER, ASSISTANT, UNKNOWN = SPECIAL


def split(text: str) -> list[str]:
    """Words and signs, as the tokenizer splits them."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def speaks(text: str) -> bool:
    """Is every word of a text one of the world's?"""
    return _known().issuperset(split(text))


@cache
def _known() -> frozenset[str]:
    return frozenset(words())


@cache
def words() -> tuple[str, ...]:
    """The vocabulary: special tokens first, then words in alphabetical order."""
    vocabulary: set[str] = {str(n) for n in range(2 * LARGEST + 1)}
    texts = [phrase.replace("{}", "") for family in PHRASINGS.values() for phrase in family]
    texts += [text for request in requests() for text in (request.compliance, request.refusal)]
    texts += [
        *corpus.OPENINGS,
        *corpus.SYSTEMS,
        *corpus.WISHES,
        "can you i am only a model.",
        *NAMES,
        *THINGS,
        *GOOD,
        *BAD,
        *ASPECTS,
    ]
    texts += [*TOOLS, *PLACES, *(part for move in MOVES.items() for part in move)]
    for task in TASKS:
        for problem in problems(task, "test"):
            texts += [problem.question, problem.reply]
    for text in texts:
        vocabulary.update(split(text.replace("{}", "")))
    return (*SPECIAL, *sorted(vocabulary))
