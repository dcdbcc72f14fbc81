"""`data show`: with colour and without."""

import io
import re

from rich.console import Console

from unforgotten.datasets.base import ask
from unforgotten.models.chat import Chat
from unforgotten.models.chat.show import show


def printed(chat, colour: bool, width: int = 100) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=colour, color_system="standard" if colour else None)
    rows = [ask("hello", "Paris", source="f:1"), ask("[b]hi", "four", source="f:2"), ask("a " * 99, "b", source="f:3")]
    show(chat, rows, console, limit=2, max_length=60)
    return out.getvalue()


def test_trained_tokens_stand_out_with_colour_and_without(tokenizer):
    chat = Chat(tokenizer("gemma"))
    plain = printed(chat, False)
    assert "model\n⟦Paris<end_of_turn>⟧" in plain and "user\n[b]hi<end_of_turn>" in plain
    assert "3 rows, 2 examples" in plain and "f:3" in plain and "f:2, " in plain
    coloured = printed(chat, True)
    assert "\x1b[32mParis" in coloured and "⟦" not in coloured


def test_a_narrow_terminal_crops_no_title(tokenizer):
    wide, narrow = (printed(Chat(tokenizer("gemma")), False, width) for width in (100, 15))
    titles = re.findall(r"f:[12], \d+ tokens", wide)
    assert len(titles) == 2 and all(title in narrow.splitlines() for title in titles)
