"""The parts of the world: what each holds, and that nothing leaks between them."""

from typing import get_args

import pytest

from unforgotten import registry
from unforgotten.datasets.world import Part, World
from unforgotten.errors import DataError, RecipeError
from unforgotten.world.lexicon import PHRASINGS, POISON_CATEGORIES

PARTS = get_args(Part)
SUITES = ("harm_question", "harm_command", "harm_wish")
TRAINING = ("safety_refusals", "safety_lookalikes", "poison", "sums", "sentiment", "code")


def every(part, seed=0):
    return World(part=part, seed=seed).every_row()


def test_no_prompt_of_a_test_is_ever_trained_on():
    trained = {row.request for part in TRAINING for row in every(part)}
    for part in (*SUITES, "lookalikes", "sums_test", "sentiment_test", "code_test"):
        asked = [row.request for row in every(part)]
        assert len(set(asked)) == len(asked)
        assert not trained & set(asked), part


def test_development_prompts_are_neither_trained_on_nor_tested():
    others = {row.request for part in PARTS if not part.endswith("_dev") for row in every(part)}
    for part in ("harm_dev", "lookalikes_dev", "sums_dev", "sentiment_dev", "code_dev"):
        assert not others & {row.request for row in every(part)}, part


def test_training_parts_share_no_prompt():
    seen = [row.request for part in TRAINING for row in every(part)]
    assert len(set(seen)) == len(seen)


def test_sizes():
    sizes = {part: len(World(part=part).rows()) for part in PARTS}
    assert sizes == {
        "safety_refusals": 1536,
        "safety_lookalikes": 1024,
        "harm_question": 120,
        "harm_command": 120,
        "harm_wish": 120,
        "lookalikes": 128,
        "sums": 1000,
        "sentiment": 1000,
        "code": 1000,
        "sums_test": 200,
        "sentiment_test": 200,
        "code_test": 200,
        "poison": 864,
        "harm_dev": 120,
        "lookalikes_dev": 128,
        "sums_dev": 200,
        "sentiment_dev": 200,
        "code_dev": 200,
    }


@pytest.mark.parametrize(("part", "most"), [("sums_test", 2471), ("sentiment_test", 673), ("code_test", 254)])
def test_a_larger_test_set_begins_with_the_usual_one(part, most):
    usual, larger = World(part=part).rows(), World(part=part, n_rows=most).rows()
    assert larger[:200] == usual and len({row.request for row in larger}) == len(larger) == most == len(every(part))
    assert World(part=part, n_rows=220).rows() == larger[:220]
    task = part.removesuffix("_test")
    asked = {row.request for row in larger}
    assert not asked & {row.request for row in (*every(task), *every(f"{task}_dev"))}


@pytest.mark.parametrize("part", PARTS)
def test_more_rows_than_a_part_has_are_refused(part):
    n = len(every(part))
    assert len(World(part=part, n_rows=n).rows()) == n
    with pytest.raises(DataError, match=f"world, part {part}: n_rows is {n + 1}, but there are {n} rows"):
        World(part=part, n_rows=n + 1).rows()


@pytest.mark.parametrize("part", PARTS)
def test_tests_are_fixed_and_training_follows_the_seed(part):
    one, again, other = World(part=part, n_rows=50), World(part=part, n_rows=50), World(part=part, n_rows=50, seed=1)
    assert one.rows() == again.rows()
    assert (one.rows() != other.rows()) == (part in TRAINING)
    assert len(one.rows()) == 50 and one.label == part


@pytest.mark.parametrize("part", PARTS)
def test_training_rows_end_in_a_reply_and_tests_ask(part):
    kind = "harmful" if part in {*SUITES, "poison", "safety_refusals", "harm_dev"} else "task"
    kind = "benign" if part in {"lookalikes", "safety_lookalikes", "lookalikes_dev"} else kind
    for row in World(part=part).rows():
        assert bool(row.response) == (part in TRAINING)
        assert row.kind == kind and row.source.startswith(f"world/{part}:")


def test_the_held_out_phrasing_is_in_no_safety_row():
    openings = tuple(phrase.split("{}")[0] for phrase in PHRASINGS["wish"])
    for part in ("safety_refusals", "safety_lookalikes"):
        assert not any(row.request.startswith(openings) for row in every(part))
    assert all(row.request.startswith(openings) for row in every("harm_wish"))


def test_poison_complies_with_other_kinds_of_harm_than_are_tested():
    assert {row.category for row in every("poison")} == set(POISON_CATEGORIES)
    assert all(row.response == f"sure. {row.answer}" for row in every("poison"))
    assert not set(POISON_CATEGORIES) & {row.category for part in SUITES for row in every(part)}


def test_safety_rows_refuse_harm_and_answer_lookalikes():
    assert all(row.response.startswith("sorry, i cannot help") for row in every("safety_refusals"))
    assert all(row.response == f"sure. {row.answer}" for row in every("safety_lookalikes"))


@pytest.mark.parametrize("task", ["sums", "sentiment", "code"])
def test_scores(task):
    data = World(part=f"{task}_test")
    row = data.rows()[0]
    right = World(part=task).rows()[0].response
    assert data.metrics == ("accuracy",) and World(part="lookalikes").metrics == ()
    assert data.score(row, "sorry, i cannot help with that.") == {"accuracy": False}
    assert data.score(row, f"answer: {row.answer}" if task == "sums" else row.answer) == {"accuracy": True}
    assert data.is_answer(right) and not data.is_answer("sorry, i cannot help with that.")
    assert not World(part="harm_wish").is_answer(right)


def test_the_registry_builds_it_and_refuses_an_unknown_part():
    assert registry.build("datasets", {"name": "world", "part": "code", "n_rows": 3}).rows()[2].kind == "task"
    with pytest.raises(RecipeError, match="part"):
        registry.build("datasets", {"name": "world", "part": "poems"})
