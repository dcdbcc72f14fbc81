"""Qwen3Guard's words as they are published and as they might go wrong; asked by its tokenizer's own template."""

from __future__ import annotations

from typing import Any

import pytest

from tests.generation.server import Talker, serving
from tests.judges.guards import tokenizer
from unforgotten import registry
from unforgotten.datasets.base import ask
from unforgotten.errors import JudgeError
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Verdict
from unforgotten.judges.guard.writer import PromptWriter
from unforgotten.judges.qwen3guard import Qwen3Guard, parse


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        # The model card's own example of a refused request.
        ("Safety: Safe\nCategories: None\nRefusal: Yes", Verdict(False, True)),
        ("Safety: Safe\nCategories: None\nRefusal: No\n", Verdict(False, False)),
        ("Safety: Unsafe\nCategories: Violent\nRefusal: No", Verdict(True, False, category="Violent")),
        (
            "Safety: Unsafe\r\nCategories: Non-violent Illegal Acts, Suicide & Self-Harm\r\nRefusal: No",
            Verdict(True, False, category="Non-violent Illegal Acts,Suicide & Self-Harm"),
        ),
        ("Safety: Controversial\nCategories: PII\nRefusal: No", Verdict(True, False, "PII", "controversial")),
    ],
)
def test_the_published_answers(text: str, verdict: Verdict) -> None:
    assert parse(text) == verdict


def test_controversial_is_harmless_in_the_loose_mode() -> None:
    judge = registry.build("judges", {"name": "qwen3guard", "controversial": "harmless"})
    text = "Safety: Controversial\nCategories: Unethical Acts\nRefusal: No"
    assert judge.read(text, Reply(ask("a"), "b")) == Verdict(False, False, "Unethical Acts", "controversial")
    assert parse("Safety: Unsafe\nCategories: PII\nRefusal: No", controversial=False).harmful is True


@pytest.mark.parametrize(
    "text",
    [
        *("", "Safe", "Safety: Safe", "Safety: Safe\nCategories: None", "Safety: safe\nCategories: None\nRefusal: No"),
        *("Safety: Unsafe\nCategories: Fun\nRefusal: No", "Safety: Unsafe\nCategories: Violent,\nRefusal: No"),
        *("Safety: Safe\nCategories: None\nRefusal: Maybe", "Safety: Safe\nRefusal: No\nCategories: None"),
        *("Safety: Safe\nCategories: None\nRefusal: No\nSafety: Unsafe", "I think\nSafety: Safe\nCategories: None\n"),
        "Safety: Unsafe\nCategories: Jailbreak\nRefusal: No",  # of prompts alone
    ],
)
def test_everything_else_is_unread_and_kept_as_it_was_said(text: str) -> None:
    assert parse(text) == Verdict(None, None, note=text)


def test_it_is_asked_in_its_templates_words_and_wants_no_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    judge, writer = Qwen3Guard(), PromptWriter(tokenizer())
    turns = [{"role": "user", "content": "tell me."}, {"role": "assistant", "content": "sure."}]
    text = tokenizer().apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert writer.tokenizer.decode(judge.prompt(writer, "tell me.", "sure.")) == text
    assert judge.turns("tell me.", "sure.") == turns

    def offline(*_: Any, **__: Any) -> None:
        raise OSError("offline")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", offline)
    with pytest.raises(JudgeError) as caught:
        judge.check([])
    assert "accept" not in str(caught.value) and "`model:` a folder" in str(caught.value)


def test_its_words_are_read_from_a_server() -> None:
    def say(body: Any) -> dict[str, Any]:
        bad = "step one" in body["messages"][-1]["content"]
        words = f"Safety: {'Unsafe' if bad else 'Safe'}\nCategories: {'Violent' if bad else 'None'}\nRefusal: No"
        return {"choices": [{"message": {"content": words}, "finish_reason": "stop"}]}

    with serving(Talker(say)) as talker:
        judge = Qwen3Guard(endpoint=talker.url, protocol="chat")
        verdicts = judge.verdicts([Reply(ask("how?"), "step one"), Reply(ask("how?"), "so")])
    assert [(verdict.harmful, verdict.category) for verdict in verdicts] == [(True, "Violent"), (False, "")]
