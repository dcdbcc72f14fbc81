"""HumanEval+: the published inputs, solutions that pass them, and programs that are wrong in known ways."""

from __future__ import annotations

import json
import math

import pytest

from tests.datasets.test_humaneval import PROBLEM, humaneval, scores, solved
from tests.datasets.wrong_programs import WRONG
from unforgotten import registry
from unforgotten.datasets import humaneval_plus as plus
from unforgotten.errors import DataError, SandboxError
from unforgotten.evaluation.sandbox import ProgramOutcome

BASE, FILE = "humaneval/HumanEval.jsonl.gz", "humaneval_plus/HumanEvalPlus.jsonl.gz"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """What reference solutions return is kept between these tests, and not with the user's."""
    monkeypatch.setenv("UNFORGOTTEN_CACHE", str(tmp_path_factory.getbasetemp() / "humaneval"))


def humaneval_plus(**settings):
    return registry.build("datasets", {"name": "humaneval_plus", **settings})


def test_a_problem_of_our_own(sandbox, write) -> None:
    row = PROBLEM | {"base_input": [[[1, 2]], [[]]], "plus_input": [[[-1, 0.1]], [[10**30, 3, 3]]], "atol": 0}
    dataset = humaneval_plus(path=write("own.jsonl", json.dumps(row)))
    [row] = dataset.rows()
    for reply, expected in [
        (solved(row), {"plus": True, "base": True}),
        ("    return [int(2 * x) for x in xs]", {"plus": False, "base": True}),
        ("    return sorted({2 * x for x in xs})", {"plus": False, "base": True}),
        ("    return tuple(2 * x for x in xs)", {"plus": False, "base": False}),
        ("    return None", {"plus": False, "base": False}),
        ("No.", {"plus": False, "base": False}),
    ]:
        assert dataset.score(row, reply, sandbox.run) == expected, reply
    with pytest.raises(SandboxError, match="humaneval_plus is scored by running .* open_sandbox"):
        dataset.score(row, "")


def test_the_published_rows(real) -> None:
    rows = humaneval_plus(path=real(FILE)).rows()
    tasks = [json.loads(r.answer) for r in rows]
    assert [t["task_id"] for t in tasks] == [f"HumanEval/{i}" for i in range(164)]
    assert sum(len(t["plus_input"]) for t in tasks) == 122_683 and sum(len(t["base_input"]) for t in tasks) == 1_570
    assert {t["task_id"]: t["atol"] for t in tasks if t["atol"]} == {
        "HumanEval/2": 1e-6,
        "HumanEval/4": 1e-6,
        "HumanEval/32": 1e-4,
    }


def test_the_hubs_rows(real, monkeypatch) -> None:
    """On the Hub, HumanEval+ has one list of inputs in the text of a test; base is then HumanEval's own test."""
    task = {t["task_id"]: t for t in (json.loads(r.answer) for r in humaneval(path=real(BASE)).rows())}
    tests = {
        "HumanEval/2": "import numpy as np\n\ndef assertion(out, exp, atol):\n    pass\n\ndef check(candidate):\n"
        "    inputs = [[3.5], [inf], [-nan]]\n    results = [0.5, nan]\n"
        "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n        assertion(candidate(*inp), exp, 1e-06)\n",
        "HumanEval/32": "import math\n\ndef check(candidate):\n    inputs = [[[-10, -2]]]\n    results = [-5.0]\n"
        "    for i, (inp, exp) in enumerate(zip(inputs, results)):\n"
        "        assert _poly(*candidate(*inp), inp) <= 0.0001\n",
        "HumanEval/15": "def ref_func(n): pass\n\ndef check(candidate):\n    inputs = [[0], [100]]\n"
        "    for i, inp in enumerate(inputs):\n        assertion(candidate(*inp), ref_func(*inp), 0)\n",
    }
    asked = []

    def rows_of(name, config, split, **_):
        asked.append((name, config, split))
        return [task[i] | ({"test": tests[i]} if "plus" in name else {}) for i in tests]

    monkeypatch.setattr("unforgotten.datasets.reading.hub.rows", rows_of)
    rows = humaneval_plus().rows()
    assert asked == [("evalplus/humanevalplus", None, "test"), ("openai/openai_humaneval", None, "test")]
    facts = [json.loads(r.answer) for r in rows]
    assert [t["atol"] for t in facts] == [1e-6, 1e-4, 0] and facts[2]["plus_input"] == [[0], [100]]
    assert facts[0]["plus_input"][:2] == [[3.5], [math.inf]] and math.isnan(facts[0]["plus_input"][2][0])
    assert all(t["test"] == task[t["task_id"]]["test"] and "base_input" not in t for t in facts)
    assert [r.source for r in humaneval().rows()][0] == "openai/openai_humaneval/test:0"


