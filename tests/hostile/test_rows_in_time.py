"""Rows that are within every bound of size cost no more than their size: nothing is quadratic in keys or calls."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.conftest import CHATML
from tests.training.shapes import tiny_tokenizer
from unforgotten.datasets.base import Row
from unforgotten.datasets.reading.conversation import conversation
from unforgotten.datasets.reading.fix import fixed
from unforgotten.datasets.reading.marks import Wrong
from unforgotten.errors import TemplateError
from unforgotten.models.chat import Chat, show

ASKED = {"role": "user", "content": "x"}


def _called(arguments: Any, n: int = 1) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [call] * n}]}


@pytest.mark.parametrize(
    "arguments",
    [
        {"a": [[] for _ in range(30_000)]},
        {"a": [{} for _ in range(30_000)]},
        json.dumps({f"k{i}": i for i in range(30_000)}),
        json.dumps({"a": [0] * 30_000}),
        json.dumps({"arguments": json.dumps([0] * 30_000)}),
    ],
)
def test_values_count_wherever_a_call_holds_them(arguments: Any) -> None:
    with pytest.raises(Wrong, match="UNFORGOTTEN_MAX_VALUES"):
        conversation(_called(arguments), "required")


def test_values_of_many_short_texts_of_arguments_count_together() -> None:
    with pytest.raises(Wrong, match="UNFORGOTTEN_MAX_VALUES"):
        conversation(_called(json.dumps({"a": [0] * 3_000}), n=12), "required")
    assert conversation(_called(json.dumps({"code": "a, b, " * 20_000})), "required").messages  # commas of a text


def test_a_row_of_too_many_keys_is_refused_before_each_is_looked_at() -> None:
    row = {f"k{i}": 1 for i in range(200_000)}
    start = time.process_time()
    for read in (lambda: conversation(row, "required"), lambda: conversation(_called({}) | row, "required")):
        with pytest.raises(Wrong, match="keys; a row may have 1,000"):
            read()
    assert "a row may have 1,000" in fixed([(1, "f:1", row)], []).dropped[0][1]
    assert time.process_time() - start < 0.5


def test_a_thousand_calls_that_are_not_written_are_named_in_linear_time() -> None:
    calls = _called({f"k{i}": f"v{i}" for i in range(6)}, n=1_000)["messages"]
    chat = Chat(tiny_tokenizer(CHATML))
    start = time.process_time()
    with pytest.raises(TemplateError, match="call 1, 'f'"):
        chat.examples(Row(tuple(calls)))
    assert time.process_time() - start < 3


def test_a_long_conversation_is_shown_in_linear_time_and_to_the_letter() -> None:
    chat = Chat(tiny_tokenizer(CHATML))
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"é  café {i} ☃ 你好"} for i in range(400)]
    [example], _ = chat.examples(Row(tuple(turns)))
    start = time.process_time()
    seen = show.paint(chat, example, coloured=True).plain
    assert time.process_time() - start < 2
    assert seen == chat.decode(example.input_ids, skip_special_tokens=False)
