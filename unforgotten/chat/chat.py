"""One chat: a tokenizer, a template and a date. It encodes rows to train on and prompts to generate from.

A row is one example when each assistant turn's rendering begins the next one's (the turns nest), else one example per
assistant turn: Qwen 3, for instance, leaves earlier reasoning out of what it is shown.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING

from unforgotten.chat import template as templates
from unforgotten.chat.render import ASKED, Renderer, Turn
from unforgotten.chat.rows import IGNORED, Encoded
from unforgotten.chat.tokens import Tokens
from unforgotten.datasets.base import Message, Row
from unforgotten.errors import DataError, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Chat:
    """Renders conversations for training and for generation alike."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        template: str | None = None,
        date: str | None = None,
        variables: Mapping[str, bool | int | str] | None = None,
        stop_ids: Iterable[int] = (),
    ) -> None:
        """`template`: Jinja text, a file of it, or "alpaca"; None takes the tokenizer's own, or Alpaca's where it has
        none. `date`: ISO, for a template that prints it. `variables`: what the template reads from outside, such as
        enable_thinking. `stop_ids`: the generation config's own eos ids."""
        self.tokenizer = tokenizer
        found = templates.load(tokenizer, template, date, variables)
        self.template, self.source, self.uses_date, self.date = found.text, found.source, found.uses_date, found.date
        self._tokens = Tokens(tokenizer, self.template)
        self._renderer = Renderer(tokenizer, found, self._tokens)
        self._stop_ids = tuple(stop_ids)

    # ── what generation needs ──

    def prompt(self, asked: Row | Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The ids that a model is given: the same as in training, up to the first token of the answer.

        A row is asked its `prompt`: an answer at its end is left away.
        """
        row = asked if isinstance(asked, Row) else Row(tuple(asked))
        name = row.source or "the prompt"
        messages, tools, _ = self._renderer.clean(row, row.prompt if isinstance(asked, Row) else row.messages, name)
        text, _ = self._renderer.render(messages, tools, name, add_generation_prompt)
        said = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        turns = [self._renderer.turn(messages, tools, i, name) for i in said]
        before = [turn.prefix for turn in turns if not turn.problem and text.startswith(turn.text)]
        return self._tokens.encode_after(text, before, name).ids

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text; nothing is added to it."""
        return self._tokens.encode(text)[0]

    def text(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Messages as the template writes them, for prompts that end within a turn."""
        found, _, _ = self._renderer.clean(Row(()), messages, "the prompt")
        return self._renderer.render(found, None, "the prompt", add_generation_prompt)[0]

    def around_user(self) -> tuple[str, str]:
        """What the template writes before a user's words, and after them up to the answer's first token."""
        before, _, after = self.text(ASKED).partition(ASKED[0]["content"])
        return before, after

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The ids at which generation must stop: what ends a turn, the tokenizer's eos, the model's own."""
        found = [self._tokens.ends[token] for token in self._renderer.ends]
        found += [i for i in (self.tokenizer.eos_token_id, *self._stop_ids) if i is not None]
        if not found:
            raise TemplateError("Neither the template nor the tokenizer has a token that ends a reply.")
        return tuple(dict.fromkeys(found))

    @property
    def pad_id(self) -> int:
        """What batches are filled with, always masked: pad where the tokenizer has it, else an end token."""
        pad = self.tokenizer.pad_token_id
        return self.end_ids[0] if pad is None else pad

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids as text, its spaces as they are."""
        kept = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(ids), **kept))

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes tokenizer and template, the date in it: AutoTokenizer from there renders the same on any day."""
        theirs = self.tokenizer.chat_template
        self.tokenizer.chat_template = self.template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = theirs

    # ── what training needs ──

    def encode(self, row: Row, max_length_tokens: int | None = None) -> list[Encoded]:
        """The row's examples; none where the length limit takes the whole response (`encode_rows` counts those)."""
        cut = (example.within(max_length_tokens) for example in self.examples(row)[0])
        return [example for example in cut if example is not None]

    def examples(self, row: Row, index: int = 0) -> tuple[list[Encoded], int]:
        """The row's examples at full length, and how many control tokens its text held."""
        name = row.source or f"row {index + 1}"
        said = [i for i, message in enumerate(row.messages) if message["role"] == "assistant"]
        if not said:
            raise DataError(f"{name}: no assistant turn to train on.")
        if self._renderer.problem:
            raise TemplateError(self._renderer.problem)
        messages, tools, controls = self._renderer.clean(row, row.messages[: said[-1] + 1], name)
        turns = [self._renderer.turn(messages, tools, i, name) for i in said]
        for turn in turns:
            if turn.problem:
                raise TemplateError(f"{name}: {turn.problem}")
        if all(turns[-1].text.startswith(turn.text) for turn in turns):
            return [self._example(turns, index, name)], controls
        return [self._example(turns[: n + 1], index, name, only=i) for n, i in enumerate(said)], controls

    def _example(self, turns: list[Turn], row: int, name: str, only: int | None = None) -> Encoded:
        """The text of the last turn, with every turn in the loss, or only the one that is named.

        Boundaries of earlier turns are kept as generation saw them even where those turns are not trained on.
        """
        text = turns[-1].text
        inside = [turn for turn in turns if text.startswith(turn.text)]
        found = self._tokens.encode_after(text, [turn.prefix for turn in inside], name)
        starts, ends = [a for a, _ in found.spans], [b for _, b in found.spans]
        labels, last = [IGNORED] * len(found.ids), 0
        for turn, head in zip(inside, found.heads, strict=True):
            if only not in (None, turn.index):
                continue
            for a, b in turn.spans:
                first, last = max(head, bisect_right(ends, a)), bisect_left(starts, b)
                labels[first:last] = found.ids[first:last]
            if labels[last - 1] not in self._tokens.ends.values():
                raise TemplateError(f"{name}: the answer's end of turn is no token of its own once it is tokenised.")
        return Encoded(found.ids[:last], labels[:last], row, name, only, found.merges)
