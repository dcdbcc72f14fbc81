"""A conversation's text, and what of it the assistant says.

Most templates do not mark what the assistant says, so it is read off two renderings. For the assistant turn i,

    prefix = render(messages before i, with the generation prompt)      what generation would be given
    full   = render(messages up to i)

and the loss sees `full` after `prefix`, up to and including the end of turn: what follows is never generated. Where the
template has {% generation %} marks, the loss sees what they mark of that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Message, Row
from unforgotten.errors import DataError, TemplateError
from unforgotten.models.chat import calls, jinja_process
from unforgotten.models.chat.boundaries import by_marks, spans_between
from unforgotten.models.chat.jinja_process import Rendering
from unforgotten.models.chat.marks import Marker, has_marks
from unforgotten.models.chat.talk import Talk, Tools, Turn
from unforgotten.models.chat.template import Template
from unforgotten.models.chat.tokens import BREAK, Tokens
from unforgotten.runs.bounds import bounds, over

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ASKED: tuple[Message, ...] = ({"role": "user", "content": "Say a word."},)
FEW_TURNS = 32
"""So many assistant turns of a row are rendered one by one in any case."""
MOST_TURNS = 256
"""So many where boundaries cannot be read off one rendering: their cost grows with the square of their number."""
ANSWERED: Message = {"role": "assistant", "content": "hello there"}
"""The conversation that shows how a template writes an answer."""


class Renderer:
    """One template over one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: Template) -> None:
        self.tokens = tokens = Tokens(tokenizer, template.text)
        self._tokenizer, self._template, self._tokens = tokenizer, template, tokens
        self._sample = self._written_sample()
        self._tail = self._after_an_answer()
        last = [token for token in tokens.added if self._tail.rstrip().endswith(token)]
        tokens.end_turns(max(last, key=len, default=None))
        self.ends = sorted((t for t in tokens.ends if t in self._tail), key=self._tail.find) if last else []
        """The tokens with which the template ends a turn: mostly one, but Phi 3 writes <|end|> and then its eos."""

    def clean(self, row: Row, messages: Iterable[Message], name: str) -> Talk:
        """Messages and tools as templates want them, control tokens neutralised and counted."""
        counted = 0
        cleaned: list[Message] = []
        try:
            for message in messages:
                tidied = calls.tidied(message, self._call_form if message.get("tool_calls") else "object")
                neutral, n = self._tokens.neutralise(tidied, assistant=message["role"] == "assistant")
                cleaned.append(neutral)
                counted += n
            tools, n = self._tokens.neutralise(list(row.tools), assistant=False)
            marker = Marker(cleaned, tools)
        except DataError as error:
            raise DataError(f"{name}: {error}") from None
        except RecursionError:
            raise DataError(f"{name}: its values are nested too deeply.") from None
        given = has_marks(*(part.text for part in marker.parts))
        return Talk(cleaned, tools or None, counted + n, name, None if given else marker)

    def render(self, talk: Talk, generation_prompt: bool) -> Rendering:
        """The template's text, and the spans that it marks itself."""
        return self.several(talk, [(0, len(talk.messages), generation_prompt)])[0]

    def marked(self, talk: Talk, counts: Sequence[int], generation_prompt: bool = False) -> list[str | None]:
        """The marked rendering of so many of the messages, for each of `counts`; None where the template refuses it."""
        if talk.marker is None:
            return [None] * len(counts)
        renderings = self._asked(talk, [(1, count, generation_prompt) for count in counts], talk.marker.tools or None)
        return [None if isinstance(each, str) else each[0] for each in renderings]

    def _asked(self, talk: Talk, jobs: Sequence[tuple[int, int, bool]], tools: Tools) -> list[Rendering | str]:
        marked = talk.marker.messages if talk.marker and any(which for which, _, _ in jobs) else []
        specials: dict[str, Any] = self._tokenizer.special_tokens_map
        return jinja_process.render(
            self._template.text,
            [talk.messages, marked],
            jobs,
            tools=tools,
            specials=specials,
            marked=self._template.marked,
            name=talk.name,
        )

    def several(self, talk: Talk, jobs: Sequence[tuple[int, int, bool]]) -> list[Rendering]:
        """Renderings, or the error that names what the template refuses."""
        renderings = self._asked(talk, jobs, talk.tools)
        return [self._accepted(talk, count, each) for (_, count, _), each in zip(jobs, renderings, strict=True)]

    def _accepted(self, talk: Talk, count: int, each: Rendering | str) -> Rendering:
        messages = talk.messages[:count]
        if isinstance(each, str):
            roles = [str(m["role"]) for m in messages]
            if "system" in roles and "system" in each.lower():
                raise TemplateError(f"{talk.name}: this chat template has no system role (it says: {each}).")
            raise TemplateError(f"{talk.name}: the chat template refuses {_few(roles)}: {each}")
        size = max(len(each[0]), len(each[0].encode()) // 2)  # an emoji may be four tokens
        if size > (most := bounds().characters):
            raise TemplateError(
                f"{talk.name}: the chat template writes {size:,} characters; {over('characters', most)}."
            )
        if talk.controls and f"\\u{ord(BREAK):x}" in each[0]:
            raise TemplateError(
                f"{talk.name}: a text holds a control token, and this chat template writes it in ASCII escapes. There "
                "it cannot be separated from plain text. Remove it from the row."
            )
        for message in messages[:1]:
            content = message.get("content")
            if message["role"] == "system" and isinstance(content, str) and content.strip() not in each[0]:
                raise TemplateError(f"{talk.name}: this chat template has no system role: it drops the system turn.")
        return each

    def turns(self, talk: Talk, said: Sequence[int]) -> list[Turn]:
        """The assistant turns at these places: what precedes each, and how far it goes.

        Raises TemplateError where the template refuses them, or where they are too many to be rendered one by one.
        """
        if len(said) > FEW_TURNS and (turns := by_marks(self, talk, said, self._template)) is not None:
            return turns
        if len(said) > MOST_TURNS:
            raise TemplateError(
                f"{talk.name}: {len(said)} assistant turns. This chat template writes a turn differently when more "
                f"turns follow, so each is rendered separately: at most {MOST_TURNS} are allowed. Split the row."
            )
        return self.one_by_one(talk, said)

    def one_by_one(self, talk: Talk, said: Sequence[int]) -> list[Turn]:
        """The same, from two renderings for each turn."""
        jobs = [job for i in said for job in ((0, i, True), (0, i + 1, False))]
        renderings = self.several(talk, jobs)
        return [self._turn(i, renderings[2 * n][0], *renderings[2 * n + 1]) for n, i in enumerate(said)]

    def _turn(self, index: int, prefix: str, full: str, marks: list[tuple[int, int]]) -> Turn:
        text = full.rstrip()
        problem = ""
        if not text.endswith(tuple(self._tokens.ends)):
            problem = f"the assistant's turn does not end with an end-of-turn token. It ends in {text[-20:]!r}."
        spans = [(len(prefix), len(text))]
        if self._template.marked:
            spans = spans_between(marks, len(prefix), len(text))
            if not spans or spans[-1][1] < len(text):
                left = full[spans[-1][1] if spans else len(prefix) : len(text)]
                problem = (
                    f"the template's {{% generation %}} marks leave out {left!r} at the end of the assistant's turn. "
                    "The model would never learn to stop. Put it inside the marks."
                )
        if not full.startswith(prefix):
            same = next(i for i, (a, b) in enumerate(zip(full + "\0", prefix + "\1", strict=False)) if a != b)
            problem = (
                f"the template's generation prompt goes on with {prefix[same:][:40]!r} where an assistant's turn has "
                f"{full[same:][:40]!r}. Generation and training would use different prompts. Set the template's "
                "variable if it has one (enable_thinking, thinking), or give a template file where the two agree."
            )
        return Turn(index, len(prefix), len(text), text, spans, problem)

    @cached_property
    def _call_form(self) -> calls.Form:
        """How the template wants a call's arguments."""
        asked, specials = calls.question(), dict(self._tokenizer.special_tokens_map)
        forms: tuple[calls.Form, ...] = ("object", "string")
        talks = [[*asked, calls.tidied(calls.CALLED, form)] for form in forms]
        renderings = jinja_process.render(
            self._template.text,
            talks,
            [(n, len(talk), False) for n, talk in enumerate(talks)],
            tools=[calls.TOOL],
            specials=specials,
            name="a call of a tool",
        )
        return calls.form(*("" if isinstance(each, str) else each[0] for each in renderings))

    def _after_an_answer(self) -> str:
        """What the template writes after an answer."""
        full = self._of_sample(0)
        if ASKED[0]["content"] not in full or ANSWERED["content"] not in full:
            raise TemplateError(
                "This chat template leaves out the text of a plain question and answer. Templates for images expect "
                "text in parts. Give a template file for text."
            )
        return full.rpartition(ANSWERED["content"])[2]

    @cached_property
    def problem(self) -> str:
        """Why no row can be trained on with this template; mostly empty."""
        if not self.ends:
            return (
                f"This chat template writes {self._tail!r} after an answer, and none of it ends the turn. The loss "
                "would look normal, but the model would never stop. Let the template write "
                f"{self._tokenizer.eos_token or 'an eos token'!r} after each assistant turn, or make its end of turn "
                "a special token of the tokenizer."
            )
        full, prefix, without = (self._of_sample(job) for job in range(3))
        opening = full[len(prefix) :].partition(ANSWERED["content"])[0]
        if prefix == without and full.startswith(prefix) and opening.strip():
            return (
                f"This chat template ignores add_generation_prompt. The model would be asked without {opening!r}, "
                "which opens each answer in training. Let the template write it if add_generation_prompt is set."
            )
        return ""

    def _written_sample(self) -> list[Rendering | str]:
        """A plain question with its answer, and without, with the generation prompt and without. One request, so that
        a slow template is stopped after the time of one."""
        return self._asked(_SAMPLE, _SAMPLE_JOBS, None)

    def _of_sample(self, job: int) -> str:
        return self._accepted(_SAMPLE, _SAMPLE_JOBS[job][1], self._sample[job])[0]


_SAMPLE = Talk([*ASKED, ANSWERED], None, 0, "a plain question", None)
_SAMPLE_JOBS = ((0, 2, False), (0, 1, True), (0, 1, False))


def _few(roles: list[str]) -> str:
    """The roles of a conversation, those in the middle of a long one left out."""
    return " → ".join(roles if len(roles) <= 12 else [*roles[:6], f"({len(roles) - 10} more)", *roles[-4:]])
