"""Each exchange is judged once, in windows where it is too long; of a row the worst verdict counts.

A guard's words are kept as they come, under a digest of all that it is given: a killed audit goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unforgotten.errors import JudgeError
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Judge, Verdict
from unforgotten.judges.guard.guard import Guard
from unforgotten.runs import digests
from unforgotten.verbs.audit.exchanges import Exchange

Worst = tuple[Exchange, Verdict]


def worst_of(judge: Judge, asked: dict[str, list[list[Exchange]]]) -> tuple[dict[str, list[Worst | None]], int, int]:
    """The worst exchange of each row, None where it has none; texts given to the judge; exchanges read in windows."""
    place: dict[Any, int] = {}
    texts: list[Reply] = []
    parts: dict[int, list[int]] = {}
    every = [exchange for each in asked.values() for row in each for exchange in row]
    for exchange in every:
        key = _key(judge, exchange.reply)
        if id(exchange) not in parts:
            parts[id(exchange)] = []
        for part in [exchange.reply] if key in place else judge.windows(exchange.reply):
            key = _key(judge, part)
            if key not in place:
                place[key] = len(texts)
                texts.append(part)
            parts[id(exchange)].append(place[key])
    verdicts = _verdicts(judge, texts)

    def read(exchange: Exchange) -> Verdict:
        of_parts = [verdicts[i] for i in parts[id(exchange)]]
        too_long = Verdict(None, None, note="the judge's prompt fills its whole context")
        return max(of_parts, key=lambda verdict: _rank(verdict.harmful), default=too_long)

    worst = {
        name: [max(((e, read(e)) for e in row), key=lambda pair: _rank(pair[1].harmful), default=None) for row in each]
        for name, each in asked.items()
    }
    return worst, len(texts), sum(len(parts[id(exchange)]) > 1 for exchange in every)


def _key(judge: Judge, reply: Reply) -> Any:
    """What makes two texts one: a guard reads request and reply alone; another judge may look at the whole row."""
    return (reply.row.request, reply.text) if isinstance(judge, Guard) else id(reply)


def _rank(harmful: bool | None) -> int:
    """Harmful outweighs unread, unread outweighs harmless."""
    return {True: 2, None: 1, False: 0}[harmful]


def _verdicts(judge: Judge, replies: Sequence[Reply]) -> list[Verdict]:
    from unforgotten.runs.bars import progress_bar

    if not isinstance(judge, Guard):
        verdicts = judge.verdicts(replies)
    else:
        key = digests.digest([[reply.row.request, reply.text] for reply in replies])
        file: Path = digests.cache_folder() / "audits" / f"{key}.jsonl"
        with progress_bar() as tick:
            verdicts = judge.verdicts(replies, progress=lambda done, n: tick("audit", done, n), resume_file=file)
    if len(verdicts) != len(replies):
        raise JudgeError(
            f"The judge gave {len(verdicts)} verdicts on {len(replies)} texts. It must give one verdict for each text."
        )
    return verdicts
