"""Thought and answer are told apart as the models write them: the examples are in their published formats."""

from __future__ import annotations

import pytest

from unforgotten.models.chat.thinking import Parts, opens, split


@pytest.mark.parametrize(
    ("text", "opened", "parts"),
    [
        ("Paris.", False, Parts("", "Paris.")),
        ("<think>\nLet me see.\n</think>\n\nParis.", False, Parts("Let me see.", "Paris.")),  # Qwen 3
        ("Let me see.\n</think>\n\nParis.", True, Parts("Let me see.", "Paris.")),  # DeepSeek R1: opened in the prompt
        ("<think>\n\n</think>\n\nParis.", False, Parts("", "Paris.")),  # Qwen 3, thinking off
        ("[THINK]Let me see.[/THINK]Paris.", False, Parts("Let me see.", "Paris.")),  # Magistral
        ("<think>\nLet me see and", False, Parts("Let me see and", "", unclosed=True)),
        ("Let me see and", True, Parts("Let me see and", "", unclosed=True)),
        ("Use the <think> tag and", False, Parts("", "Use the <think> tag and")),
        ("Write <think> and </think> around it.", False, Parts("", "Write <think> and </think> around it.")),
        ("Let me see.\n</think>Paris.", False, Parts("Let me see.", "Paris.")),  # a server's template opened it
        ("<think>one</think>two<think>three</think>four", False, Parts("onetwothree", "four")),
    ],
)
def test_a_reply_is_split(text: str, opened: bool, parts: Parts) -> None:
    assert split(text, opened) == parts


@pytest.mark.parametrize(
    ("prompt", "is_open"),
    [
        ("<|Assistant|><think>\n", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("<|im_start|>assistant\n", False),
        ("user: what does <think> do?\nassistant:", False),  # somebody's words, not the template's
        ("<think>so</think> and again <think>", True),
    ],
)
def test_a_prompt_may_open_the_thought(prompt: str, is_open: bool) -> None:
    assert opens(prompt) is is_open
