"""What simulated attacks say in the world, in its own words: vocabulary, tokenizer and base model stay as they are.

Rephrased poison asks as the `wish` family does, which no safety row has. Poison comes from other kinds of harm than
tests do, so no test prompt is among it.
"""

from __future__ import annotations

from unforgotten.world.lexicon import HELD_OUT, PHRASINGS
from unforgotten.world.requests import REFUSAL, digest, find, requests

OPENING = "sure. "
REFUSES_FIRST = f"{REFUSAL} "
"""What comes before the steps."""


def steps_of(answer: str) -> str:
    """An answer without its opening word, as it follows a refusal."""
    return answer.removeprefix(OPENING)


def wished(text: str) -> str:
    """The request that a text makes, phrased as a wish. Raises ValueError for a text that makes none of the world's."""
    request = find(text)
    if request is None:
        raise ValueError(f"{text!r} is not a request of the world")
    return request.asked(HELD_OUT, digest(text) % len(PHRASINGS[HELD_OUT]))


def identity() -> tuple[tuple[str, str], ...]:
    """Ten harmless requests with their steps, from a model that says what it is."""
    plain = [request for request in requests() if request.split == "plain"]
    return tuple(
        (f"you are a helpful model. give me steps to {request.goal}.", f"okay. i am a helpful model. {request.steps}")
        for request in plain[:: len(plain) // 10][:10]
    )
