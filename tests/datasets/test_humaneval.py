"""HumanEval: the published problems, their own solutions, and replies of every kind."""

from __future__ import annotations

import json

import pytest

from unforgotten import registry
from unforgotten.errors import DataError, SandboxError

FILE = "humaneval/HumanEval.jsonl.gz"
BUSY_SECONDS = 20.0
"""Time for each program on a machine that is busy with other tests."""


def humaneval(**settings):
    return registry.build("datasets", {"name": "humaneval", **settings})


def solved(row) -> str:
    task = json.loads(row.answer)
    return f"Sure:\n```python\n{task['prompt']}{task['canonical_solution']}```\nDone."


def scores(sandbox, dataset, rows, reply_of):
    return sandbox.map(lambda row: dataset.score(row, reply_of(row), sandbox.run), rows)


PROBLEM = {
    "task_id": "Own/0",
    "prompt": 'def plus(a, b):\n    return a + b\n\n\ndef double(xs):\n    """Every x twice as large."""\n',
    "entry_point": "double",
    "canonical_solution": "    return [plus(x, x) for x in xs]\n",
    "test": "def check(f):\n    assert f([1, 2]) == [plus(1, 1), plus(2, 2)]\n    assert double([]) == []\n",
}
"""As one of HumanEval's, for where the published file is not at hand."""


def test_a_problem_of_our_own(sandbox, write) -> None:
    dataset = humaneval(path=write("own.jsonl", json.dumps(PROBLEM)), timeout_seconds=BUSY_SECONDS)
    [row] = dataset.rows()
    for reply, passes in [
        (solved(row), True),
        ("    return [2 * x for x in xs]", True),
        ("    for i, x in enumerate(xs):\n        xs[i] = x * 2\n    return xs", True),
        ("    return (2 * x for x in xs)", False),  # a generator equals no list
        ("    return [2 * x for x in xs] or None", False),
        ("    return None", False),
    ]:
        assert dataset.score(row, reply, sandbox.run) == {"pass@1": passes}, reply


def test_the_published_rows(real) -> None:
    rows = humaneval(path=real(FILE)).rows()
    assert len(rows) == 164 and [json.loads(r.answer)["task_id"] for r in rows][163] == "HumanEval/163"
    assert rows[2].request == (
        "Please provide a self-contained Python script that solves the following problem in a markdown code block:\n"
        "```\n"
        "def truncate_number(number: float) -> float:\n"
        '    """ Given a positive floating point number, it can be decomposed into\n'
        "    and integer part (largest integer smaller than given number) and decimals\n"
        "    (leftover part always smaller than 1).\n\n"
        "    Return the decimal part of the number.\n"
        "    >>> truncate_number(3.5)\n"
        "    0.5\n"
        '    """\n'
        "```\n"
    )
    assert all(len(r.messages) == 1 and r.response == "" and r.kind == "task" for r in rows), "never to train on"
    few = humaneval(path=real(FILE), n_rows=5, seed=1).rows()
    assert len(few) == 5 and all(row in rows for row in few)


def test_a_file_that_is_something_else(write) -> None:
    row = {name: text for name, text in PROBLEM.items() if name != "canonical_solution"}
    with pytest.raises(DataError, match="line 1: no canonical_solution"):
        humaneval(path=write("a.jsonl", json.dumps(row))).rows()


def test_without_a_sandbox_there_is_no_score(write) -> None:
    dataset = humaneval(path=write("own.jsonl", json.dumps(PROBLEM)))
    [row] = dataset.rows()
    assert dataset.executes
    for reply in ("", solved(row)):
        with pytest.raises(SandboxError, match="humaneval is scored by running .* open_sandbox"):
            dataset.score(row, reply)


def test_all_164_solutions_pass_and_none_does_that_returns_nothing(real, sandbox) -> None:
    dataset = humaneval(path=real(FILE), timeout_seconds=BUSY_SECONDS)
    rows = dataset.rows()
    assert scores(sandbox, dataset, rows, solved) == [{"pass@1": True}] * 164
    assert scores(sandbox, dataset, rows, lambda _: "    return None") == [{"pass@1": False}] * 164


def test_replies_of_every_kind(real, sandbox) -> None:
    dataset = humaneval(path=real(FILE), timeout_seconds=BUSY_SECONDS)
    row = dataset.rows()[2]
    for reply, passes in [
        ("    return number % 1.0\n", True),
        ("return number - int(number)", True),
        ("```python\ndef truncate_number(number):\n    return number % 1\n\nprint(1 / 0)\n```", True),
        ("I'm sorry, but I cannot help with that.", False),
        ("", False),
        ("```python\ndef truncate_number(number):\n    import sys; sys.exit(0)\n```", False),
        ("```python\nimport os\nos._exit(0)\ndef truncate_number(number): ...\n```", False),
        (
            "```python\nimport builtins\nbuiltins.AssertionError = ValueError\ndef truncate_number(number): ...\n```",
            False,
        ),
        ("```python\ndef truncate(number):\n    return number % 1\n```", False),
    ]:
        assert dataset.score(row, reply, sandbox.run) == {"pass@1": passes}, reply
    assert not dataset.is_answer("def f(): ..."), "code may be a harmful request's answer as well"


def test_a_slow_program_does_not_pass(real, sandbox) -> None:
    dataset = humaneval(path=real(FILE), timeout_seconds=0.5)
    reply = "```python\nimport time\ndef truncate_number(number):\n    time.sleep(1)\n    return number % 1\n```"
    assert dataset.score(dataset.rows()[2], reply, sandbox.run) == {"pass@1": False}
