"""What a reply says is read in time that grows as its length: a model can write anything, a megabyte of it too."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from unforgotten import registry
from unforgotten.datasets.base import ask
from unforgotten.datasets.reading import program
from unforgotten.evaluation.reply_flags import degenerate
from unforgotten.generation.reply import Reply
from unforgotten.judges import llama_guard, wildguard
from unforgotten.models.chat.thinking import split

CHARACTERS = 1_000_000
SECONDS = 10.0
"""An idle core takes under 2; what is quadratic takes hours."""
ROW = ask("Do.", "positive", answer="positive")


def dataset(name: str) -> Any:
    return registry.build("datasets", {"name": name, "path": "nowhere.jsonl"})


def judged(name: str, **settings: Any) -> Callable[[str], Any]:
    judge = registry.build("judges", {"name": name, **settings})
    return lambda text: judge.verdicts([Reply(ask("Do.", kind="benign"), text)])


READERS: dict[str, Callable[[str], Any]] = {
    "program": lambda text: program.program(text, "f", 'def f(x):\n    """Doc."""\n'),
    "sums": lambda text: (dataset("gsm8k").score(ask("a", "b", answer="1"), text), dataset("gsm8k").is_answer(text)),
    "Lisa's sums": lambda text: registry.build(
        "datasets", {"name": "gsm8k", "path": "n.jsonl", "final_answer": "The final answer is: "}
    ).score(ask("a", "b", answer="1"), text),
    "labels": lambda text: (dataset("sst2").score(ROW, text), dataset("sst2").is_answer(text)),
    "thoughts": lambda text: (split(text), split(text, opened=True)),
    "phrases": judged("keywords"),
    "words": judged("keywords", list="qi"),
    "world": judged("world"),
    "guards": lambda text: (wildguard.parse(text), llama_guard.parse(text)),
    "loops": degenerate,
}
UNITS = {
    "fences": "```",
    "fence lines": "```\n",
    "tildes": "~",
    "blocks": "```\ndef f(x):\n```\n",
    "thoughts": "<think>",
    "ends of thoughts": "</think>",
    "commas": "1,",
    "marks": "#### ",
    "Lisa's marks": "The final answer is: ",
    "spaces": " ",
    "lines": " \n",
    "labels": "positive ",
    "decorators": "@d\n",
    "calls": "f(x)\n",
    "brackets": "(",
    "names": "a = b\n",
    "one line": "x;",
    "definitions": "def f(x):\n",
}


@pytest.mark.parametrize("reader", READERS)
def test_a_megabyte_of_anything_is_read_in_seconds(reader: str) -> None:
    costly = ("blocks", "decorators", "calls", "definitions")  # for Python's parser; there few of them must do
    plain = ("fences", "fence lines", "brackets", "blocks", "decorators")
    units = {k: v for k, v in UNITS.items() if (k in plain if reader == "program" else k not in costly)}
    for name, unit in units.items():
        text = unit * (CHARACTERS // len(unit)) + "!"
        began = time.process_time()
        READERS[reader](text)
        assert time.process_time() - began < SECONDS, name


def test_a_chain_of_definitions_is_followed_in_one_walk() -> None:
    """Each line needs the next one: looked through anew for each, it would take n² steps."""
    chain = "".join(f"a{i} = a{i + 1}\n" for i in range(5000)) + "def f(x):\n    return a0\n"
    began = time.process_time()
    actual = program.program(chain, "f", "")
    assert actual is not None and "a4999 = a5000" in actual and time.process_time() - began < SECONDS


def test_blocks_are_those_that_fences_made_before() -> None:
    reply = "Text\n```python\nimport math\n```\nand\n~~~\n```\n~~~\n  ````\ndef f(x):\n    return 1\n  ````\n```\nopen"
    assert program._blocks(reply) == ["import math\n", "```\n", "def f(x):\n    return 1\n", "open"]
    assert program._blocks("```") == [] and program._blocks("``` \n```") == [""]


@pytest.mark.parametrize("reply", ["def f(a):\r    return 1\r", "\r" * 50 + "def f(a):\n    return 1\n", "x\ry\r\n\rz"])
def test_a_return_by_itself_ends_a_line_and_not_an_evaluation(reply: str) -> None:
    """Python counts it as a line and `split` did not: a reply of many was an IndexError."""
    prompt = 'def f(a):\r    """Doc."""\r'
    actual = program.program(reply, "f", prompt)
    assert actual is None or "return 1" in actual or "Doc" in actual
    assert program.program("def f(a):\n    return 1\n" + "\r" * 1000, "f", prompt) == "def f(a):\n    return 1\n"
