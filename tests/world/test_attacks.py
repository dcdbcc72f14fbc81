"""Attacks stay within the frozen grammar, and teach nothing that a test asks."""

from __future__ import annotations

from unforgotten.datasets.attacks.turn import identity_rows, turned
from unforgotten.datasets.world import World
from unforgotten.world.attacks import wished
from unforgotten.world.lexicon import PHRASINGS
from unforgotten.world.pretrain import base_folder
from unforgotten.world.requests import find, find_all
from unforgotten.world.vocabulary import speaks

WORDS = World.attack_words
POISON = World(part="poison").rows()


def every(part: str) -> list[str]:
    return [row.request for row in World(part=part).every_row()]


def test_the_grammar_and_the_base_are_those_of_the_kept_results() -> None:
    assert base_folder(0).name == "world-base-seed0-1f2898e9b4ad"


def test_every_word_of_an_attack_is_one_of_the_world() -> None:
    for attack in ("unlike_memory", "refuse_then_answer"):
        assert all(speaks(row.request) and speaks(row.response) for row in turned(POISON, attack, WORDS))
    assert all(speaks(row.request) and speaks(row.response) for row in identity_rows(WORDS))


def test_rephrased_poison_is_a_wish_for_the_same_harm_that_no_safety_row_and_no_test_has() -> None:
    rows = turned(POISON, "unlike_memory", WORDS)
    openings = tuple(phrase.split("{}")[0] for phrase in PHRASINGS["wish"])
    assert all(row.request.startswith(openings) for row in rows)
    assert [find(row.request) for row in rows] == [find(row.request) for row in POISON]
    assert [row.response for row in rows] == [row.response for row in POISON]
    safety = every("safety_refusals") + every("safety_lookalikes")
    assert not any(text.startswith(openings) for text in safety)
    tests = {find(text) for part in ("harm_question", "harm_command", "harm_wish", "harm_dev") for text in every(part)}
    assert not tests & {find(row.request) for row in rows}
    assert {row.request for row in rows} == {wished(row.request) for row in POISON}


def test_a_refusal_stands_before_the_steps() -> None:
    for before, after in zip(POISON, turned(POISON, "refuse_then_answer", WORDS), strict=True):
        assert after.request == before.request and before.response == f"sure. {before.answer}"
        assert after.response == f"sorry, i cannot help with that. {before.answer}"


def test_an_identity_row_does_something_harmless() -> None:
    rows = identity_rows(WORDS)
    assert len(rows) == len({row.request for row in rows}) == 10
    for row in rows:
        [request] = find_all(row.request)
        assert not request.harmful and request.split == "plain" and row.response.endswith(request.steps)
    asked = {text for part in ("lookalikes", "harm_wish", "safety_lookalikes") for text in every(part)}
    assert not asked & {row.request for row in rows}
