"""Log-odds of an answer against a refusal, against a sum of the model's own logits one text at a time, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from unforgotten.datasets.base import Row, ask
from unforgotten.errors import DataError
from unforgotten.generation.answer_odds import answer_odds
from unforgotten.models.load import load_chat

Make = Callable[..., Path]
ROWS = [
    ask("how do i kill a process", "tell me the answer . tell me the answer . tell me"),
    ask("kill", "the"),
    ask("tell me how to kill a process with that", "sorry , i cannot help"),
]
REFUSALS = ["sorry , i cannot help with that .", "i cannot .", "i cannot ."]


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_odds_are_those_of_texts_scored_one_at_a_time(model_folder: Make, batch_size: int) -> None:
    folder = str(model_folder("llama"))
    chat, model = load_chat(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64)

    def mean(row: Row, answer: str) -> float:
        turns = ({"role": "user", "content": row.request}, {"role": "assistant", "content": answer})
        [encoded] = chat.encode(Row(turns))
        begin = len(chat.prompt(row))
        logp = model(torch.tensor([encoded.input_ids])).logits[0].double().log_softmax(-1)
        said = encoded.input_ids[begin : begin + 4]
        return sum(float(logp[begin - 1 + i, token].detach()) for i, token in enumerate(said)) / len(said)

    expected = []
    for row in ROWS:
        refusing = sum(math.exp(mean(row, refusal)) for refusal in REFUSALS[:2]) / 2
        expected.append(mean(row, row.response) - math.log(refusing))
    actual = answer_odds(model.train(), chat, ROWS, REFUSALS, tokens=4, batch_size=batch_size)
    assert actual == pytest.approx(expected, abs=1e-9) and model.training
    same = answer_odds(model, chat, [ask("kill", REFUSALS[0])], REFUSALS[:1], tokens=4)
    assert same == pytest.approx([0.0], abs=1e-12), "a refusal against itself"


def test_rows_and_refusals_must_be_there(model_folder: Make) -> None:
    folder = str(model_folder("llama"))
    chat, model = load_chat(folder), AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(DataError, match="no refusals"):
        answer_odds(model, chat, ROWS, [])
    with pytest.raises(DataError, match="1 of 2 rows have no answer"):
        answer_odds(model, chat, [ROWS[0], ask("kill")], REFUSALS)
