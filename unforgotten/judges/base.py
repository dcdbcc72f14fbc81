"""What a judge is: verdicts on replies. One judge, one file. No torch here.

A judge may be a model itself: a `Guard` asks it, in this process or through a server, so that the judge's own file
holds nothing but how it is asked and how its words are read.
"""

# Long because a guard in this process and one behind a server are one class here, so that both are asked the same.

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Gt

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError, EndpointError, JudgeError, ModelError, RecipeError
from unforgotten.generation.reply import Reply
from unforgotten.registry import Component
from unforgotten.runs.described import described

if TYPE_CHECKING:
    from unforgotten.generation.endpoint import Endpoint
    from unforgotten.judges.guard.model import GuardModel, Said, Writer

Progress = Callable[[int, int], None]
LIKELIEST = 5
"""Tokens whose probabilities a server is asked for; some give no more."""
CONTEXT_TOKENS = 8192
"""Taken for a server's context where neither `context_tokens` nor the guard's tokenizer tells it."""


@described
@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's reading of one reply. None means that the judge's output could not be read: counted, never dropped.

    A truth that the judge does not decide is None in every one of its verdicts; `Judge.tells` says which it decides.
    """

    harmful: bool | None
    """The reply gives what the harmful request asked for."""
    refused: bool | None
    """The reply declines."""
    category: str = ""
    note: str = ""
    p_harmful: float | None = None
    """The probability that the judge gives to harmful, where it has one; it moves before the verdict does."""


@dataclass(kw_only=True)
class Judge(Component, ABC):
    """Decides harmful and refused. Subclass as a dataclass: its fields are what a recipe may set."""

    room: ClassVar[str] = "judges"
    by_absence: ClassVar[bool] = False
    """Whether `harmful` only says that nothing was refused (keyword lists). A reply that answers the user's own task is
    then off task and not counted as compliance; a judge that reads what a reply gives is believed as it is."""
    tells: ClassVar[frozenset[str]] = frozenset({"harmful", "refused"})
    """Which of Verdict's truths this judge decides. A rate of the other is not measured: its Nones are not unread."""

    @abstractmethod
    def verdicts(self, replies: Sequence[Reply]) -> list[Verdict]:
        """One verdict for each reply, in order. Raises JudgeError where the judge is missing."""

    def truths(self, verdicts: Sequence[Verdict], truth: Literal["harmful", "refused"]) -> list[bool | None] | None:
        """One truth of each verdict, None for those unread; None for all where this judge does not decide it."""
        return [getattr(verdict, truth) for verdict in verdicts] if truth in self.tells else None

    def transcript(self, turns: Sequence[tuple[str, str]]) -> str:
        """Several turns, as (role, words), in one text: how an audit shows what came before an answer."""
        return "\n\n".join(f"{role.capitalize()}: {words}" for role, words in turns)

    def windows(self, reply: Reply) -> list[Reply]:
        """A reply as the judge can read it: whole, or in overlapping parts; none where not even a part fits."""
        return [reply]

    def check(self, rows: Sequence[Row]) -> None:
        """Raises JudgeError where the judge could not be had, or knows none of these requests; loads no weights."""

    def close(self) -> None:
        """Frees what the judge holds; the next verdicts load it again."""


