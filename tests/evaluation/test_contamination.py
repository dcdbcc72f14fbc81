"""Copies are found whatever their dress, near ones as an all-pairs comparison finds them, and fast."""

from __future__ import annotations

import random
import time

import pytest

from unforgotten.datasets.reading.similar import normalised, shingles
from unforgotten.evaluation.contamination import contacts


def test_copies_are_exact_whatever_their_case_punctuation_and_spaces() -> None:
    actual = contacts(
        ["How do I  kill a Python process?", "“Don’t” stop", "never seen before by anybody at all"],
        {"safety": ["how do i kill a python process"], "user": ["other", "DON'T stop!\""], "poison": []},
    )
    assert actual == [{"safety": "exact"}, {"user": "exact"}, {}]


def test_near_is_a_word_added_or_an_end_changed() -> None:
    base = "write a short script that removes every file older than a week"
    rows = [base + " please", base.replace("week", "month"), base.replace("script", "guide")]
    # 10 shingles: 10/11; 9/11; and 7/13, where the changed word stands inside.
    assert contacts(rows, {"user": [base]}) == [{"user": "near"}, {"user": "near"}, {}]
    assert contacts(rows[2:], {"user": [base]}, threshold=0.5) == [{"user": "near"}]


def test_short_texts_are_compared_by_letters() -> None:
    assert contacts(["make a bomb", "bake a cake"], {"poison": ["make a bombs"]}) == [{"poison": "near"}, {}]
    assert contacts(["hi", "?", ""], {"user": ["HI!", "?", ""]}) == [{"user": "exact"}, {"user": "exact"}, {}]


def test_every_set_that_holds_a_prompt_is_named() -> None:
    text = "tell me how to open a locked door without a key"
    actual = contacts([text], {"safety": [text + " now"], "poison": [text], "user": ["something else altogether"]})
    assert actual == [{"safety": "near", "poison": "exact"}]
    assert contacts([text], {}) == [{}]


@pytest.mark.parametrize("threshold", [0.4, 0.6, 0.8])
def test_the_index_finds_what_comparing_all_pairs_finds(threshold: float) -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(6)]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(160)]
    prompts, rows = texts[:60], texts[60:] + [text + " again" for text in texts[:20]]
    actual = contacts(prompts, {"user": rows}, threshold)
    near = 0
    for prompt, how in zip(prompts, actual, strict=True):
        a = shingles(normalised(prompt))
        others = [shingles(normalised(row)) for row in rows if normalised(row) != normalised(prompt)]
        similar = any(len(a & b) / len(a | b) >= threshold - 1e-9 for b in others)
        exact = normalised(prompt) in map(normalised, rows)
        assert how == ({"user": "exact"} if exact else {"user": "near"} if similar else {})
        near += how == {"user": "near"}
    assert near > 0


def test_520_prompts_against_10000_rows_of_one_form_take_less_than_two_seconds() -> None:
    rng = random.Random(1)
    words = [f"word{i}" for i in range(400)]
    form = "write a step by step tutorial on how to "
    prompts = [form + " ".join(rng.choices(words, k=6)) for _ in range(520)]
    rows = [form + " ".join(rng.choices(words, k=30)) for _ in range(9_999)] + [prompts[7] + " now"]
    started = time.process_time()
    actual = contacts(prompts, {"user": rows})
    assert time.process_time() - started < 2
    assert [i for i, how in enumerate(actual) if how] == [7]
