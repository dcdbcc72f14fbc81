"""Replies from a model in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError
from unforgotten.generation.generator import Continuation, Decoding, Generator, context_tokens
from unforgotten.generation.reply import Finish, Reply
from unforgotten.generation.resume import ResumeFile
from unforgotten.models.chat import Chat, fits
from unforgotten.models.chat.opening import begin
from unforgotten.models.chat.thinking import begun_by, split

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[int, int], None]


def generate(
    model: nn.Module,
    chat: Chat,
    rows: Sequence[Row],
    *,
    max_new_tokens: int = 512,
    batch_size: int = 64,
    progress: Progress | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    resume_file: Path | None = None,
    note: Callable[[str], None] | None = None,
    openings: Sequence[str] = (),
) -> list[Reply]:
    """One reply for each row, in the rows' order. `progress(done, rows)` is called at first and after each batch.

    `temperature` 0 is greedy; above it, sampling seeded by `seed`, from the whole distribution unless `top_p` is lower.
    A reply never runs over the model's context: such a row gets what is left of it, and finishes with "length".
    resume_file: a JSONL file of finished rows, for one model. A killed call goes on there, with the batches that it
    would have had, so that nothing depends on the kill. note: is given a sentence where memory did not suffice for a
    batch. openings: for each row, words that its reply is forced to begin with. They are no new tokens, and the reply's
    `text` begins with them. Raises DataError for prompts that are too long, TemplateError where a reply cannot begin
    so, and ModelError where memory does not suffice for one prompt or the model's logits are NaN.
    """
    begun = begin(chat, rows, openings)
    prompts = [prompt + said for prompt, said in begun]
    limits = _limits(model, rows, prompts, max_new_tokens)
    asked = [[p, limit, temperature, top_p, seed] for p, limit in zip(prompts, limits, strict=True)]
    resumed = ResumeFile(resume_file, asked)
    replies = {index: _restored(rows[index], facts) for index, facts in resumed.facts.items()}

    def finish(batch: dict[int, Continuation]) -> None:
        new = {i: _reply(chat, rows[i], *begun[i], text) for i, text in batch.items() if i not in replies}
        resumed.add_all({index: _facts(reply) for index, reply in new.items()})
        replies.update(new)
        if progress:
            progress(len(replies), len(rows))

    if progress:  # a batch may take long, and its name is what is said meanwhile
        progress(len(replies), len(rows))
    how = Decoding(end_ids=chat.end_ids, pad_id=chat.pad_id, temperature=temperature, top_p=top_p, seed=seed)
    Generator(model, how, note=note).run(
        prompts,
        limits,
        batch_size=batch_size,
        finished=finish,
        done=set(replies),
        seed_batches=resume_file is not None,
    )
    return [replies[index] for index in range(len(rows))]


def _limits(model: nn.Module, rows: Sequence[Row], prompts: Sequence[list[int]], max_new_tokens: int) -> list[int]:
    """The most new tokens of each row. Raises DataError where a prompt leaves no room for any."""
    context = context_tokens(model)
    if long := [n for n, prompt in enumerate(prompts) if context and len(prompt) >= context]:
        named = [(n + 1, f"{rows[n].source or 'prompt'} has {len(prompts[n])} tokens") for n in long]
        raise DataError(f"{len(long)} prompts leave no room in the model's context of {context} tokens:", named)
    fits.refuse([(row.source, prompt) for row, prompt in zip(rows, prompts, strict=True)], model, room=False)
    return [min(max_new_tokens, context - len(prompt)) if context else max_new_tokens for prompt in prompts]


def continuations(
    model: nn.Module,
    chat: Chat,
    prompt: list[int],
    n: int,
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    progress: Progress | None = None,
) -> list[list[int]]:
    """`n` samples of what follows one prompt of ids, each up to and including the first end token that it came to.

    stop_ids: tokens that end a sample beside the chat's own, such as the one that opens the answer.
    """
    context = context_tokens(model)
    if context and len(prompt) >= context:
        raise DataError(f"The prompt has {len(prompt)} tokens, and the model's context is {context} tokens.")
    limit = min(max_new_tokens, context - len(prompt)) if context else max_new_tokens
    samples: dict[int, list[int]] = {}

    def finish(batch: dict[int, Continuation]) -> None:
        samples.update({index: text.ids for index, text in batch.items()})
        if progress:
            progress(len(samples), n)

    ends = tuple(dict.fromkeys([*chat.end_ids, *stop_ids]))
    how = Decoding(end_ids=ends, pad_id=chat.pad_id, temperature=temperature, seed=seed)
    Generator(model, how).run([prompt] * n, [limit] * n, batch_size=batch_size, finished=finish)
    return [samples[index] for index in range(n)]


def decoding(
    chat: Chat, *, max_new_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """What `generate` does with these arguments, for results.json."""
    facts: dict[str, Any] = {"strategy": "sampling" if temperature > 0 else "greedy", "max_new_tokens": max_new_tokens}
    if temperature > 0:
        facts |= {"temperature": temperature, "top_p": top_p, "seed": seed}
    return facts | {"stop": chat.tokenizer.convert_ids_to_tokens(list(chat.end_ids)), "engine": "transformers"}


def _reply(chat: Chat, row: Row, prompt: list[int], opening: list[int], continuation: Continuation) -> Reply:
    """A reply, with its thought apart from its answer; a thought may have been begun by the prompt."""
    ids = opening + (continuation.ids[:-1] if continuation.ended else continuation.ids)
    text, tokens = chat.decode(ids), len(continuation.ids)
    finish: Finish = "stop" if continuation.ended else "length"
    if opening:
        return Reply(row, text, finish, tokens, prefill=chat.decode(opening))
    # Some models' marks of a thought are special tokens, which a plain decoding leaves out.
    marked = chat.decode(ids, skip_special_tokens=False)
    parts = split(marked, begun_by(chat, prompt))
    if not parts.thought and not parts.unclosed:
        # A thought that is empty is none, but its marks are no part of the answer.
        return Reply(row, text if parts.answer == marked else _without_specials(chat, parts.answer), finish, tokens)
    answer, thought = _without_specials(chat, parts.answer), _without_specials(chat, parts.thought)
    return Reply(row, answer, finish, tokens, thought, parts.unclosed)


def _without_specials(chat: Chat, text: str) -> str:
    for token in chat.tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return text


def _facts(reply: Reply) -> dict[str, Any]:
    """What a resume file holds of a reply."""
    facts = {"text": reply.text, "finish": reply.finish, "tokens": reply.tokens}
    facts |= {"prefill": reply.prefill} if reply.prefill else {}
    return facts | {"thought": reply.thought, "unclosed": reply.unclosed}


def _restored(row: Row, facts: dict[str, Any]) -> Reply:
    said = facts["text"], facts["finish"], facts["tokens"], facts["thought"], facts["unclosed"]
    return Reply(row, *said, prefill=facts.get("prefill", ""))
