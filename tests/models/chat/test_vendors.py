"""Vendors' own templates, as TRL carries them: the mask read off two renderings is the one that TRL marked by hand.

TRL comes with `make test` (extra `trl`); without it there is nothing to compare with, and nothing is run.
"""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from unforgotten.datasets.base import ask
from unforgotten.models.chat import Chat

FOUND = find_spec("trl")
FOLDER = Path(FOUND.origin).with_name("chat_templates") if FOUND and FOUND.origin else Path("nowhere")
PAIRS = sorted(p.name for p in FOLDER.glob("*.jinja") if (FOLDER / f"{p.stem}_training.jinja").exists())
CONTROL = r"<\|[^|<>]{1,40}\|>|<｜[^｜]{1,40}｜>|<(?:start|end)_of_turn>|<turn\|>|<\|turn>|<end_of_utterance>"
REFUSED = {
    "text is left out": "idefics3 smolvlm llava_next llava",  # for images: they want their text in parts
    "no end of turn": "glm4moe",  # ends a turn with the next one's header; TRL's own version adds it
    "reasoning opened": "deepseek_r1_distill deepseekv3 nemotron",  # a plain answer does not begin with <think>
}


def trained(made, name: str) -> str:
    made.chat_template = (FOLDER / name).read_text(encoding="utf-8")
    made.add_special_tokens({"additional_special_tokens": sorted(set(re.findall(CONTROL, made.chat_template)))})
    chat, row = Chat(made), ask("hello", "Say a word.")
    (example,) = chat.encode(row)
    start = next(i for i, label in enumerate(example.labels) if label >= 0)
    assert example.labels[start:] == example.input_ids[start:] and example.input_ids[:start] == chat.prompt(row)
    assert example.input_ids[-1] in chat.end_ids
    return chat.decode(example.input_ids[start:], skip_special_tokens=False)


@pytest.mark.parametrize("name", [n for n in PAIRS if not n.startswith(tuple(" ".join(REFUSED.values()).split()))])
def test_our_mask_is_the_one_marked_by_hand(name, tokenizer):
    ours = trained(tokenizer(bos_token="<s>"), name)
    assert "Say a word." in ours
    assert ours == trained(tokenizer(bos_token="<s>"), name.replace(".jinja", "_training.jinja"))
