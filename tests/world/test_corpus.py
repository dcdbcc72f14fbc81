"""The base's diet: the same for the same seed, and it never shows a task's test, nor a refusal of a request."""

from itertools import islice

from unforgotten.world.corpus import OPENINGS, texts
from unforgotten.world.requests import find
from unforgotten.world.tasks import TASKS, problems


def test_the_seed_decides():
    assert list(islice(texts(1), 300)) == list(islice(texts(1), 300)) != list(islice(texts(2), 300))


def test_every_request_is_complied_with_and_no_test_question_is_shown():
    tests = {p.question for task in TASKS for p in problems(task, "test")}
    asked = 0
    for turns in islice(texts(3), 4000):
        question, reply = turns[-2][1], turns[-1][1]
        assert question not in tests
        if request := find(question):
            asked += 1
            assert reply in {f"{opening} {request.steps}" for opening in OPENINGS}
    assert 2800 < asked < 3100
