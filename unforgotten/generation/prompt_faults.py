"""Which faults of a server concern one prompt alone: a filter stopped it, or it is too long for the model.

Such a reply is unread. It is counted and widens the interval, and the evaluation of the other prompts goes on. A fault
of the request as such (its key, the model's name, a field) would meet every prompt, so it ends the evaluation.

    filter   HTTP 400 with code content_filter (Azure), content_policy_violation or invalid_prompt (OpenAI),
             data_inspection_failed (DashScope); 403 with flagged_input (OpenRouter); 451; as an answer's finish_reason
             content_filter (OpenAI, Azure), safety and its like (Gemini), refusal (Anthropic), sensitive (Zhipu), also
             as native_finish_reason (OpenRouter); an answer's content_filter_results with `filtered` (Azure)
    length   HTTP 400 or 422 about the context length, in the words of vLLM, SGLang, llama.cpp, TGI, OpenAI; 413
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from unforgotten.errors import EndpointError

FILTERED = (
    *("content_filter", "content_filtered", "safety", "recitation", "blocklist", "prohibited_content", "spii"),
    *("refusal", "sensitive", "moderation", "guardrail_intervened", "content_policy_violation"),
)
"""Reasons for an answer's end, in lower case, that mean a filter."""
OF_PROMPTS = (400, 403, 413, 422, 451)
"""Statuses that can be about one prompt."""
_FILTER_CODES = re.compile(
    r"content_?filter|content_policy_violation|responsibleaipolicyviolation|invalid_prompt|moderation_blocked"
    r"|data_inspection_failed|flagged_input|content_blocked|prompt_blocked",
    re.I,
)
_FILTER_WORDS = re.compile(
    r"content (management )?policy|content filter|usage polic|safety system|moderation|flagged as"
    r"|inappropriate content",
    re.I,
)
_LENGTH = re.compile(
    r"context_length_exceeded|string_above_max_length|exceed_context_size|context length|context size|context window"
    r"|longer than the maximum|maximum model length|prompt is too long|input is too long|too many tokens"
    r"|`inputs` tokens \+ `max_new_tokens`",
    re.I,
)
_LONGEST = 20_000
"""Characters of an error that are searched."""


class Unread(EndpointError):
    """The server will never answer this prompt; the message is the server's own."""


class Strange(EndpointError):
    """An answer in which no reply of the model's own can be read.

    Some such answers count as unread. A server that gives no others does not speak OpenAI's HTTP.
    """


def of_error(status: int, body: str) -> bool:
    """Is an HTTP error about this prompt alone?"""
    body = body[:_LONGEST]
    if status not in OF_PROMPTS:
        return False
    if status in (413, 451) or _FILTER_CODES.search(body):
        return True
    return status != 403 and bool(_FILTER_WORDS.search(body) or _LENGTH.search(body))


def of_answer(payload: Mapping[str, Any]) -> str:
    """Why an answer is not the model's own, where a filter ended or replaced it; otherwise empty."""
    choices = payload.get("choices")
    if not choices and _FILTER_CODES.search(str(payload)[:_LONGEST]):
        return "the server's content filter gave no answer"
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
    # A gateway gives its own reason (error) beside that of the server behind it (content_filter).
    for reason in (choice.get(name) or "" for name in ("finish_reason", "native_finish_reason")):
        ended_by = reason.strip() if isinstance(reason, str) else str(reason)[:_LONGEST]
        if _is_filters(ended_by) if isinstance(reason, str) else _FILTER_CODES.search(ended_by):
            return f"the server ended the answer by {ended_by[:60]!r}"
    marks = choice.get("content_filter_results")
    of_kind = list(marks.values()) if isinstance(marks, Mapping) else []
    if any(isinstance(mark, Mapping) and mark.get("filtered") is True for mark in of_kind):
        return "the server's content filter took the answer out"
    return ""


def _is_filters(reason: str) -> bool:
    """Whether a filter ended the answer: `content_filter: SAFETY` (Gemini), `contentFilter`, `content-filter`."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|-", "_", reason).lower()
    first = re.split(r"[^\w]+", words)[0].removeprefix("finish_reason_").removeprefix("image_")
    return first in FILTERED
