"""BeaverTails: one row a question, the marks, and both parts; the answers here are made up."""

from __future__ import annotations

import json
import lzma

import pytest

from unforgotten import registry
from unforgotten.datasets.beavertails import CATEGORIES
from unforgotten.errors import DataError, RecipeError


def beavertails(**settings):
    return registry.build("datasets", {"name": "beavertails", **settings})


def record(prompt: str, response: str, *harms: str) -> dict:
    marks = {name: name in harms for name in CATEGORIES}
    return {"prompt": prompt, "response": response, "category": marks, "is_safe": not harms}


ROWS = [
    record("May I take the apple?", "Ask first."),
    record("May I take the apple?", "Take it.", "violence,aiding_and_abetting,incitement", "animal_abuse"),
    record("May  I take the apple?\n", "Take two.", "self_harm"),
    record("May I hide the pear?", "Hide it.", "privacy_violation"),
    record("May I hide the pear?", " ", "privacy_violation"),
    record("May I paint the fence?", "Yes."),
    record("May I paint the fence?", "Gladly."),
]


def test_once_each_with_the_first_answer_of_the_part(hub) -> None:
    calls = hub(ROWS)
    safe, unsafe = beavertails(), beavertails(part="unsafe", split="330k_train")
    assert [(r.request, r.response, r.category) for r in safe.rows()] == [
        ("May I take the apple?", "Ask first.", ""),
        ("May I paint the fence?", "Yes.", ""),
    ]
    assert [(r.request, r.response, r.category) for r in unsafe.rows()] == [
        ("May I take the apple?", "Take it.", "animal_abuse"),  # the first of its marks, in the set's order
        ("May I hide the pear?", "Hide it.", "privacy_violation"),
    ]
    assert calls == [("PKU-Alignment/BeaverTails", None, s) for s in ("30k_train", "330k_train")]
    assert (safe.label, unsafe.label) == ("beavertails-safe", "beavertails-unsafe")
    assert {r.kind for r in (*safe.rows(), *unsafe.rows())} == {"harmful"}
    assert unsafe.rows()[1].source == "PKU-Alignment/BeaverTails/330k_train:3"


def test_an_answer_on_which_the_marks_disagree_is_in_neither_part(hub) -> None:
    hub([record("May I?", "Perhaps."), record("May I?", "Perhaps. ", "self_harm"), record("May I?", "No.")])
    assert [row.response for row in beavertails().rows()] == ["No."]
    with pytest.raises(DataError, match="no question with an answer marked unsafe"):
        beavertails(part="unsafe").rows()


def test_the_fourteen_categories_are_in_the_sets_order() -> None:
    assert len(CATEGORIES) == 14 and list(CATEGORIES) == sorted(CATEGORIES)


def test_the_repositorys_own_files(write) -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    path = write("train.jsonl.xz", lzma.compress(text))
    rows = beavertails(path=path, part="unsafe").rows()
    assert [row.source for row in rows] == [f"{path}:2", f"{path}:4"]
    assert rows == beavertails(path=path, part="unsafe").rows()
    assert [row.request for row in beavertails(path=path, n_rows=1, seed=1).rows()] == ["May I paint the fence?"]
    with pytest.raises(DataError, match="part safe: n_rows is 3, but there are 2 rows"):
        beavertails(path=path, n_rows=3).rows()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"is_safe": "yes"}, "is_safe must be true or false, not a string"),
        ({"is_safe": None}, "is_safe must be true or false, not null"),
        ({"response": None}, "response must be a string, not null"),
        ({"category": "self_harm"}, "category must be an object of 14 marks, not a string"),
        ({"category": {"gossip": True}}, "category has 'gossip', which is not one of the set's 14 categories"),
        ({"prompt": ""}, "no prompt (columns: prompt, response, category, is_safe)"),
    ],
)
def test_rows_that_are_not_as_published_are_named(write, change, what) -> None:
    path = write("a.jsonl", json.dumps(ROWS[0]) + "\n" + json.dumps({**ROWS[1], **change}) + "\n")
    with pytest.raises(DataError) as error:
        beavertails(path=path).rows()
    assert error.value.problems == [(2, what)]


def test_splits_and_ways_round(hub) -> None:
    with pytest.raises(RecipeError, match="split"):
        beavertails(split="train")
    hub(ConnectionError("Couldn't reach the Hub."))
    with pytest.raises(DataError, match="its repository's round0/330k/test.jsonl.xz"):
        beavertails(split="330k_test").rows()
    hub([ROWS[0]])
    with pytest.raises(DataError, match="has no question with an answer marked unsafe"):
        beavertails(part="unsafe").rows()