@dataclass(kw_only=True)
class Guard(Judge):
    """A judge that is a language model: in this process, or behind a server. Either way it is given the same ids.

    Subclasses say how it is asked and how its words are read. What it needs is loaded at the first verdicts and kept
    until `close`. Decoding is greedy, so that but for rounding a verdict depends on its own reply alone.
    """

    terms: ClassVar[str]
    """What the Hub wants accepted before the default model may be had; empty for nothing."""
    answer_tokens: ClassVar[int]
    """Longest answer."""
    watched_word: ClassVar[str] = ""
    """The word whose probability as the guard's first one is p_harmful; empty where there is no such word."""

    model: str
    """A Hub id or a folder; with `endpoint`, the name that the server knows it by."""
    revision: str | None = None
    """Commit, branch or tag on the Hub."""
    tokenizer: str | None = None
    """A Hub id or a folder whose tokenizer and chat template write the prompts; left out, `model`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the model is loaded; auto is the checkpoint's own."""
    batch_size: Annotated[int, Gt(0)] = 16
    """Replies judged at once in this process."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server that has the model, such as http://localhost:8000/v1 (vLLM, SGLang); left
    out, the model runs in this process."""
    protocol: Literal["completions", "chat"] = "completions"
    """How a server is asked. completions: token ids written here, which no server can misread. chat: the turns, of
    which its own template writes the prompt; no tokenizer is needed here, and that the server's template ends the
    assistant's turn, so that the guard and not the model under judgement goes on, is for you to see to."""
    key_variable: str = ""
    """The environment variable that holds the server's key; the key itself is written nowhere."""
    concurrent_requests: Annotated[int, Gt(0)] = 16
    """Requests under way at once, with `endpoint`."""
    context_tokens: Annotated[int, Gt(0)] | None = None
    """The longest prompt with its answer. Left out, it is what the model's configuration or tokenizer says, and 8192
    where neither does. An audit reads longer texts in windows. Give it where your server's limit is lower."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            self._server()  # an address that cannot be one is told when the recipe is read
        if self.protocol == "chat" and (self.endpoint is None or self.turns("", "") is None):
            why = "needs `endpoint:`" if self.endpoint is None else "is not for this judge, which has no chat template"
            raise RecipeError(f"protocol: chat {why}.")

    @abstractmethod
    def prompt(self, writer: Writer, request: str, reply: str) -> list[int]:
        """The ids that the guard is given."""

    @abstractmethod
    def read(self, text: str, reply: Reply) -> Verdict:
        """A verdict out of the guard's words; what is not in its format is None, with the words in `note`."""

    def watched(self, writer: Writer) -> int | None:
        """The token whose probability as the guard's first one is p_harmful; None where there is no such token."""
        return None

    def turns(self, request: str, reply: str) -> list[dict[str, str]] | None:
        """What a server's own template makes the prompt of; None where the guard has no chat template."""
        return None

    def template(self) -> str | None:
        """The text around what is judged; None for the tokenizer's own chat template."""
        return None

    def verdicts(
        self, replies: Sequence[Reply], *, progress: Progress | None = None, kept: Path | None = None
    ) -> list[Verdict]:
        """One verdict for each reply, in order. Raises JudgeError where the model or the server cannot be had.

        progress: told (judged, replies). kept: a JSONL file of the guard's words, so that a killed call goes on at the
        reply where it was; one file may serve several sets of replies.
        """
        try:
            return self._verdicts(replies, progress, kept) if replies else []
        except (EndpointError, ModelError) as error:
            raise JudgeError(f"The judge {self._name!r}: {error}") from error

    def windows(self, reply: Reply) -> list[Reply]:
        """Parts of the reply, and of its request where need be, that fit the guard's context; each half the next one's.

        Counted in the guard's own tokens, prompt and answer included. With `protocol: chat` there is no tokenizer
        here: bytes are counted, of which no tokenizer makes more tokens, and half of the context is left to the
        server's template.
        """
        from unforgotten.generation.windows import windows

        try:
            room = self._context_tokens - self.answer_tokens
            if self.protocol == "chat":
                parts = windows(reply.row.request, reply.text, room // 2, _utf8_bytes)
            else:
                parts = windows(reply.row.request, reply.text, room, self._prompt_tokens)
        except DataError:
            return [reply]  # no prompt can hold it; `verdicts` says why
        except ModelError as error:
            raise JudgeError(f"The judge {self._name!r}: {error}") from error
        if parts == [(reply.row.request, reply.text)]:
            return [reply]
        rows = [replace(reply.row, messages=({"role": "user", "content": request},)) for request, _ in parts]
        return [replace(reply, row=row, text=text) for row, (_, text) in zip(rows, parts, strict=True)]

    def _prompt_tokens(self, request: str, text: str) -> int:
        return len(self.prompt(self._writer, self._writer.plain(request), self._writer.plain(text)))

    @cached_property
    def _context_tokens(self) -> int:
        if self.context_tokens is not None:
            return self.context_tokens
        if self.protocol == "chat":
            return CONTEXT_TOKENS
        from unforgotten.judges.guard.model import context_of

        limits = [] if self.endpoint else [context_of(self.model, revision=self.revision)]
        limits.append(self._writer.context_tokens)
        return min((n for n in limits if n), default=CONTEXT_TOKENS if self.endpoint else sys.maxsize)

    def check(self, rows: Sequence[Row]) -> None:
        """Raises JudgeError where tokenizer, configuration, weights or the server's key are not there."""
        try:
            if self.endpoint is not None:
                self._server().key()
            if self.protocol == "completions":
                _ = self._writer
            if self.endpoint is None:
                from unforgotten.judges.guard.model import check_model

                with self._explained(self.model):
                    check_model(self.model, revision=self.revision)
        except (EndpointError, ModelError) as error:
            raise JudgeError(f"The judge {self._name!r}: {error}") from error

    def close(self) -> None:
        """Frees the model; the next verdicts load it again."""
        self.__dict__.pop("_writer", None)
        if loaded := self.__dict__.pop("_loaded", None):
            loaded.free()

    def _verdicts(self, replies: Sequence[Reply], progress: Progress | None, kept: Path | None) -> list[Verdict]:
        if self.protocol == "chat":
            return self._by_chat(replies, progress, kept)
        verdicts: dict[int, Verdict] = {}
        prompts: dict[int, list[int]] = {}
        for index, reply in enumerate(replies):
            try:
                request, text = self._writer.plain(reply.row.request), self._writer.plain(reply.text)
                prompts[index] = self.prompt(self._writer, request, text)
            except DataError as error:  # a text that no prompt can hold without a control token of its own
                verdicts[index] = Verdict(None, None, note=str(error))
        ask = self._ask_server if self.endpoint else self._ask
        heard = ask(list(prompts.values()), kept, progress)
        for index, said in zip(prompts, heard, strict=True):
            if said is None:
                verdicts[index] = Verdict(
                    None, None, note=f"{len(prompts[index])} tokens are more than the judge can read"
                )
            elif said.unread:
                verdicts[index] = Verdict(None, None, note=said.unread)
            else:
                verdicts[index] = replace(self.read(said.text, replies[index]), p_harmful=said.p_first)
        return [verdicts[index] for index in range(len(replies))]

    def _ask(self, prompts: Sequence[list[int]], kept: Path | None, progress: Progress | None) -> list[Said | None]:
        """What the guard says to each prompt; None where a prompt is too long for it."""
        from unforgotten.generation.resume import Kept
        from unforgotten.judges.guard.model import Said

        which = [self.weights(), self.dtype, self.answer_tokens]
        finished = Kept(kept, [[which, prompt] for prompt in prompts])
        answers: dict[int, Said] = {n: Said(**facts) for n, facts in finished.facts.items()}
        if not finished.missing:
            return [answers.get(n) for n in range(len(prompts))]
        guard = self._loaded
        fits = [n for n, prompt in enumerate(prompts) if guard.room(prompt, self.answer_tokens)]

        def finish(batch: dict[int, Said]) -> None:
            fresh = {fits[n]: said for n, said in batch.items() if fits[n] not in answers}
            answers.update(fresh)
            finished.add_all({n: asdict(said) for n, said in fresh.items()})
            if progress:
                progress(len(answers), len(prompts))

        guard.said(
            [prompts[n] for n in fits],
            max_new_tokens=self.answer_tokens,
            batch_size=self.batch_size,
            watched=self.watched(self._writer),
            done={i for i, n in enumerate(fits) if n in answers},
            finished=finish,
        )
        return [answers.get(n) for n in range(len(prompts))]

    def weights(self) -> str:
        """What tells this guard from another of the same name: a digest of its files, or of its server's address."""
        from unforgotten.judges.guard.model import weights_of

        return weights_of(self.model, self.revision) if self.endpoint is None else weights_of(self.endpoint, None)

    def _ask_server(
        self, prompts: Sequence[list[int]], kept: Path | None, progress: Progress | None
    ) -> list[Said | None]:
        """The same from a server, whose probabilities are those of the few likeliest tokens: 0 for any other."""
        from unforgotten.generation.endpoint import complete
        from unforgotten.judges.guard.model import Said

        watched = self.watched(self._writer)
        answers = complete(
            self._server(),
            list(prompts),
            max_new_tokens=self.answer_tokens,
            logprobs=0 if watched is None else LIKELIEST,
            kept=kept,
            progress=progress,
        )
        word = "" if watched is None else self._writer.tokenizer.decode([watched])
        # A server's message may quote the text that it was sent, and a verdict in it: it is never read as one.
        return [Said(a.text, a.p_first(word) if word and not a.unread else None, a.unread) for a in answers]

    def _by_chat(self, replies: Sequence[Reply], progress: Progress | None, kept: Path | None) -> list[Verdict]:
        """Verdicts by way of the server's own template."""
        from unforgotten.generation.endpoint import converse

        answers = converse(
            self._server(),
            [self.turns(reply.row.request, reply.text) or [] for reply in replies],
            max_new_tokens=self.answer_tokens,
            logprobs=LIKELIEST if self.watched_word else 0,
            kept=kept,
            progress=progress,
        )
        return [
            Verdict(None, None, note=answer.unread)
            if answer.unread
            else replace(self.read(answer.text, reply), p_harmful=answer.p_word(self.watched_word))
            for answer, reply in zip(answers, replies, strict=True)
        ]

    def _server(self) -> Endpoint:
        from unforgotten.generation.endpoint import Endpoint

        return Endpoint(
            url=self.endpoint or "",
            model=self.model,
            key_variable=self.key_variable,
            concurrent_requests=self.concurrent_requests,
        )

    @property
    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    @cached_property
    def _writer(self) -> Writer:
        from unforgotten.judges.guard.model import load_writer

        name = self.tokenizer or self.model
        with self._explained(name):
            return load_writer(name, revision=None if self.tokenizer else self.revision, template=self.template())

    @cached_property
    def _loaded(self) -> GuardModel:
        from unforgotten.judges.guard.model import load_model

        with self._explained(self.model):
            return load_model(self.model, self._writer.tokenizer, revision=self.revision, dtype=self.dtype)

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """What cannot be loaded says what to do about it."""
        try:
            yield
        except ModelError as error:
            mend = ""
            if not Path(name).expanduser().is_dir():
                field = "tokenizer" if self.endpoint else "model"
                mend = f"\nGive `{field}:` a folder that holds it" + (
                    "" if self.endpoint else ", or `endpoint:` a server"
                )
                if self.terms and name.count("/") == 1 and name[0] not in "./~":
                    mend += f"; or accept {self.terms} at https://huggingface.co/{name} and run `hf auth login`"
                mend += "."
            raise ModelError(f"{name} cannot be loaded: {error}{mend}") from error


def _utf8_bytes(request: str, text: str) -> int:
    return len(request.encode("utf-8", "replace")) + len(text.encode("utf-8", "replace"))
