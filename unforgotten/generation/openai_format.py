"""The answer of an OpenAI-compatible server, read from its JSON; for `completions` and `chat/completions`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unforgotten.generation.prompt_faults import Strange, of_answer
from unforgotten.generation.reply import Finish

FINISHES: dict[str, Finish] = {
    **dict.fromkeys(("stop", "eos", "eos_token", "stop_sequence", "stop_token", "end_turn"), "stop"),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "max_length"), "length"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A server's answer to one request."""

    text: str
    finish: Finish
    tokens: int = 0
    """Tokens of the answer, 0 where the server does not count them."""
    logprobs: list[tuple[str, dict[str, float]]] | None = None
    """For each token of the answer: the token, and log p of the likeliest ones; None where the server gives none."""
    thought: str = ""
    """The thought, where the server itself sends it apart from the answer."""
    unread: str = ""
    """Why this is no answer of the model's own: the server's filter stopped it, or the prompt is too long."""

    def p_first(self, token: str) -> float | None:
        """The probability of a token as the first one; 0 where others are given, None where none are."""
        likeliest = self.logprobs[0][1] if self.logprobs else {}
        if token in likeliest:
            return min(1.0, math.exp(likeliest[token]))
        return 0.0 if len(likeliest) > 1 else None

    def p_word(self, word: str) -> float | None:
        """The probability of a word as the first one after white space.

        None where the server gives no probabilities, or the answer has no word.
        """
        for token, likeliest in self.logprobs or []:
            if word and token.strip():
                probabilities = [math.exp(p) for other, p in likeliest.items() if other.strip() == word]
                return min(1.0, sum(probabilities)) if probabilities or len(likeliest) > 1 else None
        return None


def read(payload: Mapping[str, Any]) -> Answer:
    """The answer in a server's JSON. Raises Strange where it holds no reply that can be read."""
    try:
        return _read(payload)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise Strange(f"the answer is not as OpenAI writes it ({error!r}).") from error


def _read(payload: Mapping[str, Any]) -> Answer:
    unread = of_answer(payload)
    choices = payload.get("choices")
    if unread and not choices:
        return Answer("", "stop", unread=unread)
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise Strange(f"The server answered without a choice: {str(payload.get('error') or dict(payload))[:300]}")
    choice = choices[0]
    given = choice.get("finish_reason")
    reason = "stop" if given is None or given == "" else given.strip().lower() if isinstance(given, str) else ""
    if reason not in FINISHES and not unread:
        # abort, error: the text up to there is not the model's whole reply, and would be judged as such.
        raise Strange(f"The server ended the answer by {str(given)[:60]!r}, which is not the model's own doing.")
    text, thought = (
        ("", "") if unread and choice.get("message", choice.get("text")) is None else _text_and_thought(choice)
    )
    usage = payload.get("usage") or {}
    tokens = max(0, int(usage.get("completion_tokens") or 0))
    finish = FINISHES.get(reason, "stop")
    return Answer(_without_surrogates(text), finish, tokens, _logprobs(choice), _without_surrogates(thought), unread)


def _text_and_thought(choice: Mapping[str, Any]) -> tuple[str, str]:
    """Text and thought of a choice. Raises TypeError where there is no text."""
    message = choice.get("message")
    if message is None:
        if "text" not in choice:
            raise TypeError("neither message nor text")
        return _parts(choice["text"])
    text, thought = _parts(message.get("content") or message.get("refusal"))
    reasoning, more = _parts(
        message.get("reasoning_content") or message.get("reasoning")
    )  # vLLM's older and newer name
    return text, reasoning + more or thought


def _parts(content: Any) -> tuple[str, str]:
    """Text and thought of a message's content: a text, or typed parts (Mistral, Anthropic behind a gateway)."""
    if content is None or isinstance(content, str):
        return content or "", ""
    if not isinstance(content, list):
        raise TypeError(f"a text is {type(content).__name__}")
    text = thought = ""
    for part in content:
        kind = "text" if isinstance(part, str) else part.get("type")
        if kind not in ("text", "output_text", "refusal", "thinking", "reasoning"):
            raise TypeError(f"a part of the text is of type {str(kind)[:40]}")
        inner = part if isinstance(part, str) else part[kind if kind in part else "text"]
        inner_text, inner_thought = _parts(inner)
        if kind in ("thinking", "reasoning"):
            thought += inner_text + inner_thought
        else:
            text, thought = text + inner_text, thought + inner_thought
    return text, thought


def _without_surrogates(text: str) -> str:
    """The text with lone surrogates replaced, which no file takes."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _logprobs(choice: Mapping[str, Any]) -> list[tuple[str, dict[str, float]]] | None:
    """As `completions` or as chat writes them; the chosen token is not always among the likeliest."""
    logprobs = choice.get("logprobs")
    if not logprobs:
        return None
    if isinstance(logprobs.get("content"), list):
        return [
            (str(entry["token"]), {t["token"]: t["logprob"] for t in [entry, *(entry.get("top_logprobs") or [])]})
            for entry in logprobs["content"]
        ]
    if "tokens" not in logprobs:
        return None
    tokens = logprobs["tokens"]
    token_logprobs = logprobs.get("token_logprobs") or [None] * len(tokens)
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        (str(token), ({token: p} if p is not None else {}) | dict(top or {}))
        for token, p, top in zip(tokens, token_logprobs, tops, strict=True)
    ]


def restored(facts: Mapping[str, Any]) -> Answer:
    """An answer that was written as JSON."""
    logprobs = facts.get("logprobs")
    places = None if logprobs is None else [(token, dict(top)) for token, top in logprobs]
    text, finish, tokens = facts["text"], facts["finish"], facts["tokens"]
    return Answer(text, finish, tokens, places, facts.get("thought", ""), facts.get("unread", ""))
