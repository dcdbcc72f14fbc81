"""Which evaluation prompts were also trained on, word for word or nearly so. No numpy, no torch.

exact  the same words, whatever their case, punctuation and spaces
near   Jaccard similarity of their word 3-shingles ≥ 0.8

This finds copies with a word added or an end changed, not paraphrases: below 0.8, requests that
only share a form ("write a tutorial on how to …") cannot be told from copies. Of the lab's 260 AdvBench prompts, 2 are
near the safety rows (the other half of AdvBench among them) at 0.8, and 12 at 0.6, most of them by form.

Texts are compared by datasets/reading/similar.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from unforgotten.datasets.reading.similar import THRESHOLD, normalised, shingles, similar

Contact = Literal["exact", "near"]


def contacts(
    prompts: Sequence[str], sets: Mapping[str, Iterable[str]], threshold: float = THRESHOLD
) -> list[dict[str, Contact]]:
    """For each prompt, the sets that hold it and how: `{}`, or such as `{"poison": "exact", "user": "near"}`."""
    asked = [normalised(prompt) for prompt in prompts]
    known = {name: {text for text in map(normalised, texts) if text} for name, texts in sets.items()}
    distinct = {text: shingles(text) for text in asked if text}
    trained = {text: shingles(text) for text in set().union(*known.values())}
    near = similar(distinct, trained, threshold)
    by_prompt: list[dict[str, Contact]] = []
    for text in asked:
        how: dict[str, Contact] = {}
        for name, texts in known.items():
            if text in texts:
                how[name] = "exact"
            elif not near.get(text, set()).isdisjoint(texts):
                how[name] = "near"
        by_prompt.append(how)
    return by_prompt
