"""Replies from any server that speaks OpenAI's HTTP: vLLM, SGLang, llama.cpp, a hosted model.

    generate    replies to rows, as generation/local gives them
    complete    what follows prompts, given as text or as token ids
    converse    what follows lists of turns, by the server's own template

`concurrent_requests` requests are under way at a time. A request is sent again where the server fails
(generation/http_client). With `resume_file`, each finished row is written as it comes, and the next call does not ask
it again.

The server adds two things that local generation does not have: its own chat template, unless `generate` is given a
chat; and the model's generation config, from which vLLM and SGLang fill every field that a request leaves open
(vllm-project/vllm:vllm/entrypoints/openai/completion/protocol.py, `to_sampling_params`). So temperature, top_p and
repetition_penalty are always sent. Where a server does not know the last one, set `extra: {repetition_penalty: null}`.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unforgotten import registry
from unforgotten.datasets.base import Row
from unforgotten.errors import EndpointError, RecipeError
from unforgotten.generation.concurrent import each
from unforgotten.generation.http_client import Server
from unforgotten.generation.openai_format import Answer, read, restored
from unforgotten.generation.prompt_faults import Strange, Unread
from unforgotten.generation.reply import Reply
from unforgotten.generation.resume import ResumeFile
from unforgotten.models.chat.opening import begin
from unforgotten.models.chat.thinking import begun_by, split
from unforgotten.runs import api_keys, variables

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat

Progress = Callable[[int, int], None]
MOST_STRANGE = 20
"""After so many answers, none of which holds a reply, the server is asked no more."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """One model on one server."""

    url: str
    """Its address up to the version, such as http://localhost:8000/v1."""
    model: str
    """The name that the server knows the model by."""
    key_variable: str = ""
    """The environment variable that holds the server's key; the key itself is written nowhere."""
    concurrent_requests: int = 16
    """Requests under way at once."""
    retries: int = 10
    """How often a request is sent again, over about four minutes."""
    timeout_seconds: float = 600.0
    """The time in which a whole answer must come; after it, the request is sent again."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Fields of each request, such as {chat_template_kwargs: {enable_thinking: false}}; null removes one of ours."""

    def __post_init__(self) -> None:
        api_keys.check(self.url, self.key_variable, self.extra)  # first: the errors of `registry` repeat what was given
        registry.check(self)
        if self.concurrent_requests < 1 or self.retries < 0 or self.timeout_seconds <= 0:
            raise RecipeError("An endpoint needs concurrent_requests ≥ 1, retries ≥ 0 and timeout_seconds > 0.")

    def key(self) -> str:
        """The key, read from the environment each time. Raises EndpointError where there is none that can be sent."""
        if not self.key_variable:
            return ""
        key = os.environ.get(self.key_variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise EndpointError(f"The environment variable {self.key_variable} holds no key for {self.url}.")
        return key


def generate(
    endpoint: Endpoint,
    rows: Sequence[Row],
    *,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    chat: Chat | None = None,
    resume_file: Path | None = None,
    progress: Progress | None = None,
    openings: Sequence[str] = (),
) -> list[Reply]:
    """One reply for each row, in the rows' order. `progress(done, rows)` is called after each reply.

    `temperature` 0 is greedy; above it, sampling, which the server seeds by `seed` and the row's place.
    chat: renders the prompts here and sends token ids, so that the model is asked exactly as in training. Without it,
    the server applies its own template to the row's turns, and handles control tokens in them.
    resume_file: a JSONL file of finished rows, by model name and request. Only the server knows which weights it has
    under that name, so give each their own file.

    openings: for each row, words that its reply is forced to begin with. They need a chat: with its own template, a
    server begins the reply anew, so RecipeError is raised.

    A reply has `unread` set where the server's filter stopped it, its prompt is too long, or no reply can be read in
    the answer. Raises EndpointError for every other fault, and where no answer holds a reply; what was finished by then
    is in `resume_file`.
    """
    names = [row.source or f"row {index + 1}" for index, row in enumerate(rows)]
    decoding_fields = _decoding_fields(max_new_tokens, temperature, top_p)
    if openings and chat is None:
        raise RecipeError(
            "evaluate.prefill forces the beginning of a reply, and a server that applies its own chat template begins "
            "the reply anew. Set `endpoint: {template: here}`, or leave out `prefill`."
        )
    seeds = [{"seed": seed + index} if temperature > 0 else {} for index in range(len(rows))]
    prefills = [""] * len(rows)
    if chat is not None:
        ends = {"stop_token_ids": list(chat.end_ids)}
        pairs = begin(chat, rows, openings)
        prompts, prefills = [prompt + said for prompt, said in pairs], [chat.decode(said) for _, said in pairs]
        begun = [begun_by(chat, prompt) for prompt in prompts]
        bodies = [
            {"prompt": prompt} | decoding_fields | ends | own_seed
            for prompt, own_seed in zip(prompts, seeds, strict=True)
        ]
        answers = _ask(endpoint, "completions", bodies, names, resume_file, progress)
    else:
        begun = [False] * len(rows)
        bodies = [_turns(row) | decoding_fields | own_seed for row, own_seed in zip(rows, seeds, strict=True)]
        answers = _ask(endpoint, "chat/completions", bodies, names, resume_file, progress)
    return list(map(_reply, rows, answers, begun, prefills))


def _reply(row: Row, answer: Answer, opened: bool, prefill: str = "") -> Reply:
    """A reply, with its thought apart from its answer. opened: the prompt ends in a thought that it begins."""
    if answer.unread:
        return Reply(row, answer.text, answer.finish, answer.tokens, answer.thought, unread=answer.unread)
    if prefill:
        return Reply(row, prefill + answer.text, answer.finish, answer.tokens, answer.thought, prefill=prefill)
    if answer.thought:
        return Reply(row, answer.text, answer.finish, answer.tokens, answer.thought, unclosed=not answer.text.strip())
    parts = split(answer.text, opened)
    return Reply(row, parts.answer, answer.finish, answer.tokens, parts.thought, parts.unclosed)


def complete(
    endpoint: Endpoint,
    prompts: Sequence[str | list[int]],
    *,
    max_new_tokens: int,
    logprobs: int = 0,
    resume_file: Path | None = None,
    progress: Progress | None = None,
) -> list[Answer]:
    """What follows each prompt, greedily. To a text the server adds its own special tokens, usually one bos; ids are
    taken as they are. logprobs: how many of the likeliest tokens are given with their log-probabilities."""
    more = {"logprobs": logprobs} if logprobs else {}
    bodies = [{"prompt": prompt} | _decoding_fields(max_new_tokens) | more for prompt in prompts]
    names = [f"prompt {index + 1}" for index in range(len(bodies))]
    return _ask(endpoint, "completions", bodies, names, resume_file, progress)


def converse(
    endpoint: Endpoint,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    *,
    max_new_tokens: int,
    logprobs: int = 0,
    resume_file: Path | None = None,
    progress: Progress | None = None,
) -> list[Answer]:
    """What follows each list of turns, greedily; the server's own template writes the prompt."""
    more = {"logprobs": True, "top_logprobs": logprobs} if logprobs else {}
    fields = _decoding_fields(max_new_tokens) | more
    bodies = [{"messages": [dict(turn) for turn in turns]} | fields for turns in conversations]
    names = [f"conversation {index + 1}" for index in range(len(bodies))]
    return _ask(endpoint, "chat/completions", bodies, names, resume_file, progress)


def decoding(
    endpoint: Endpoint, *, max_new_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """What `generate` asks for with these arguments, for results.json; without the address."""
    facts: dict[str, Any] = {"strategy": "sampling" if temperature > 0 else "greedy", "max_new_tokens": max_new_tokens}
    if temperature > 0:
        facts |= {"temperature": temperature, "top_p": top_p, "seed": seed}
    extra = json.loads(variables.hidden(json.dumps(dict(endpoint.extra), ensure_ascii=False)))
    return facts | {"engine": "endpoint", "model": endpoint.model, "extra": extra}


def _ask(
    endpoint: Endpoint,
    path: Literal["completions", "chat/completions"],
    bodies: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    resume_file: Path | None,
    progress: Progress | None,
) -> list[Answer]:
    """The answer to each request; `names` are those of its rows in errors."""
    bodies = [_complete_body(endpoint, body) for body in bodies]
    resumed = ResumeFile(resume_file, [[endpoint.url, path, body] for body in bodies])
    answers = {index: restored(facts) for index, facts in resumed.facts.items()}
    if progress and answers:
        progress(len(answers), len(bodies))
    if not resumed.missing:
        return [answers[index] for index in range(len(bodies))]
    strange: dict[int, str] = {}
    server = Server(endpoint.url, endpoint.key(), timeout_seconds=endpoint.timeout_seconds, retries=endpoint.retries)

    def work(index: int, stop: threading.Event) -> Answer:
        try:
            answer = read(server.post(path, bodies[index], stop))
        except Unread as error:
            answer = Answer("", "stop", unread=str(error))
        except Strange as error:  # not written: the next call asks it again
            strange[index] = str(error)
            return Answer("", "stop", unread=str(error))
        except EndpointError as error:
            raise EndpointError(f"{names[index]}: {error}") from None
        resumed.add(index, asdict(answer))
        return answer

    for index, answer in each(work, resumed.missing, endpoint.concurrent_requests):
        answers[index] = answer
        if progress:
            progress(len(answers), len(bodies))
        if strange.keys() >= answers.keys() and len(answers) >= min(MOST_STRANGE, len(bodies)):
            first = min(answers)
            raise EndpointError(f"{names[first]}: {strange[first]}")
    return [answers[index] for index in range(len(bodies))]


def _complete_body(endpoint: Endpoint, body: Mapping[str, Any]) -> dict[str, Any]:
    """A request with the model's name and the user's own fields, without those that are null."""
    fields = {"model": endpoint.model} | dict(body) | dict(endpoint.extra)
    return {name: value for name, value in fields.items() if value is not None}


def _decoding_fields(max_new_tokens: int, temperature: float = 0.0, top_p: float = 1.0) -> dict[str, Any]:
    every_token = {"top_k": -1} if temperature > 0 else {}
    return {
        "max_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": 1.0,
        "stream": False,
        **every_token,
    }


def _turns(row: Row) -> dict[str, Any]:
    """The row's turns as OpenAI writes them, without the keys that only our templates read."""
    ours = ("instruction", "input")
    turns = [{k: v for k, v in turn.items() if k not in ours and v is not None} for turn in row.prompt]
    return {"messages": turns} | ({"tools": list(row.tools)} if row.tools else {})
