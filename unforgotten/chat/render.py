"""A conversation's text, and what of it the assistant says.

Most templates do not mark what the assistant says, so it is read off two renderings. For the assistant turn i,

    prefix = render(messages before i, with the generation prompt)      what generation would be given
    full   = render(messages up to i)

and the loss sees `full` after `prefix`, up to and including the end of turn: what follows is never generated. Where the
template has {% generation %} marks, the loss sees what they mark of that.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unforgotten.chat.template import Template
from unforgotten.chat.tokens import Tokens
from unforgotten.datasets.base import Message, Row
from unforgotten.errors import DataError, TemplateError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tools = list[dict[str, Any]] | None
ASKED: tuple[Message, ...] = ({"role": "user", "content": "Say a word."},)
ANSWERED: Message = {"role": "assistant", "content": "hello there"}
"""The conversation that shows how a template writes an answer."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn, rendered; `problem` says why it cannot be trained on, if it cannot."""

    index: int
    prefix: str
    text: str
    """From the conversation's first character up to and including this turn's end."""
    spans: list[tuple[int, int]]
    """The characters of `text` that the loss sees."""
    problem: str


class Renderer:
    """One template over one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template, tokens: Tokens) -> None:
        self._tokenizer, self._template, self._tokens = tokenizer, template, tokens
        self._tail = self._after_an_answer()
        last = [token for token in tokens.added if self._tail.rstrip().endswith(token)]
        tokens.end_turns(max(last, key=len, default=None))
        self.ends = sorted((t for t in tokens.ends if t in self._tail), key=self._tail.find) if last else []
        """The tokens with which the template ends a turn: mostly one, but Phi 3 writes <|end|> and then its eos."""

    def clean(self, row: Row, messages: Iterable[Message], name: str) -> tuple[list[Message], Tools, int]:
        """Messages and tools as templates want them, control tokens neutralised and counted."""
        counted = 0
        cleaned: list[Message] = []
        try:
            for message in messages:
                kept, n = self._tokens.neutralise(_tidy(message), assistant=message["role"] == "assistant")
                cleaned.append(kept)
                counted += n
            tools, n = self._tokens.neutralise(list(row.tools), assistant=False)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        if not self._template.has_tools and (tools or any(m.get("tool_calls") for m in cleaned)):
            raise TemplateError(f"{name} uses tools, and this chat template has no place for them.")
        return cleaned, tools or None, counted + n

    def render(
        self, messages: list[Message], tools: Tools, name: str, generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The template's text, and the spans that it marks itself."""
        from jinja2 import TemplateError as Refusal
        from transformers.utils.chat_template_utils import render_jinja_template

        specials: dict[str, Any] = self._tokenizer.special_tokens_map
        try:
            found: Any = render_jinja_template(
                [messages],
                tools=tools,
                chat_template=self._template.text,
                add_generation_prompt=generation_prompt,
                return_assistant_tokens_mask=self._template.marked,
                **specials,
            )
            texts, marks = found
        except (Refusal, TypeError, ValueError, KeyError) as error:
            said = str(error) or type(error).__name__
            roles = [m["role"] for m in messages]
            if "system" in roles and "system" in said.lower():
                raise TemplateError(f"{name}: this chat template has no system role (it says: {said}).") from None
            raise TemplateError(f"{name}: the chat template refuses {' → '.join(roles)}: {said}") from None
        for message in messages:
            content = message.get("content")
            if message["role"] == "system" and isinstance(content, str) and content.strip() not in texts[0]:
                raise TemplateError(f"{name}: this chat template has no system role: it drops the system turn.")
        return texts[0], marks[0] if marks else []

    def turn(self, messages: list[Message], tools: Tools, index: int, name: str) -> Turn:
        """The assistant turn at `index`: what precedes it, and how far it goes."""
        prefix, _ = self.render(messages[:index], tools, name, True)
        full, marks = self.render(messages[: index + 1], tools, name, False)
        text = full.rstrip()
        problem = ""
        if not text.endswith(tuple(self._tokens.ends)):
            problem = f"no end-of-turn token ends the assistant's turn: it ends in {text[-20:]!r}."
        spans = [(len(prefix), len(text))]
        if self._template.marked:
            spans = [(max(a, len(prefix)), min(b, len(text))) for a, b in marks if b > len(prefix)]
            if not spans or spans[-1][1] < len(text):
                left = full[spans[-1][1] if spans else len(prefix) : len(text)]
                problem = (
                    f"the template's {{% generation %}} marks leave out {left!r} at the end of the assistant's turn: "
                    "the model would never learn to stop. Put it inside the marks."
                )
        if not full.startswith(prefix):
            same = next(i for i, (a, b) in enumerate(zip(full + "\0", prefix + "\1", strict=False)) if a != b)
            problem = (
                f"the template's generation prompt goes on with {prefix[same:][:40]!r} where an assistant's turn has "
                f"{full[same:][:40]!r}, so what is generated after the one would not be what is trained on after the "
                "other. Set the template's own variable if it has one (enable_thinking, thinking), or give a template "
                "file in which they agree."
            )
        return Turn(index, prefix, text, spans, problem)

    def _after_an_answer(self) -> str:
        """What the template writes after an answer."""
        full, _ = self.render([*ASKED, ANSWERED], None, "a plain question", False)
        if ASKED[0]["content"] not in full or ANSWERED["content"] not in full:
            raise TemplateError(
                "This chat template leaves out what was said in a plain question and answer; those for images want "
                "their text in parts. Give a template file for text."
            )
        return full.rpartition(ANSWERED["content"])[2]

    @cached_property
    def problem(self) -> str:
        """Why no row can be trained on with this template; mostly empty."""
        if not self.ends:
            return (
                f"This chat template writes {self._tail!r} after an answer, in which no token ends the turn: the loss "
                "would look healthy and the model would never stop. Let the template write "
                f"{self._tokenizer.eos_token or 'an eos token'!r} after each assistant turn, or make its end of turn a "
                "special token of the tokenizer."
            )
        prefix, _ = self.render(list(ASKED), None, "a plain question", True)
        without, _ = self.render(list(ASKED), None, "a plain question", False)
        full, _ = self.render([*ASKED, ANSWERED], None, "a plain question", False)
        opening = full[len(prefix) :].partition(ANSWERED["content"])[0]
        if prefix == without and full.startswith(prefix) and opening.strip():
            return (
                "This chat template does not depend on add_generation_prompt: the model would be asked without "
                f"{opening!r}, which opens each answer in training. Let it write that where add_generation_prompt is "
                "set."
            )
        return ""


def _tidy(message: Message) -> Message:
    """A message without empty keys, its calls' arguments as objects: templates print them as JSON themselves."""
    kept = {key: value for key, value in message.items() if value is not None}
    kept.setdefault("content", "")
    if calls := kept.get("tool_calls"):
        kept["tool_calls"] = [_call(call) for call in calls]
    return kept


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        return {**call, "function": {**function, "arguments": json.loads(function["arguments"])}}
    except json.JSONDecodeError:
        return call
