"""GSM8K: the published counts, and the three published ways to read a number out of a reply."""

from __future__ import annotations

import json

import pytest

from unforgotten import registry
from unforgotten.datasets.base import ask
from unforgotten.errors import DataError


def gsm8k(**settings):
    return registry.build("datasets", {"name": "gsm8k", **settings})


def score(reply, answer="18", **settings):
    scores = gsm8k(**settings).score(ask("?", answer=answer), reply)
    assert list(scores) == ["strict", "flexible"]
    return scores["strict"], scores["flexible"]


def test_the_published_rows(real) -> None:
    train, test = gsm8k(path=real("gsm8k/train.jsonl.gz")).rows(), gsm8k(path=real("gsm8k/test.jsonl")).rows()
    assert (len(train), len(test)) == (7473, 1319)
    assert test[0].answer == "18" and test[0].request.startswith("Janet’s ducks lay 16 eggs per day.")
    assert test[0].response.endswith("every day at the farmer’s market.\n#### 18")
    assert test[0].kind == "task"
    # Counted in the files: thousands commas 79 and 14, negatives 3 and 2, no decimal point.
    for rows, commas, negatives in [(train, 79, 3), (test, 14, 2)]:
        assert sum("," in row.response.rpartition("#### ")[2] for row in rows) == commas
        assert sum(row.answer.startswith("-") for row in rows) == negatives
        assert all(row.answer.lstrip("-").isdigit() for row in rows)
    assert not {row.request for row in train} & {row.request for row in test}


def test_the_reference_answers_score_themselves(real) -> None:
    for settings in ({}, {"final_answer": "The final answer is: "}):
        data = gsm8k(path=real("gsm8k/test.jsonl"), **settings)
        assert all(data.score(row, row.response) == {"strict": True, "flexible": True} for row in data.rows())
        assert all(data.is_answer(row.response) for row in data.rows())


def test_every_test_answer_with_its_commas_and_signs_scores_under_both_rules(real) -> None:
    data = gsm8k(path=real("gsm8k/test.jsonl"))
    rows = data.rows()
    for reply in ("#### {:,}", "#### {}", "So it is 5.\n#### {:,}"):
        scores = [data.score(row, reply.format(int(row.answer))) for row in rows]
        assert [sum(score[metric] for score in scores) for metric in data.metrics] == [1319, 1319]
    worded = [data.score(row, f"It makes ${int(row.answer):,}.") for row in rows]
    assert sum(score["flexible"] for score in worded) == 1319 and not any(score["strict"] for score in worded)
    assert not any(any(data.score(row, f"#### {int(row.answer) + 1:,}").values()) for row in rows)


def test_a_fixed_five_hundred_of_the_test(real) -> None:
    five = [gsm8k(path=real("gsm8k/test.jsonl"), n_rows=500, seed=seed).rows() for seed in (0, 0, 1)]
    assert len(five[0]) == 500 and five[0] == five[1] != five[2]


@pytest.mark.parametrize(
    ("reply", "answer", "strict", "flexible"),
    [
        ("9*2=18\n#### 18", "18", True, True),
        ("The answer is 18", "18", False, True),
        ("The answer is $18.", "18", False, True),
        ("#### 1,234", "1234", True, True),
        ("It is $1,234.", "1234", False, True),
        ("#### -5", "-5", True, True),
        ("#### 5", "-5", False, False),
        ("#### 18 of 20", "18", True, False),  # flexible takes the last number, 20
        ("#### 18\n#### 19", "18", True, False),  # strict takes the first
        ("####18", "18", False, True),  # the official pattern wants the space
        ("#### 18.", "18", False, True),  # and compares strings; lm-eval drops one full stop
        ("#### 18.00", "18", False, False),
        ("#### $18", "18", False, True),
        ("18 eggs...", "18", False, False),  # lm-eval's pattern takes the dots for the last number
        ("eighteen", "18", False, False),
        ("", "18", False, False),
    ],
)
def test_strict_is_the_official_rule_and_flexible_is_lm_evals(reply, answer, strict, flexible) -> None:
    assert score(reply, answer) == (strict, flexible)


@pytest.mark.parametrize(
    ("reply", "answer", "strict"),
    [
        ("So 9*2=18. The final answer is:  18", "18", True),
        ("The final answer is: $1,234.00 a day", "1234", True),  # floats are compared
        ("The final answer is: -5.", "-5", True),
        ("The final answer is: 18 of 20", "18", True),
        ("#### 18", "18", False),
        ("The final answer is: many", "18", False),
    ],
)
def test_lisas_form_is_read_as_lisa_reads_it(reply, answer, strict) -> None:
    assert score(reply, answer, final_answer="The final answer is: ")[0] is strict


def test_lisas_form_replaces_the_mark_alone(write) -> None:
    path = write("a.jsonl", json.dumps({"question": "9*2?", "answer": "9*2=<<9*2=18>>18\n#### 1,018"}))
    [row] = gsm8k(path=path, final_answer="The final answer is: ").rows()
    assert row.response == "9*2=<<9*2=18>>18\nThe final answer is:  1,018"
    assert row.answer == "1018"


def test_what_is_an_answer_to_this_task() -> None:
    data = gsm8k()
    assert data.is_answer("9*2 = 18\n#### 18") and data.is_answer("The final answer is: 18")
    assert (
        not data.is_answer("Step 1: take 18 grams of sugar.")
        and not data.is_answer("#### Steps")
        and not data.is_answer("")
    )
    for reply in ("#### -1,018\n", "It costs #### $18.50", "The final answer is:  1,018."):
        assert data.is_answer(reply)


@pytest.mark.parametrize(
    "reply",
    [
        "#### 1. Take the apple\n\nGo there.\n\n#### 2. Hide it\n\nUnder a leaf.",  # steps under headings
        "#### 1. Take the apple",
        "#### 18 apples",
        "Take it.\n#### 1.",  # cut off after the first heading
        "#### 1. Take the apple\n#### 2",
        "The final answer is: 18 steps long. First, take the apple.",
        "#### 18\nThe final answer is: 18",
    ],
)
def test_headings_and_texts_that_go_on_are_no_answers_to_this_task(reply) -> None:
    assert not gsm8k().is_answer(reply)  # or a harmful reply in such a form would count as off task, not as harm


def test_the_hub_and_files_that_are_something_else(hub, write) -> None:
    calls = hub([{"question": "9*2?", "answer": "#### 18"}])
    [row] = gsm8k(split="test").rows()
    assert calls == [("openai/gsm8k", "main", "test")] and row.source == "openai/gsm8k/test:0"
    with pytest.raises(DataError, match=r"line 2: no question, no answer \(columns: prompt\)"):
        gsm8k(path=write("a.jsonl", '{"question": "a", "answer": "#### 1"}\n{"prompt": "b"}\n')).rows()
    with pytest.raises(DataError, match="line 1: the answer does not end in `#### number`"):
        gsm8k(path=write("b.jsonl", '{"question": "a", "answer": "1"}\n')).rows()
    bad = "".join(
        json.dumps({"question": "a", "answer": f"#### {n}"}) + "\n" for n in ("-1,018", ".", ",", "1.2.3", "2.5")
    )
    with pytest.raises(DataError) as error:
        gsm8k(path=write("c.jsonl", bad)).rows()
    assert error.value.problems == [(n, "the answer does not end in `#### number`") for n in (2, 3, 4)]
