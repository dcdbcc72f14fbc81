"""A guard's prompts, written by its tokenizer; no weights are needed, and the judged text closes no turn."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from unforgotten.errors import ModelError, TemplateError
from unforgotten.models.chat import jinja_process
from unforgotten.models.chat.tokens import Tokens
from unforgotten.models.folder import pretrained

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_NO_LIMIT = 1_000_000
"""Transformers writes 1e30 where a tokenizer knows no length; no guard reads a million tokens."""


class PromptWriter:
    """A guard's tokenizer, and what it writes around the judged text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str | None = None) -> None:
        """template: the text around what is judged, whose control tokens the judged text cannot write; None for the
        tokenizer's own chat template."""
        self.tokenizer = tokenizer
        if template is None:
            if not tokenizer.chat_template:
                raise ModelError("its tokenizer has no chat template, so how it is asked is not known.")
            template = str(tokenizer.get_chat_template())
        self._tokens = Tokens(tokenizer, template)
        self._tokens.end_turns(None)

    def plain(self, text: str) -> str:
        """The text with its control tokens parted by a mark, which `ids` takes out again. Raises DataError."""
        return str(self._tokens.neutralise(text, assistant=False)[0])

    def ids(self, text: str) -> list[int]:
        """The ids of a prompt; nothing is added to it. Raises DataError where a control token is in disguise."""
        return self._tokens.encode_after(text, [], "the judged text").ids

    @property
    def context_tokens(self) -> int | None:
        """The longest prompt that the tokenizer says its model reads; None where it says nothing."""
        longest = int(self.tokenizer.model_max_length)
        return longest if longest < _NO_LIMIT else None

    def asked(self, text: str) -> str:
        """One user turn in the tokenizer's chat template, up to where the answer begins.

        Thinking is switched off where the template can do so. Raises ModelError where the template leaves the turn out.
        """
        turns = [{"role": "user", "content": text}]
        prompt = str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        )
        if text.strip() not in prompt:
            raise ModelError("its chat template leaves out what it is asked.")
        return prompt

    def chat(self, request: str, reply: str) -> str:
        """Request and reply as the tokenizer's own template writes them, up to where the guard begins to speak."""
        return self._render(request, reply, self._in_parts)

    @cached_property
    def _in_parts(self) -> bool:
        """Does the template want content in parts, as those of the 1B and the vision model do? Given plain text, they
        leave it out without a word."""
        request, reply = "Say a word.", "hello there"
        for in_parts in (False, True):
            try:
                text = self._render(request, reply, in_parts)
            except ModelError:
                continue
            if request in text and reply in text:
                return in_parts
        raise ModelError("its chat template leaves out what it is to judge.")

    def _render(self, request: str, reply: str, in_parts: bool) -> str:
        contents = [[{"type": "text", "text": text}] if in_parts else text for text in (request, reply)]
        turns = [{"role": "user", "content": contents[0]}, {"role": "assistant", "content": contents[1]}]
        [rendered] = jinja_process.render(  # a guard's template is a program of its makers
            str(self.tokenizer.get_chat_template()),
            [turns],
            [(0, 2, True)],
            specials=self.tokenizer.special_tokens_map,
            name="the judged text",
        )
        if isinstance(rendered, str):
            raise ModelError(f"its chat template refuses what it is to judge: {rendered}")
        return rendered[0]


def load_writer(name: str, *, revision: str | None = None, template: str | None = None) -> PromptWriter:
    """A guard's tokenizer from a folder or the Hub. Raises ModelError."""
    try:
        return PromptWriter(pretrained.tokenizer(name, revision)[0], template)
    except TemplateError as error:
        raise ModelError(" ".join(str(error).split())[:300]) from error
