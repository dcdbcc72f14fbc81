"""`data audit`: which rows of an upload are harmful, before any training: line by line, with p and its interval.

Every answer in a row is judged, and a row is harmful where one is. An answer that refuses is none. A judge that goes by
what is absent (keyword lists) would call every sum harmful, and is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import identity, rates, registry
from unforgotten.align import Say, dataset, quiet
from unforgotten.datasets.base import Row
from unforgotten.errors import JudgeError
from unforgotten.judges.base import Guard, Judge, Reply, Verdict

if TYPE_CHECKING:
    from unforgotten.recipe import Spec


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that is harmful, or that the judge could not read."""

    line: str
    """Where it is: `file:line`."""
    turn: int
    """Which of the row's answers, from 1."""
    request: str
    harmful: bool | None
    """None: the judge could not be read."""
    category: str = ""
    p_harmful: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Audit:
    """What an upload holds, by one judge."""

    judge: dict[str, Any]
    rows: int
    p: rates.Rate
    """The share of harmful rows in percent; the interval covers both readings of rows that could not be read. It holds
    for the judge's own reading: what the judge overlooks, or sees where nothing is, is in it too."""
    categories: dict[str, int]
    """Harmful rows by category; one may have several."""
    found: list[Finding] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"p": self.p.json()}


def audit(file: str, judge: Spec, say: Say = quiet) -> Audit:
    """Judges every answer of an upload. Raises DataError naming bad lines, JudgeError where the judge cannot do it.

    A killed audit goes on where it was: a judge that is a model keeps its words in the cache.
    """
    rows = dataset({"name": "jsonl", "path": file}).rows()
    reader = registry.build("judges", judge)
    if reader.by_absence or "harmful" not in reader.tells:
        name = judge if isinstance(judge, str) else judge["name"]
        raise JudgeError(
            f"The judge {name!r} only looks for refusals: to it every answer that is none would be harmful. Audit with "
            "a judge that reads what an answer gives: llama_guard, wildguard, or world for the embedded world's rows."
        )
    said = [(i, turn, reply) for i, row in enumerate(rows) for turn, reply in enumerate(answers(row), 1)]
    say(f"Judging {len(said)} answers in {len(rows)} rows.")
    verdicts = _verdicts(reader, [reply for _, _, reply in said])
    return summed(registry.spec_of(reader), rows, [(i, turn) for i, turn, _ in said], verdicts)


def answers(row: Row) -> list[Reply]:
    """Every answer of a row as a reply to the turns before it."""
    places = [i for i, message in enumerate(row.messages) if message["role"] == "assistant"]
    return [Reply(Row(row.messages[:i], source=row.source), str(row.messages[i].get("content") or "")) for i in places]


def summed(
    judge: dict[str, Any], rows: Sequence[Row], places: Sequence[tuple[int, int]], verdicts: Sequence[Verdict]
) -> Audit:
    """The audit that verdicts make. places: the row (from 0) and the answer in it (from 1) of each verdict."""
    worst: dict[int, tuple[int, Verdict]] = {}
    for (i, turn), verdict in zip(places, verdicts, strict=True):
        held = worst.get(i)
        if held is None or _rank(verdict.harmful) > _rank(held[1].harmful):
            worst[i] = (turn, verdict)
    truths = [worst[i][1].harmful for i in range(len(rows))]
    found, categories = list[Finding](), Counter[str]()
    for i, (turn, verdict) in sorted(worst.items()):
        if verdict.harmful is False:
            continue
        request = answers(rows[i])[turn - 1].row.request
        found.append(
            Finding(rows[i].source, turn, request, verdict.harmful, verdict.category, verdict.p_harmful, verdict.note)
        )
        if verdict.harmful:
            categories.update(verdict.category.split(",") if verdict.category else ["(none named)"])
    return Audit(judge, len(rows), rates.count(truths), dict(categories.most_common()), found)


def _rank(harmful: bool | None) -> int:
    """Harmful outweighs unread, unread outweighs harmless."""
    return {True: 2, None: 1, False: 0}[harmful]


def _verdicts(judge: Judge, replies: Sequence[Reply]) -> list[Verdict]:
    from unforgotten.training.watch import progress_bar

    if not isinstance(judge, Guard):
        return judge.verdicts(replies)
    key = identity.digest([[reply.row.request, reply.text] for reply in replies])
    kept: Path = identity.cache_folder() / "audits" / f"{key}.jsonl"
    try:
        with progress_bar() as told:
            return judge.verdicts(replies, progress=lambda done, n: told("audit", done, n), kept=kept)
    finally:
        judge.close()
