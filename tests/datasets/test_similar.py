"""Groups of near texts are the connected components that comparing all pairs finds."""

from __future__ import annotations

import random

import pytest

from unforgotten.datasets.reading.similar import alike, groups, normalised, shingles


@pytest.mark.parametrize("threshold", [0.4, 0.8])
def test_groups_are_connected_components(threshold: float) -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(5)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(90)]
    texts += [text + more for text in texts[:20] for more in (" again", " again and again")]
    distinct = list(dict.fromkeys(texts))
    label = {text: i for i, text in enumerate(distinct)}
    changed = True
    while changed:  # the slow way: the lower label spreads over every near pair until nothing changes
        changed = False
        for a in distinct:
            for b in distinct:
                first, second = shingles(a), shingles(b)
                if len(first & second) / len(first | second) >= threshold - 1e-9 and label[a] > label[b]:
                    label[a], changed = label[b], True
    wanted: dict[int, list[str]] = {}
    for text in distinct:
        wanted.setdefault(label[text], []).append(text)
    assert groups(texts, threshold) == list(wanted.values())
    assert max(map(len, wanted.values())) > 1


def test_a_text_stands_once_by_its_words_as_it_first_came() -> None:
    assert groups(["Do THIS, now", "do this now!", "bake a cake"]) == [["Do THIS, now"], ["bake a cake"]]
    assert groups([]) == []


def test_near_of_a_text_holds_itself() -> None:
    text = normalised("List five tips for a calm evening")
    assert alike([text, text + " at home"]) == {text: {text}, text + " at home": {text + " at home"}}
