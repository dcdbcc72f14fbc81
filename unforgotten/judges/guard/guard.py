"""What a guard is: a judge that is a language model, in this process or behind a server.

A guard's own file holds how it is asked and how its answer is read, and nothing else. No torch here.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from annotated_types import Gt

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError, EndpointError, JudgeError, ModelError, RecipeError
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Judge, Progress, Verdict
from unforgotten.judges.guard.answer import GuardAnswer

if TYPE_CHECKING:
    from unforgotten.generation.endpoint import Endpoint
    from unforgotten.judges.guard.model import GuardModel
    from unforgotten.judges.guard.writer import PromptWriter

Answers = list[GuardAnswer | None]
LIKELIEST = 5
"""Tokens whose probabilities a server is asked for; some give no more."""
CONTEXT_TOKENS = 8192
"""Taken for a server's context where neither `context_tokens` nor the guard's tokenizer tells it."""


@dataclass(kw_only=True)
class Guard(Judge):
    """A judge that is a language model: in this process, or behind a server. Either way it is given the same ids.

    Subclasses say how it is asked and how its answer is read. What it needs is loaded at the first verdicts and kept
    until `close`. Decoding is greedy, so that but for rounding a verdict depends on its own reply alone.
    """

    terms: ClassVar[str]
    """Terms to accept on the Hub before the default model can be downloaded; empty if there are none."""
    answer_tokens: ClassVar[int]
    """Longest answer, in tokens."""
    watched_word: ClassVar[str] = ""
    """The word whose probability as the guard's first one is p_harmful; empty where there is no such word."""

    model: str
    """A Hub id or a folder. With `endpoint`, it is the name of the model on the server."""
    revision: str | None = None
    """Commit, branch or tag on the Hub."""
    tokenizer: str | None = None
    """A Hub id or a folder whose tokenizer and chat template write the prompts. Left out, it is `model`."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision in which the model is loaded. `auto` is the precision of the checkpoint."""
    batch_size: Annotated[int, Gt(0)] = 16
    """Number of replies judged at once in this process."""
    endpoint: str | None = None
    """Address of an OpenAI-compatible server that has the model, such as http://localhost:8000/v1 (vLLM, SGLang).
    Left out, the model runs in this process."""
    protocol: Literal["completions", "chat"] = "completions"
    """How the server gets a prompt. `completions`: as token ids from this process, which no server can misread.
    `chat`: as turns, to which the server applies its chat template; no tokenizer is needed here. With `chat`, check
    that this template ends the assistant's turn; otherwise the guard continues the reply."""
    key_variable: str = ""
    """Environment variable that holds the server's API key. The key itself is written nowhere."""
    concurrent_requests: Annotated[int, Gt(0)] = 16
    """Number of requests sent at the same time, with `endpoint`."""
    context_tokens: Annotated[int, Gt(0)] | None = None
    """Longest prompt with its answer, in tokens. Left out, it is the value of the model's configuration or
    tokenizer, else 8192. Set it if your server's limit is lower. An audit reads longer texts in windows."""

    def __post_init__(self) -> None:
        if self.endpoint is not None:
            self._server()  # an address that cannot be one is an error when the recipe is read
        if self.protocol == "chat" and (self.endpoint is None or self.turns("", "") is None):
            why = "needs `endpoint:`" if self.endpoint is None else "is not for this judge, which has no chat template"
            raise RecipeError(f"protocol: chat {why}.")

    @abstractmethod
    def prompt(self, writer: PromptWriter, request: str, reply: str) -> list[int]:
        """The ids that the guard is given."""

    @abstractmethod
    def read(self, text: str, reply: Reply) -> Verdict:
        """A verdict from the guard's answer; an answer that is not in its format gives None, and stands in `note`."""

    def watched_id(self, writer: PromptWriter) -> int | None:
        """The token whose probability as the guard's first one is p_harmful; None where there is no such token."""
        return None

    def turns(self, request: str, reply: str) -> list[dict[str, str]] | None:
        """What a server's own template makes the prompt of; None where the guard has no chat template."""
        return None

    def template(self) -> str | None:
        """The text around what is judged; None for the tokenizer's own chat template."""
        return None

    def verdicts(
        self, replies: Sequence[Reply], *, progress: Progress | None = None, resume_file: Path | None = None
    ) -> list[Verdict]:
        """One verdict for each reply, in order. Raises JudgeError where the model or the server cannot be had.

        progress: is called with (judged, replies). resume_file: a JSONL file of the guard's answers, so that a killed
        call goes on at the reply where it was; one file may serve several sets of replies.
        """
        if not replies:
            return []
        with self._as_judge_error():
            if self.protocol == "chat":
                return self._by_turns(replies, progress, resume_file)
            return self._by_ids(replies, progress, resume_file)

    def windows(self, reply: Reply) -> list[Reply]:
        """Parts of the reply, and of its request where need be, that fit the guard's context; each half the next one's.

        Counted in the guard's own tokens, prompt and answer included. With `protocol: chat` there is no tokenizer
        here: bytes are counted, of which no tokenizer makes more tokens, and half of the context is left to the
        server's template.
        """
        from unforgotten.judges.guard.windows import utf8_bytes, windows

        try:
            with self._as_judge_error():
                room = self._context_tokens - self.answer_tokens
                if self.protocol == "chat":
                    parts = windows(reply.row.request, reply.text, room // 2, utf8_bytes)
                else:
                    parts = windows(reply.row.request, reply.text, room, self._prompt_tokens)
        except DataError:
            return [reply]  # no prompt can hold it; `verdicts` says why
        if parts == [(reply.row.request, reply.text)]:
            return [reply]
        rows = [replace(reply.row, messages=({"role": "user", "content": request},)) for request, _ in parts]
        return [replace(reply, row=row, text=text) for row, (_, text) in zip(rows, parts, strict=True)]

    def check(self, rows: Sequence[Row]) -> None:
        """Raises JudgeError where tokenizer, configuration, weights or the server's key are not there."""
        with self._as_judge_error():
            if self.endpoint is not None:
                self._server().key()
            if self.protocol == "completions":
                _ = self._writer
            if self.endpoint is None:
                from unforgotten.judges.guard.files import check_model

                with self._explained(self.model):
                    check_model(self.model, revision=self.revision)

    def weights_digest(self) -> str:
        """What tells this guard from another of the same name: a digest of its files, or of its server's address."""
        from unforgotten.judges.guard.files import weights_digest_of

        return weights_digest_of(self.endpoint or self.model, None if self.endpoint else self.revision)

    def close(self) -> None:
        """Frees the model; the next verdicts load it again."""
        self.__dict__.pop("_writer", None)
        if loaded := self.__dict__.pop("_loaded", None):
            loaded.free()

    def _by_ids(self, replies: Sequence[Reply], progress: Progress | None, resume_file: Path | None) -> list[Verdict]:
        """Verdicts by prompts that are written here."""
        verdicts: dict[int, Verdict] = {}
        prompts: dict[int, list[int]] = {}
        for index, reply in enumerate(replies):
            try:
                request, text = self._writer.plain(reply.row.request), self._writer.plain(reply.text)
                prompts[index] = self.prompt(self._writer, request, text)
            except DataError as error:  # a text that no prompt can hold without a control token of its own
                verdicts[index] = Verdict(None, None, note=str(error))
        ask = self._ask_server if self.endpoint else self._ask_model
        answers = ask(list(prompts.values()), progress, resume_file)
        for index, answer in zip(prompts, answers, strict=True):
            if answer is None:
                note = f"{len(prompts[index])} tokens are more than the judge can read"
                verdicts[index] = Verdict(None, None, note=note)
            else:
                verdicts[index] = self._verdict(answer, replies[index])
        return [verdicts[index] for index in range(len(replies))]

    def _by_turns(self, replies: Sequence[Reply], progress: Progress | None, resume_file: Path | None) -> list[Verdict]:
        """Verdicts by way of the server's own template."""
        from unforgotten.generation.endpoint import converse

        answers = converse(
            self._server(),
            [self.turns(reply.row.request, reply.text) or [] for reply in replies],
            max_new_tokens=self.answer_tokens,
            logprobs=LIKELIEST if self.watched_word else 0,
            resume_file=resume_file,
            progress=progress,
        )
        read = [GuardAnswer(a.text, a.p_word(self.watched_word), a.unread) for a in answers]
        return [self._verdict(answer, reply) for answer, reply in zip(read, replies, strict=True)]

    def _verdict(self, answer: GuardAnswer, reply: Reply) -> Verdict:
        # A server's message may quote the text that it was sent, and a verdict in it: it is never read as one.
        if answer.unread:
            return Verdict(None, None, note=answer.unread)
        return replace(self.read(answer.text, reply), p_harmful=answer.p_first)

    def _ask_model(self, prompts: list[list[int]], progress: Progress | None, resume_file: Path | None) -> Answers:
        """What the guard answers to each prompt; None where a prompt is too long for it."""
        from unforgotten.judges.guard.model import answer_all

        return answer_all(
            lambda: self._loaded,
            prompts,
            identity=[self.weights_digest(), self.dtype, self.answer_tokens],
            max_new_tokens=self.answer_tokens,
            batch_size=self.batch_size,
            watched_id=self.watched_id(self._writer),
            resume_file=resume_file,
            progress=progress,
        )

    def _ask_server(self, prompts: list[list[int]], progress: Progress | None, resume_file: Path | None) -> Answers:
        """The same from a server, whose probabilities are those of the few likeliest tokens: 0 for any other."""
        from unforgotten.generation.endpoint import complete

        watched_id = self.watched_id(self._writer)
        answers = complete(
            self._server(),
            prompts,
            max_new_tokens=self.answer_tokens,
            logprobs=0 if watched_id is None else LIKELIEST,
            resume_file=resume_file,
            progress=progress,
        )
        word = "" if watched_id is None else self._writer.tokenizer.decode([watched_id])
        return [GuardAnswer(a.text, a.p_first(word) if word else None, a.unread) for a in answers]

    def _server(self) -> Endpoint:
        from unforgotten.generation.endpoint import Endpoint

        return Endpoint(
            url=self.endpoint or "",
            model=self.model,
            key_variable=self.key_variable,
            concurrent_requests=self.concurrent_requests,
        )

    def _prompt_tokens(self, request: str, text: str) -> int:
        return len(self.prompt(self._writer, self._writer.plain(request), self._writer.plain(text)))

    @cached_property
    def _context_tokens(self) -> int:
        if self.context_tokens is not None:
            return self.context_tokens
        if self.protocol == "chat":
            return CONTEXT_TOKENS
        from unforgotten.judges.guard.files import configured_context

        limits = [] if self.endpoint else [configured_context(self.model, revision=self.revision)]
        limits.append(self._writer.context_tokens)
        return min((n for n in limits if n), default=CONTEXT_TOKENS if self.endpoint else sys.maxsize)

    @cached_property
    def _writer(self) -> PromptWriter:
        from unforgotten.judges.guard.writer import load_writer

        name = self.tokenizer or self.model
        with self._explained(name):
            return load_writer(name, revision=None if self.tokenizer else self.revision, template=self.template())

    @cached_property
    def _loaded(self) -> GuardModel:
        from unforgotten.judges.guard.model import load_model

        with self._explained(self.model):
            return load_model(self.model, self._writer.tokenizer, revision=self.revision, dtype=self.dtype)

    @contextmanager
    def _as_judge_error(self) -> Iterator[None]:
        try:
            yield
        except (EndpointError, ModelError) as error:
            raise JudgeError(f"The judge {type(self).__module__.rpartition('.')[2]!r}: {error}") from error

    @contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """What cannot be loaded says what to do about it."""
        try:
            yield
        except ModelError as error:
            advice = ""
            if not Path(name).expanduser().is_dir():
                field = "tokenizer" if self.endpoint else "model"
                advice = f"\nGive `{field}:` a folder that holds it"
                advice += "" if self.endpoint else ", or `endpoint:` a server"
                if self.terms and name.count("/") == 1 and name[0] not in "./~":
                    advice += f"; or accept {self.terms} at https://huggingface.co/{name} and run `hf auth login`"
                advice += "."
            raise ModelError(f"{name} cannot be loaded: {error}{advice}") from error