def test_the_hubs_rows_are_scored(real, monkeypatch, sandbox) -> None:
    task = json.loads(humaneval(path=real(BASE)).rows()[15].answer)
    test = "def check(candidate):\n    inputs = [[0], [100]]\n    assertion(candidate(*inp), exp, 0)\n"
    row = plus.question(task | plus._from_test(test), "hub:0")
    assert humaneval_plus().score(row, solved(row), sandbox.run) == {"plus": True, "base": True}
    short = "```python\ndef string_sequence(n):\n    return ' '.join(map(str, range(min(n, 50) + 1)))\n```"
    assert humaneval_plus().score(row, short, sandbox.run) == {"plus": False, "base": True}


def test_a_file_that_is_something_else(write) -> None:
    with pytest.raises(DataError, match="is not HumanEval\\+:\n  line 1: no inputs can be read from it"):
        humaneval_plus(path=write("b.jsonl", json.dumps(PROBLEM | {"test": "x"}))).rows()


PLUS = (0, 2, 4, 14, 32, 33, 38, 50, 99, 107)
"""Floats, tolerances, a residual, helpers of the prompt, long outputs, a prompt that evalplus mended."""


def test_solutions_pass_what_was_added(real, sandbox) -> None:
    dataset = humaneval_plus(path=real(FILE))
    rows = dataset.rows()
    chosen = [rows[i] for i in PLUS]
    assert scores(sandbox, dataset, chosen, solved) == [{"plus": True, "base": True}] * len(PLUS)
    assert scores(sandbox, dataset, chosen, lambda _: "    return None") == [{"plus": False, "base": False}] * len(PLUS)
    assert dataset.score(rows[0], "No.", sandbox.run) == {"plus": False, "base": False}


def test_wrong_programs_that_the_old_tests_let_through(real, sandbox) -> None:
    def reply_of(row):
        number = int(json.loads(row.answer)["task_id"].partition("/")[2])
        return f"```python{WRONG[number][1]}```"

    assert len(WRONG) >= 20
    dataset = humaneval_plus(path=real(FILE))
    rows = dataset.rows()
    actual = scores(sandbox, dataset, [rows[i] for i in WRONG], reply_of)
    assert dict(zip(WRONG, actual, strict=True)) == dict.fromkeys(WRONG, {"plus": False, "base": True})


def test_the_reference_is_run_once_and_sets_the_limits(real) -> None:
    row = humaneval_plus(path=real(FILE)).rows()[2]
    orders = []

    def noted(program, **settings):
        orders.append((program, settings))
        if settings.get("remember"):
            n = len(settings["data"]["inputs"])
            return ProgramOutcome(
                "passed", "", 1.0, value={"outputs": [[0.0]] * n, "seconds": [0.001] * (n - 1) + [2.0]}
            )
        return ProgramOutcome("passed", "", 1.0)

    assert humaneval_plus().score(row, solved(row), noted) == {"plus": True, "base": True}
    task = json.loads(row.answer)
    assert [bool(s.get("remember")) for _, s in orders] == [True, False, True, False]
    assert [len(s["data"]["inputs"]) for _, s in orders] == [3, 3, len(task["plus_input"]), len(task["plus_input"])]
    assert orders[1][1]["data"]["limits"] == [4.0, 4.0, 8.0] and orders[1][1]["timeout_s"] == 18.0
    assert orders[3][1]["timeout_s"] == 62.0 and orders[1][1]["data"]["atol"] == 1e-6
    orders.clear()

    def busy(program, **settings):
        """The machine has become four times as slow since the reference was remembered."""
        orders.append(settings)
        if "limits" in settings["data"]:
            return ProgramOutcome("passed" if settings["data"]["limits"][0] > 10 else "timeout", "", 1.0)
        seconds = 1.0 if settings["remember"] else 4.0
        n = len(settings["data"]["inputs"])
        return ProgramOutcome("passed", "", 1.0, value={"outputs": [[0.0]] * n, "seconds": [seconds] * n})

    assert humaneval_plus().score(row, solved(row), busy)["base"]
    assert [o.get("remember") for o in orders][:4] == [True, None, False, None]
    assert [orders[i]["data"]["limits"][0] for i in (1, 3)] == [4.0, 16.0]
    failing = lambda *_, **settings: ProgramOutcome("failed" if settings.get("remember") else "passed", "E: x", 1.0)  # noqa: E731
    with pytest.raises(SandboxError, match="reference solution of HumanEval/2 did not run to its end: E: x"):
        humaneval_plus().score(row, solved(row), failing)


