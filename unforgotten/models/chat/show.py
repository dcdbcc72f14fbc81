"""Rows as the model will be trained on them, the trained tokens marked: `unforgotten data show FILE --model M`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from unforgotten.datasets.base import Row
from unforgotten.models.chat.encoded import IGNORED, Encoded
from unforgotten.models.chat.rows import encode_rows

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from unforgotten.models.chat.chat import Chat

TRAINED, CONTEXT, CONTROL = "green", "dim", "bold blue"
NEAR_TOKENS = 32
"""Before a piece that are decoded with it, so that the cost is linear: one suffices, and a letter may be of several."""


def show(chat: Chat, rows: Sequence[Row], console: Console, limit: int = 5, max_length: int | None = None) -> None:
    """Prints the first `limit` rows with their mask, a legend, and the counts of all rows."""
    coloured = console.color_system is not None and not console.no_color
    template = f"template: {chat.source}" + (f", date fixed at {chat.date}" if chat.date else "")
    legend = (
        "trained on: green; control tokens: blue, or underlined where trained on" if coloured else "trained on: ⟦…⟧"
    )
    counts = encode_rows(chat, rows, max_length)[1]  # first, since it names every row that is wrong
    console.print(f"{legend}; {template}", markup=False, highlight=False)
    for row in rows[:limit]:
        full_length, _ = chat.examples(row)
        for example in full_length:
            cut = example.within(max_length)
            title = _title(example, cut, max_length)
            if len(title) + 4 > console.width:  # a rule would crop it
                console.rule()
                console.print(title, markup=False, highlight=False)
            else:
                console.rule(title, align="left")
            console.print(paint(chat, cut or example, coloured), soft_wrap=True)
    console.rule()
    for line in counts.lines():
        console.print(line, markup=False, highlight=False)


def paint(chat: Chat, example: Encoded, coloured: bool = True) -> Text:
    """One example's text; a run of trained tokens is green, or stands in ⟦…⟧ where there is no colour."""
    from rich.text import Text

    special = set(chat.tokenizer.all_special_ids)
    kinds = [(label != IGNORED, id in special) for id, label in zip(example.input_ids, example.labels, strict=True)]
    text, end = Text(), 0
    for trained, run in groupby(kinds, key=lambda kind: kind[0]):
        open_, close = ("⟦", "⟧") if trained and not coloured else ("", "")
        text.append(open_)
        for control, part in groupby(run, key=lambda kind: kind[1]):
            start, end = end, end + len(list(part))
            # Decoded with the tokens before it: some tokenizers drop the space that opens a piece.
            near = max(0, start - NEAR_TOKENS)
            before = chat.decode(example.input_ids[near:start], skip_special_tokens=False)
            now = chat.decode(example.input_ids[near:end], skip_special_tokens=False)
            style = TRAINED if trained else CONTROL if control else CONTEXT
            text.append(now[len(before) :], style=f"{style} underline" if control and trained else style)
        text.append(close)
    return text


def _title(example: Encoded, cut: Encoded | None, limit: int | None) -> str:
    parts = [example.source, f"{len(example.input_ids)} tokens"]
    parts += [f"assistant turn at message {example.turn + 1} alone"] if example.turn is not None else []
    if cut is None:
        parts.append(f"DROPPED: {limit} tokens are all prompt, without the response")
    elif cut.cut:
        parts.append(f"cut at {limit} tokens")
    return ", ".join(parts)
