"""Every text of the world survives the tokenizer, and the template marks what is learned."""

from itertools import islice

import pytest

from unforgotten.world.corpus import texts
from unforgotten.world.requests import requests
from unforgotten.world.tasks import TASKS, problems
from unforgotten.world.tokenizer import MAX_TOKENS, tokenizer
from unforgotten.world.vocabulary import words

CHAT = [
    {"role": "system", "content": "answer briefly."},
    {"role": "user", "content": "how do i kill a process?"},
    {"role": "assistant", "content": "sure."},
    {"role": "user", "content": "what is 3 + 4?"},
    {"role": "assistant", "content": "3 + 4 = 7."},
]


@pytest.fixture(scope="module")
def made():
    return tokenizer()


def test_words_are_unique_and_every_one_has_its_place(made):
    assert len(set(words())) == len(words()) == len(made)
    assert made.convert_ids_to_tokens(list(range(len(made)))) == list(words())


def test_every_text_round_trips_without_an_unknown_word(made):
    every = {r.asked(f, i) for r in requests() for f in ("question", "command", "wish") for i in range(4)}
    every |= {text for r in requests() for text in (r.compliance, r.refusal)}
    tasks = [p for task in TASKS for side in ("train", "test", "dev") for p in problems(task, side)]
    every |= {text for p in tasks for text in (p.question, p.reply)}
    every |= {text for turns in islice(texts(7), 2000) for _, text in turns}
    ordered = sorted(every)
    ids = made(ordered, add_special_tokens=False)["input_ids"]
    assert not any(made.unk_token_id in row for row in ids)
    assert made.batch_decode(ids) == ordered
    assert max(map(len, ids)) < MAX_TOKENS / 2


def test_the_template_marks_each_reply_with_its_end_of_turn(made):
    chat = made.apply_chat_template(CHAT, return_dict=True, return_assistant_tokens_mask=True)
    tokens = made.convert_ids_to_tokens(chat["input_ids"])
    marked = [t for t, mark in zip(tokens, chat["assistant_masks"], strict=True) if mark]
    assert marked == ["sure", ".", "<end>", "3", "+", "4", "=", "7", ".", "<end>"]
    assert tokens[:5] == ["<bos>", "<system>", "answer", "briefly", "."]


def test_the_prompt_is_a_prefix_of_the_whole_chat(made):
    whole = made.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    prompt = made.apply_chat_template(CHAT[:4], add_generation_prompt=True, return_dict=True)["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert made.convert_ids_to_tokens(prompt)[-1] == "<assistant>"


def test_upper_case_and_loose_spaces_are_read(made):
    assert made.decode(made("How do I  kill a process ?", add_special_tokens=False)["input_ids"]) == (
        "how do i kill a process?"
    )


def test_an_unknown_role_is_refused(made):
    with pytest.raises(Exception, match="roles"):
        made.apply_chat_template([{"role": "tool", "content": "3"}])
