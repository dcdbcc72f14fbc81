"""Rows of many turns: what is read off one rendering is what rendering each turn by itself gives."""

from __future__ import annotations

import re
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from unforgotten.datasets.base import Row, ask
from unforgotten.errors import TemplateError
from unforgotten.models.chat import Chat, boundaries, render, tokens

TRL = find_spec("trl")
FILES = sorted(Path(__file__).with_name("kinds").glob("*.jinja"))
FILES += sorted(Path(TRL.origin).with_name("chat_templates").glob("*.jinja")) if TRL and TRL.origin else []
CONTROL = r"<\|[^|<>]{1,40}\|>|<｜[^｜]{1,40}｜>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<end_of_utterance>"


def talk(pairs: int, *, thoughts: bool = False, spaces: bool = False) -> Row:
    turns = []
    for n in range(pairs):
        user, answer = ask(f"hello {n} " + "there " * (n % 5), f"Say a word {n}." + "\n" * (spaces and n % 3)).messages
        turns += [user, {**answer, "reasoning_content": f"four {n}"} if thoughts and n % 2 else answer]
    return Row(tuple(turns))


def encoded(chat: Chat, row: Row) -> object:
    try:
        return [(e.input_ids, e.labels, e.turn, e.merges, e.lost) for e in chat.examples(row)[0]], chat.prompt(row)
    except TemplateError as error:
        return str(error)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_boundaries_by_marks_are_those_of_rendering_each_turn(file, tokenizer, monkeypatch):
    text = file.read_text(encoding="utf-8")
    made = tokenizer(bos_token="<s>")
    made.chat_template = text
    made.add_special_tokens({"additional_special_tokens": sorted(set(re.findall(CONTROL, text)))})
    try:
        chat = Chat(made)
    except TemplateError:
        return
    for row in (talk(5), talk(4, thoughts=True), talk(4, spaces=True)):
        monkeypatch.setattr(render, "FEW_TURNS", 99)
        monkeypatch.setattr(tokens, "FEW_PREFIXES", 99)
        by_turn = encoded(chat, row)
        monkeypatch.setattr(render, "FEW_TURNS", 2)
        monkeypatch.setattr(tokens, "FEW_PREFIXES", 2)
        assert encoded(chat, row) == by_turn


@pytest.mark.parametrize("backend", ["bytes", "first"])
@pytest.mark.parametrize("kind", ["llama3", "gemma", "spaced", "mistral", "marked"])
def test_they_are_read_off_for_plain_turns(kind, backend, tokenizer, monkeypatch):
    chat = Chat(tokenizer(kind, backend))
    by_turn = encoded(chat, talk(31))
    monkeypatch.setattr(render, "FEW_TURNS", 2)
    monkeypatch.setattr(tokens, "FEW_PREFIXES", 2)
    asked = []
    of_all = render.Renderer.one_by_one
    monkeypatch.setattr(render.Renderer, "one_by_one", lambda *args: asked.append(len(args[2])) or of_all(*args))
    assert encoded(chat, talk(31)) == by_turn and max(asked) < 31 / 2


def test_eight_hundred_turns_take_no_second(tokenizer):
    chat, row = Chat(tokenizer("llama3")), talk(400)
    chat.encode(talk(2))
    start = time.process_time(), time.monotonic()
    (example,) = chat.encode(row)
    assert sum(id == chat.end_ids[0] for id in example.labels) == 400
    assert time.process_time() - start[0] < 1 and time.monotonic() - start[1] < 5  # other work may hold the processor


def test_more_turns_than_can_be_rendered_one_by_one_are_refused_by_name(tokenizer):
    chat = Chat(tokenizer("qwen3"))
    assert len(chat.encode(talk(3))) == 3
    with pytest.raises(TemplateError, match="row 1: 300 assistant turns.*256 are allowed"):
        chat.encode(talk(300))


def test_a_template_that_hides_a_turn_from_the_marks_is_rendered_turn_by_turn(tokenizer, monkeypatch):
    odd = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if '7' in m.content %}!{% endif %}</s>{% endfor %}"
    odd += "{% if add_generation_prompt %}assistant: {% endif %}"
    chat = Chat(tokenizer(), template=odd)
    by_turn = encoded(chat, talk(20))
    monkeypatch.setattr(render, "FEW_TURNS", 2)
    assert encoded(chat, talk(20)) == by_turn
    assert boundaries.MOST_KINDS > 2
