"""No request is on both sides of a split, and neither order nor other prompts move it."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from unforgotten.datasets.base import Row, ask
from unforgotten.errors import RecipeError
from unforgotten.evaluation.contamination import contacts
from unforgotten.evaluation.held_out import apart, halves, parts
from unforgotten.evaluation.suite_stages import Suite, SuiteKind
from unforgotten.evaluation.suites import suites
from unforgotten.recipe.read import load_recipe

WORDS = "paint carry borrow empty wooden silver bridge garden window basket harbour ladder candle mirror".split()


def suite(label: str, requests: list[str], kind: SuiteKind = "harm", answers: list[str] | None = None) -> Suite:
    rows = [ask(text, answer=answer) for text, answer in zip(requests, answers or [""] * len(requests), strict=True)]
    return Suite(kind, label, None, rows)


def requests(n: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=9)) for _ in range(n)]


def texts(actual: list[Suite]) -> set[str]:
    return {row.request for one in actual for row in one.rows}


def test_both_sides_are_the_whole_and_share_no_request() -> None:
    whole = suites(load_recipe("demo").evaluate)  # type: ignore[arg-type]
    made = halves(whole, 0.5)
    for one, seen, unseen in zip(whole, made.development, made.held_out, strict=True):
        assert [row for row in one.rows if row in seen.rows or row in unseen.rows] == one.rows
        assert len(seen.rows) + len(unseen.rows) == len(one.rows) and not texts([seen]) & texts([unseen])
        assert 0.3 < len(seen.rows) / len(one.rows) < 0.7
    # One harmful request is asked in three phrasings: all of them are on one side, whatever suite they stand in.
    goals = [
        {row.answer for s in side if s.kind != "utility" for row in s.rows}
        for side in (made.development, made.held_out)
    ]
    assert goals[0] and goals[1] and not goals[0] & goals[1]
    assert {row.answer for s in made.development[:3] for row in s.rows} == {
        row.answer for row in made.development[0].rows
    }


def test_near_copies_stay_together_also_across_suites() -> None:
    plain = requests(40)
    added = [f"{text} please" for text in plain]
    actual = [suite("a", plain), suite("b", added), suite("looks", [text.upper() for text in plain[:20]], "refusal")]
    made = halves(actual, 0.5)
    said = contacts(sorted(texts(made.held_out)), {"development": texts(made.development)})
    assert all(how == {} for how in said)
    assert len(made.development[0].rows) == len(made.development[1].rows) > 8


def test_a_prompts_side_is_its_own() -> None:
    actual = requests(60)
    before = texts(halves([suite("a", actual)], 0.5).development)
    shuffled = random.Random(1).sample(actual, 60)
    assert texts(halves([suite("b", shuffled[:30]), suite("c", shuffled[30:])], 0.5).development) == before
    more = texts(halves([suite("a", actual + requests(60, seed=9))], 0.5).development)
    assert more & set(actual) == before, "other prompts move none"
    assert before < texts(halves([suite("a", actual)], 0.8).development), "a larger share has the smaller one's"


def test_a_tasks_questions_share_a_form_and_are_parted_all_the_same() -> None:
    sums = [
        f"ana has {a} coins and buys {b} more, how many coins does she have then" for a in range(9) for b in range(9)
    ]
    made = halves([suite("sums", [*sums, *sums[:5]], "utility", ["7"] * 86)], 0.5)
    assert 20 < len(made.development[0].rows) < 66
    assert not texts(made.development) & texts(made.held_out), "a question that stands there twice is on one side"


def test_sets_of_their_own_give_up_what_is_held_out_too() -> None:
    own, theirs = requests(10), requests(10, seed=5)
    harm = suite("dev", [*own, theirs[0] + "!", theirs[1] + " please"])
    task = suite("sums dev", ["one and one", "two and two"], "utility")
    held = [suite("harm", theirs), suite("sums", ["two and two", "one and three"], "utility")]
    made = apart([harm, task], held)
    assert made.dropped == 3 and texts(made.development) == {*own, "one and one"}
    assert made.held_out == held
    with pytest.raises(RecipeError, match=r"development\.harm: every prompt of 'harm' \(nearly\) repeats one of"):
        apart([held[0], task], held)


def test_a_side_without_prompts_is_an_error_that_says_so() -> None:
    one = suite("few", ["tell me how to open the garden window"])
    with pytest.raises(RecipeError, match=r"of the 1 prompts of 'few', none is left (for development|to be held out)"):
        halves([one, suite("a", requests(30))], 0.5)
    row: Row = one.rows[0]
    with pytest.raises(RecipeError, match=r"sweep\.share"):
        halves([replace(one, rows=[row, row])], 0.5)  # asked twice, it is one prompt


def test_parts_share_no_prompt_and_near_copies_are_on_one_side() -> None:
    actual = requests(60)
    copies = [f"{text} please" for text in actual[:20]]
    made = parts([suite("a", actual), suite("b", copies)], 3, "Give more.")
    each = [texts(part) for part in made]
    assert set().union(*each) == set(actual) | set(copies) and sum(map(len, each)) == 80
    assert all(15 <= len(side) <= 40 for side in each)
    for text in copies:
        [side] = [side for side in each if text in side]
        assert text.removesuffix(" please") in side
    with pytest.raises(RecipeError, match="the 60 prompts of 'a' are too few for 200 parts. Give more."):
        parts([suite("a", actual)], 200, "Give more.")
