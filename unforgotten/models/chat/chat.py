"""One chat: a tokenizer, a template and a date. It encodes rows to train on and prompts to generate from.

A row is one example when each assistant turn's rendering begins the next one's (the turns nest), else one example per
assistant turn: Qwen 3, for instance, leaves earlier reasoning out of what it is shown.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Message, Row
from unforgotten.errors import DataError, TemplateError
from unforgotten.models.chat import losses
from unforgotten.models.chat import template as templates
from unforgotten.models.chat.encoded import IGNORED, Encoded, answers, trained_turns
from unforgotten.models.chat.marks import Marker
from unforgotten.models.chat.render import ASKED, Renderer
from unforgotten.models.chat.talk import Talk, Turn

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
        loaded = templates.load(tokenizer, template, date, variables)
        self.source, self.uses_date, self.date = loaded.source, loaded.uses_date, loaded.date
        self._template, self._renderer = loaded, Renderer(tokenizer, loaded)
        self._tokens = self._renderer.tokens
        self._tool_renderer = Renderer(tokenizer, loaded.with_tools) if loaded.with_tools else self._renderer
        self._stop_ids = tuple(stop_ids)

    @property
    def template(self) -> str:
        """The template's text, for digests; with the one for tools behind it, where the tokenizer has two."""
        other = self._template.with_tools
        return self._template.text + (f"{{#- with tools -#}}{other.text}" if other else "")

    def _renderer_for(self, tools: Sequence[Any]) -> Renderer:
        """Which template renders a row, by transformers' rule: `tool_use` where tools are declared."""
        return self._tool_renderer if tools else self._renderer

    # ── what generation needs ──

    def prompt(self, asked: Row | Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """The ids that a model is given: the same as in training, up to the first token of the answer.

        A row is asked its `prompt`: an answer at its end is left away.
        """
        row = asked if isinstance(asked, Row) else Row(tuple(asked))
        renderer = self._renderer_for(row.tools)
        talk = renderer.clean(row, row.prompt if isinstance(asked, Row) else row.messages, row.source or "the prompt")
        text, _ = renderer.render(talk, add_generation_prompt)
        [marked] = renderer.marked(talk, [len(talk.messages)], add_generation_prompt)
        left_out = _lost(talk, text, marked, [], len(talk.messages))
        if called := [what for what in left_out if what.startswith(("calls", "arguments"))]:
            raise TemplateError(f"{talk.name}: this chat template leaves out {_listed(list(dict.fromkeys(called)))}.")
        said = answers(talk.messages)
        turns = renderer.turns(talk, said) if said else []
        full_text = turns[-1].text or "" if turns else ""
        before = [t for t in turns if not t.problem and text.startswith(full_text if t.text is None else t.text)]
        prefixes, ends = [turn.start for turn in before], [turn.end for turn in before]
        return renderer.tokens.encode_after(text, prefixes, talk.name, ends).ids

    def ids(self, text: str) -> list[int]:
        """The ids of a rendered text; nothing is added to it."""
        return self._tokens.encode(text)[0]

    def text(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> str:
        """Messages as the template writes them, for prompts that end within a turn."""
        return self._renderer.render(self._renderer.clean(Row(()), messages, "the prompt"), add_generation_prompt)[0]

    def around_user(self) -> tuple[str, str]:
        """What the template writes before a user's words, and after them up to the answer's first token."""
        before, _, after = self.text(ASKED).partition(ASKED[0]["content"])
        return before, after

    @cached_property
    def end_ids(self) -> tuple[int, ...]:
        """The ids at which generation must stop: what ends a turn, the tokenizer's eos, the model's own."""
        ids = [r.tokens.ends[token] for r in (self._renderer, self._tool_renderer) for token in r.ends]
        ids += [i for i in (self.tokenizer.eos_token_id, *self._stop_ids) if i is not None]
        if not ids:
            raise TemplateError(
                "Neither the template nor the tokenizer has a token that ends a reply. Set tokenizer.eos_token."
            )
        return tuple(dict.fromkeys(ids))

    @property
    def pad_id(self) -> int:
        """What batches are filled with, always masked: pad where the tokenizer has it, else an end token."""
        pad = self.tokenizer.pad_token_id
        return self.end_ids[0] if pad is None else pad

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Ids as text, its spaces as they are."""
        options = {"skip_special_tokens": skip_special_tokens, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(list(ids), **options))

    def save(self, folder: str | PathLike[str]) -> None:
        """Writes tokenizer and template, the date in it: AutoTokenizer from there renders the same on any day."""
        theirs = self.tokenizer.chat_template
        template, other = self._template.text, self._template.with_tools
        self.tokenizer.chat_template = {"default": template, "tool_use": other.text} if other else template
        try:
            self.tokenizer.save_pretrained(folder)
        finally:
            self.tokenizer.chat_template = theirs

    # ── what training needs ──

    def encode(self, row: Row, max_length: int | None = None) -> list[Encoded]:
        """The row's examples; none where the length limit takes the whole response (`encode_rows` counts those)."""
        cut = (example.within(max_length) for example in self.examples(row)[0])
        return [example for example in cut if example is not None]

    def examples(self, row: Row, index: int = 0) -> tuple[list[Encoded], int]:
        """The row's examples at full length, and how many control tokens its text held."""
        name = row.source or f"row {index + 1}"
        trained = trained_turns(row)
        if not trained:
            marked = any(message["role"] == "assistant" for message in row.messages)
            why = (
                "each turn is marked as context, or comes before any user turn" if marked else "a row ends in an answer"
            )
            raise DataError(f"{name}: no assistant turn to train on ({why}).")
        renderer = self._renderer_for(row.tools)
        if renderer.problem:
            raise TemplateError(renderer.problem)
        talk = renderer.clean(row, row.messages[: trained[-1] + 1], name)
        turns = renderer.turns(talk, answers(talk.messages))
        learnt = [turn for turn in turns if turn.index in trained]
        for turn in learnt:
            if turn.problem:
                raise TemplateError(f"{name}: {turn.problem}")
        full_text = turns[-1].text or ""
        if all(turn.text is None or full_text.startswith(turn.text) for turn in learnt):
            groups = [(turns, trained)]
        else:
            groups = [([t for t in turns if t.index <= i], [i]) for i in trained]
        marked_texts = renderer.marked(talk, [of[-1].index + 1 for of, _ in groups])
        split = len(groups) > 1
        examples = [
            self._example(renderer, talk, of, only, marked_text, index, split)
            for (of, only), marked_text in zip(groups, marked_texts, strict=True)
        ]
        return examples, talk.controls

    def _example(
        self,
        renderer: Renderer,
        talk: Talk,
        turns: list[Turn],
        trained: list[int],
        marked: str | None,
        row: int,
        split: bool,
    ) -> Encoded:
        """The text of the last turn, with the trained turns in the loss.

        Boundaries of earlier turns are kept as generation saw them even where those turns are not trained on.
        """
        name, text = talk.name, turns[-1].text or ""
        tokens = renderer.tokens
        inside = [
            turn
            for turn in turns
            if turn.text is None or (text.startswith(turn.text) and (turn.index in trained or not turn.problem))
        ]
        encoded = tokens.encode_after(text, [t.start for t in inside], name, [t.end for t in inside])
        starts, ends = [a for a, _ in encoded.spans], [b for _, b in encoded.spans]
        labels, last = [IGNORED] * len(encoded.ids), 0
        for turn, head in zip(inside, encoded.heads, strict=True):
            if turn.index not in trained:
                continue
            for a, b in turn.spans:
                first, last = max(head, bisect_right(ends, a)), bisect_left(starts, b)
                labels[first:last] = encoded.ids[first:last]
            if labels[last - 1] not in tokens.ends.values():
                raise TemplateError(f"{name}: after tokenization, the answer's end of turn is not a separate token.")
        lost = _lost(talk, text, marked, [turn for turn in inside if turn.index in trained], turns[-1].index)
        only = trained[0] if split else None
        return Encoded(encoded.ids[:last], labels[:last], row, name, only, encoded.merges, lost=tuple(lost))


def _lost(talk: Talk, text: str, marked: str | None, trained: list[Turn], last: int) -> list[str]:
    """What the template leaves out of one example and is no more than counted. Raises TemplateError for the rest."""
    marker = talk.marker or Marker(talk.messages, talk.tools or [])
    written = losses.Written(text.rstrip(), None if marked is None else marked.rstrip())
    for turn in trained:
        if missing := losses.refused(marker.parts, written, turn.index, turn.spans):
            raise TemplateError(
                f"{talk.name}: this chat template leaves out trained content of message {turn.index + 1}: "
                f"{_listed(missing)}. Give a template that writes it, or remove it from the row."
            )
    missing, counted = losses.in_context(marker.parts, written, talk.messages, [t.index for t in trained], last)
    if any(what.startswith("the tool '") for what in missing):
        raise TemplateError(
            f"{talk.name} uses tools, but this chat template does not support them. It leaves out {_listed(missing)}."
        )
    if missing:
        raise TemplateError(f"{talk.name}: this chat template leaves out {_listed(missing)}.")
    return counted


def _listed(missing: Sequence[str]) -> str:
    return ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
