"""One generator for replies and guards: what memory does not hold is halved, and nothing depends on the batch.

Checked against one prompt at a time by transformers' own greedy search, and against a softmax taken by hand.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.generation.test_local import random_model
from unforgotten.errors import ModelError
from unforgotten.generation.generator import Continuation, Decoding, Generator, context_tokens, ready

VOCABULARY = 17
GREEDY = Decoding(end_ids=(1, 4), pad_id=2)
PROMPTS = [[3 + (i * j) % 13 for j in range(1, 2 + (i * 5) % 9)] for i in range(11)]
LIMITS = [min(8, 14 - len(prompt)) for prompt in PROMPTS]
"""As near the end of a context of 14 tokens."""


class Starved:
    """A model's own `generate` that has memory for a few prompts at once."""

    def __init__(self, model: Any, most: int) -> None:
        self.real, self.most, self.sizes = model.generate, most, list[int]()
        model.generate = self

    def __call__(self, **inputs: Any) -> Any:
        rows = len(inputs["input_ids"])
        if rows > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        self.sizes.append(rows)
        return self.real(**inputs)


@pytest.fixture
def model() -> Any:
    return random_model("llama", VOCABULARY)


def run(model: Any, *, watched_id: int | None = None, batch_size: int = 16, **more: Any) -> dict[int, Continuation]:
    texts: dict[int, Continuation] = {}
    generator = Generator(model, GREEDY, watched_id=watched_id, **more)
    generator.run(PROMPTS, LIMITS, batch_size=batch_size, finished=texts.update)
    return texts


def one_by_one(model: Any) -> dict[int, tuple[list[int], bool]]:
    from transformers import GenerationConfig

    texts = {}
    for index, (prompt, limit) in enumerate(zip(PROMPTS, LIMITS, strict=True)):
        ids = torch.tensor([prompt])
        how = GenerationConfig(do_sample=False, max_new_tokens=limit, eos_token_id=[1, 4], pad_token_id=2)
        with ready(model):
            new = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=how)[0, len(prompt) :]
        texts[index] = (new.tolist(), new.tolist()[-1] in (1, 4))
    return texts


@pytest.mark.parametrize(
    ("most", "sizes", "failed"),
    [(4, [1, 1, 1, 4, 4], []), (3, [1, 1, 1, 2, 2, 2, 2], [4]), (1, [1] * 11, [4, 2])],
)
def test_a_batch_that_memory_does_not_hold_is_halved_and_so_are_the_later_ones(
    model: Any, most: int, sizes: list[int], failed: list[int]
) -> None:
    alone = one_by_one(model)
    assert {ended for _, ended in alone.values()} == {True, False}
    starved, notes = Starved(model, most), list[str]()
    texts = run(model, batch_size=4, note=notes.append)
    assert {index: (text.ids, text.ended) for index, text in texts.items()} == alone
    assert starved.sizes == sizes and [int(note.split()[5]) for note in notes] == failed


def test_where_one_prompt_is_too_much_the_advice_is_the_callers(model: Any) -> None:
    Starved(model, 0)
    with pytest.raises(ModelError, match=r"one prompt of 9 tokens and its reply\. Take a smaller one\."):
        run(model, memory_advice="Take a smaller one.")


def test_another_error_is_not_taken_for_a_lack_of_memory(model: Any) -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("device-side assert")

    model.generate = broken
    with pytest.raises(RuntimeError, match="device-side assert"):
        run(model)


@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_watched_tokens_probability_is_that_of_its_own_prompt(model: Any, batch_size: int) -> None:
    texts = run(model, watched_id=5, batch_size=batch_size)
    for index, prompt in enumerate(PROMPTS):
        with torch.no_grad():
            logits = model.eval()(torch.tensor([prompt])).logits[0, -1]
        by_hand = float((logits[5] - logits.logsumexp(0)).exp())
        assert texts[index].p_first == pytest.approx(by_hand, rel=1e-6)  # handed on in float32
    assert all(text.p_first is None for text in run(model).values())


def test_the_context_is_the_configurations(model: Any) -> None:
    assert context_tokens(model) == 64 and context_tokens(torch.nn.Linear(1, 1)) is None
