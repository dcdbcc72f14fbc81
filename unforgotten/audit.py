"""`data audit`: which rows of an upload are harmful, before any training: line by line, with p and its interval.

Every answer in a row is judged, and a row is harmful where one is. An answer that refuses is none. A judge that goes by
what is absent (keyword lists) would call every sum harmful, and is refused. A judge errs: shown rows that are known to
be harmless (the safety data's own answers), or harmful, it tells how often, and p is corrected (prevalence.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import identity, registry
from unforgotten.align import Say, dataset, quiet
from unforgotten.datasets.base import Row
from unforgotten.errors import JudgeError
from unforgotten.judges.base import Guard, Judge, Reply, Verdict
from unforgotten.measure.suites import public
from unforgotten.statistics import rates
from unforgotten.statistics.prevalence import poison_share

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
    """The share of harmful rows in percent; `hits` of `n` are those flagged. The interval covers both readings of rows
    that could not be read. Without rows of known kind it is the judge's own reading, errors and all."""
    known: dict[str, rates.Rate]
    """How many rows known to be harmless, or harmful, the judge flags."""
    categories: dict[str, int]
    """Harmful rows by category; one may have several."""
    found: list[Finding] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """For a file."""
        known = {name: rate.json() for name, rate in self.known.items()}
        return asdict(self) | {"p": self.p.json(), "known": known}


def audit(
    file: str, judge: Spec, say: Say = quiet, *, harmless: str | None = None, harmful: str | None = None
) -> Audit:
    """Judges every answer of an upload. Raises DataError naming bad lines, JudgeError where the judge cannot do it.

    harmless, harmful: files of rows that are known to be so, by which the judge's errors are told and p is corrected.
    A killed audit goes on where it was: a judge that is a model keeps its words in the cache.
    """
    files = {"upload": file, "harmless": harmless, "harmful": harmful}
    rows = {name: dataset({"name": "jsonl", "path": path}).rows() for name, path in files.items() if path}
    reader = registry.build("judges", judge)
    if reader.by_absence or "harmful" not in reader.tells:
        name = judge if isinstance(judge, str) else judge["name"]
        raise JudgeError(
            f"The judge {name!r} only looks for refusals: to it every answer that is none would be harmful. Audit with "
            "a judge that reads what an answer gives: llama_guard, wildguard, or world for the embedded world's rows."
        )
    places = {
        name: [(i, turn, reply) for i, row in enumerate(each) for turn, reply in enumerate(answers(row), 1)]
        for name, each in rows.items()
    }
    reader.check([])
    say(f"Judging {sum(map(len, places.values()))} answers in {sum(map(len, rows.values()))} rows.")
    worst: dict[str, list[tuple[int, Verdict]]] = {}
    try:
        for name, each in places.items():
            verdicts = _verdicts(reader, [reply for _, _, reply in each])
            told = [(i, turn, verdict) for (i, turn, _), verdict in zip(each, verdicts, strict=True)]
            worst[name] = _worst(told, len(rows[name]))
    finally:
        reader.close()
    if worst["upload"] and all(verdict.harmful is None for _, verdict in worst["upload"]):
        raise JudgeError(
            f"The judge could not read a single answer of {file} ({worst['upload'][0][1].note[:200]!r}): it is not for "
            "this data. Use another judge, such as llama_guard or wildguard."
        )
    truths = {name: [verdict.harmful for _, verdict in each] for name, each in worst.items()}
    share = poison_share(truths["upload"], truths.get("harmless", ()), truths.get("harmful", ()))
    known: dict[str, rates.Rate] = {
        name: rates.count(truths[name]) for name in ("harmless", "harmful") if name in truths
    }
    found = [
        Finding(
            row.source,
            turn,
            answers(row)[turn - 1].row.request,
            verdict.harmful,
            verdict.category,
            verdict.p_harmful,
            verdict.note,
        )
        for row, (turn, verdict) in zip(rows["upload"], worst["upload"], strict=True)
        if verdict.harmful is not False
    ]
    categories: Counter[str] = Counter()
    for one in found:
        if one.harmful:
            categories.update(one.category.split(",") if one.category else ["(none named)"])
    spec = public(reader)
    return Audit(spec, len(rows["upload"]), share, known, dict(categories.most_common()), found)


def answers(row: Row) -> list[Reply]:
    """Every answer of a row as a reply to the turns before it."""
    places = [i for i, message in enumerate(row.messages) if message["role"] == "assistant"]
    return [Reply(Row(row.messages[:i], source=row.source), str(row.messages[i].get("content") or "")) for i in places]


def _worst(said: Sequence[tuple[int, int, Verdict]], n: int) -> list[tuple[int, Verdict]]:
    """Of each of n rows the worst answer and which it is. said: row (from 0), answer (from 1), verdict."""
    worst: dict[int, tuple[int, Verdict]] = {}
    for i, turn, verdict in said:
        if i not in worst or _rank(verdict.harmful) > _rank(worst[i][1].harmful):
            worst[i] = (turn, verdict)
    return [worst[i] for i in range(n)]


def _rank(harmful: bool | None) -> int:
    """Harmful outweighs unread, unread outweighs harmless."""
    return {True: 2, None: 1, False: 0}[harmful]


def _verdicts(judge: Judge, replies: Sequence[Reply]) -> list[Verdict]:
    from unforgotten.training.watch import progress_bar

    if not isinstance(judge, Guard):
        return judge.verdicts(replies)
    key = identity.digest([[reply.row.request, reply.text] for reply in replies])
    kept: Path = identity.cache_folder() / "audits" / f"{key}.jsonl"
    with progress_bar() as told:
        return judge.verdicts(replies, progress=lambda done, n: told("audit", done, n), kept=kept)
