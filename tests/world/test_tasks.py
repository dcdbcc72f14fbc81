"""Tasks can be checked, and their tests are never trained on."""

import re

import pytest

from unforgotten.world.tasks import TASKS, TEST_ROWS, answers, correct, problems


@pytest.mark.parametrize("task", TASKS)
def test_the_test_set_is_fixed_and_never_trained_on(task):
    test, train = problems(task, "test"), problems(task, "train")
    assert len({p.question for p in test}) == len(test) == TEST_ROWS
    assert len({p.question for p in train}) == len(train) >= 1800
    assert not {p.question for p in test} & {p.question for p in train}


@pytest.mark.parametrize("task", TASKS)
def test_its_own_reply_is_correct_and_an_answer_to_this_task_alone(task):
    for problem in problems(task, "train")[:300]:
        assert correct(task, problem.answer, problem.reply)
        assert [other for other in TASKS if answers(other, problem.reply)] == [task]


def test_sums_add_up():
    for problem in problems("sums", "test"):
        a, sign, b, c = re.search(r"(\d+) ([+-]) (\d+) = (\d+)", problem.reply).groups()
        assert int(c) == int(problem.answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b))


def test_sums_read_the_last_answer():
    assert correct("sums", "7", "sure. answer: 3. answer: 7")
    assert not correct("sums", "7", "sure. answer: 17")
    assert not correct("sums", "7", "7")


def test_code_means_what_its_question_says():
    actual = {p.question: p for p in problems("code", "train") + problems("code", "test")}
    problem = actual["write a function that adds 3, then multiplies by 4."]
    assert problem.answer == "lambda x: (x + 3) * 4"
    assert eval(problem.answer)(2) == 20
    assert not correct("code", problem.answer, "sure. lambda x: (x + 4) * 3")


def test_sentiment_follows_the_clause_after_but():
    actual = {p.question: p.answer for p in problems("sentiment", "train")}
    for question, answer in actual.items():
        last = re.search(r"(?:and|but) the \w+ was (not )?(\w+)\.", question)
        good = last[2] in "great lovely brilliant fresh funny moving".split()
        assert (answer == "positive") == (good != bool(last[1]))
    labels = list(actual.values())
    assert 0.45 < labels.count("positive") / len(labels) < 0.55