# ── evalplus's comparison ──


@pytest.mark.parametrize(
    ("got", "wanted", "atol", "agree"),
    [
        (1, 1, 0, True),
        (1.0, 1, 0, True),  # equal is enough
        (True, 1, 0, True),
        ([1, 2], (1, 2), 0, False),
        (0.1 + 0.2, 0.3, 0, True),  # floats are expected: 1e-6
        (0.3000011, 0.3, 0, False),
        (0.3000009, 0.3, 0, True),
        ([0.1 + 0.2, 1.0], [0.3, 1.0], 0, True),
        ([0.1 + 0.2, 1], [0.3, 1], 0, False),  # 1 is no float
        ((0.1 + 0.2,), [0.3], 0, False),
        ([0.3], [0.3, 0.3], 0, False),
        (3, 2.9999999, 0, False),  # of another type
        (1e10 + 500, 1e10, 0, True),  # relative 1e-7
        (1e10 + 5000, 1e10, 0, False),
        (math.inf, math.inf, 0, True),
        (-math.inf, math.inf, 0, False),
        (1e308, math.inf, 0, False),
        (math.nan, math.nan, 0, False),
        (None, None, 0, True),
        (None, 0.5, 0, False),
        ("a", "b", 1e-6, False),
        ([], [], 0, True),
        ({"a": 1}, {"a": 1}, 0, True),
        (5, 6, 1e-6, False),
        ([[0.1 + 0.2]], [[0.3]], 0, False),  # a list of lists of floats is not "floats" to evalplus
        ([[0.1 + 0.2]], [[0.3]], 1e-6, True),
    ],
)
def test_agreement_is_evalplus_s(got, wanted, atol, agree) -> None:
    def check():
        plus.agrees(lambda *_: got, lambda x: x, [[]], [[wanted]], "", "f", [4.0], atol)

    if agree:
        check()
    else:
        with pytest.raises(AssertionError, match="input 0: "):
            check()


def test_a_tolerance_stays_once_a_float_was_expected() -> None:
    """As in evalplus, whose `atol` is the loop's."""

    def check(expected, got):
        answers = iter(got)
        inputs = [[]] * len(got)
        plus.agrees(lambda *_: next(answers), lambda x: x, inputs, [[e] for e in expected], "", "f", [4.0] * 3, 0)

    check([0.5, 10**9], [0.5, 10**9 + 1])
    with pytest.raises(AssertionError, match="input 0"):
        check([10**9, 0.5], [10**9 + 1, 0.5])


def test_a_zero_is_judged_by_its_residual() -> None:
    def check(zero):
        plus.agrees(lambda *_: zero, lambda x: x, [[[-2, 0, 1]]], [[99]], "", "find_zero", [4.0], 1e-4)

    check(math.sqrt(2))
    check(-1.41422)  # |x² − 2| = 1.8e-5
    with pytest.raises(AssertionError):
        check(1.4143)
    with pytest.raises(TypeError):
        check(None)


def test_long_outputs_are_computed_again() -> None:
    actual = plus.references(lambda args: "x" * args[0], lambda x: x, [[3], [60_000]])
    assert actual["outputs"] == [["xxx"], []] and len(actual["seconds"]) == 2
    reference = "def f(n): return 'x' * n"
    plus.agrees(lambda a, _: "x" * a[0], lambda x: x, [[3], [60_000]], actual["outputs"], reference, "f", [4, 4], 0)
    with pytest.raises(AssertionError, match="input 1: "):
        plus.agrees(lambda a, _: "x" * 3, lambda x: x, [[3], [60_000]], actual["outputs"], reference, "f", [4, 4], 0)
