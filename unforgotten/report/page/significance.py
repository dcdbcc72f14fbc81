"""Every figure of a comparison with its interval, and whether it differs from plain fine-tuning's and from the best.

Where replies are at hand, models are compared prompt by prompt and seed by seed (`statistics.paired`): Tango's interval
and McNemar's exact test for a suite, a paired bootstrap for a mean of several, `over_seeds` over seeds. Where they are
not, two figures are called different only if their intervals do not meet, which overlooks much. Each test stands for
itself: nothing is corrected for how many there are, and the best is found by the same figures it is then tested on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from unforgotten.errors import DataError
from unforgotten.evaluation import recorded_verdicts
from unforgotten.evaluation.recorded_verdicts import Replies
from unforgotten.evaluation.statistics import paired, rates
from unforgotten.evaluation.statistics.paired import Difference
from unforgotten.report import aggregate
from unforgotten.report.aggregate import Line, names_in
from unforgotten.report.page.facets import Facet
from unforgotten.runs import results
from unforgotten.runs.result_types import Rate
from unforgotten.runs.results import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)
Verdict = Literal["better", "worse", ""]


@dataclass(frozen=True, slots=True)
class Test:
    """One line's figure against another's."""

    other: str
    """Name of the other line."""
    difference: Difference | None
    """In points, paired; None where replies are not at hand."""
    verdict: Verdict
    """Better or worse, where that may be said; fewer harmful answers and refusals are better, and more utility."""


@dataclass(slots=True)
class Entry:
    """One figure of one line."""

    facet: Facet
    line: Line
    kind: Kind
    suite: str
    rate: Rate
    headline: bool
    """Whether it stands for its kind: the mean of several suites, or the task's first measure."""
    sft: Test | None = None
    best: Test | None = None
    """None for what is itself the best, and for what was not read."""
    worst: Test | None = None
    """Against the worst; None for that itself. What is not clearly better than the worst tells nothing of its place."""

    @property
    def leads(self) -> bool:
        """Among the best, and told apart from the worst: neither a wide interval nor a lone model earns the mark."""
        told_apart = self.worst is not None and self.worst.verdict == "better"
        return told_apart and (self.best is None or not self.best.verdict)


@dataclass(slots=True)
class Tested:
    """All figures of a comparison, and what is to be said of the tests."""

    entries: list[Entry]
    notes: list[str]
    paired: bool
    """Whether any two models were compared prompt by prompt."""

    @property
    def words(self) -> results.Words:
        """What the share of harmful prompts is called: ASR, or non-refusal."""
        return aggregate.words(line for e in self.entries for line in (e.line,))

    @property
    def titles(self) -> dict[str, str]:
        """Of the three kinds."""
        return {"asr": self.words.short, "refusal": "refusal", "utility": "utility"}

    def headline(self, line: Line, facet: Facet, kind: str) -> Entry | None:
        """The one figure that stands for a kind."""
        matching = (e for e in self.entries if e.line is line and e.facet is facet and e.kind == kind and e.headline)
        return next(matching, None)


def tested(facets: Sequence[Facet], root: Path) -> Tested:
    """Figures and tests of all facets. root: the folder that `run` of a row is relative to."""
    shelf = _Shelf(root)
    entries: list[Entry] = []
    for facet in facets:
        for kind in KINDS:
            known = names_in(facet.all, kind)
            several = len([name for name in known if name != "mean"]) > 1
            first = "mean" if several and kind != "utility" else next(iter(known), "")
            for suite in known:
                if suite == "mean" and not several:
                    continue
                of_suite = [
                    Entry(facet, line, kind, suite, rate, suite == first)
                    for line in facet.all
                    if (rate := line.rate(kind, suite)).low is not None
                ]
                _test(of_suite, facet, shelf)
                entries += of_suite
    notes = [f"Not compared prompt by prompt: {why}" for why in dict.fromkeys(shelf.lacking)]
    if not shelf.used:
        notes.insert(0, "Without replies, a difference is called clear only where two intervals do not overlap.")
    return Tested(entries, notes[:4], shelf.used)


def _test(entries: Sequence[Entry], facet: Facet, shelf: _Shelf) -> None:
    tuned = [e for e in entries if e.line.stage == "tuned" and e.rate.value is not None]
    if not tuned:
        return
    sign = -1 if tuned[0].kind == "utility" else 1
    top = min(tuned, key=lambda e: sign * (e.rate.value or 0.0))
    bottom = max(tuned, key=lambda e: sign * (e.rate.value or 0.0))
    for e in tuned:
        plain = next((other for other in tuned if other.line is facet.plain), None)
        if plain is not None and e is not plain:
            e.sft = _against(e, plain, shelf)
        if e is not top:
            e.best = e.sft if top is plain else _against(e, top, shelf)
        if e is not bottom:
            e.worst = e.sft if bottom is plain else _against(e, bottom, shelf)


def _against(one: Entry, other: Entry, shelf: _Shelf) -> Test:
    difference = shelf.difference(one, other)
    verdict: Verdict = ""
    if difference is not None:
        clear, less = difference.clear, (difference.value or 0.0) < 0
    else:
        clear, less = rates.apart(one.rate, other.rate), (one.rate.value or 0.0) < (other.rate.value or 0.0)
    if clear:
        verdict = "better" if less != (one.kind == "utility") else "worse"
    return Test(other.line.name, difference, verdict)


@dataclass(slots=True)
class _Shelf:
    """Replies of runs, each read once; what could not be read is remembered with its reason."""

    root: Path
    lacking: list[str] = field(default_factory=list)
    used: bool = False
    kept: dict[tuple[str, str], Replies | None] = field(default_factory=dict)

    def read(self, row: results.ResultRow, condition: str) -> Replies | None:
        key = (str(row.run), condition)
        if key not in self.kept:
            self.kept[key] = None
            # Without a folder there is nothing to say of a single run: the note says it of all.
            if row.run and (folder := self.root / row.run / "replies").is_dir():
                try:
                    self.kept[key] = recorded_verdicts.read(folder.parent, row, condition)
                except DataError as error:
                    self.lacking.append(_without(str(error), self.root))
        return self.kept[key]

    def difference(self, one: Entry, other: Entry) -> Difference | None:
        """Over the seeds that both have."""
        theirs = {row.seed: row for row in other.line.rows}
        differences = [self._of_seed(one, row, theirs[row.seed]) for row in one.line.rows if row.seed in theirs]
        if not differences or any(d is None for d in differences):
            return None
        self.used = True
        return paired.over_seeds([d for d in differences if d is not None])

    def _of_seed(self, one: Entry, row: results.ResultRow, other: results.ResultRow) -> Difference | None:
        kind = one.kind
        ours, theirs = (self.read(r, (r.headline or {}).get(kind, "default")) for r in (row, other))
        if ours is None or theirs is None:
            return None
        try:
            recorded_verdicts.same_questions(row, other)
            pairs = recorded_verdicts.pairs(kind, ours, theirs)
        except DataError as error:
            self.lacking.append(_without(str(error), self.root))
            return None
        if one.suite == "mean":
            return paired.mean_difference(list(pairs.values()))
        return paired.difference(*pairs[one.suite]) if one.suite in pairs else None


def _without(message: str, root: Path) -> str:
    """A message without the path of this machine."""
    return message.replace(f"{root}/", "").replace(str(root), "the folder of runs")


# ── as records ──


def records(tested: Tested) -> list[dict[str, Any]]:
    """One flat record for each figure: what CSV and JSON hold. Base and aligned stand once in each setting."""
    rows = []
    for e in tested.entries:
        model, task, poison, memory, attack = e.facet.setting
        rows.append(
            {
                **{"model": model, "task": task, "poison": poison, "memory_rows": memory, "attack": attack},
                **{"stage": e.line.stage, "method": e.line.name, "seeds": len(e.line.rows)},
                **{"measure": e.kind, "called": tested.titles[e.kind], "suite": e.suite, "headline": e.headline},
                **{k: cast(Any, e.rate.json())[k] for k in ("value", "low", "high", "hits", "n", "unparsed")},
                **_test_fields("sft", e.sft),
                **{"best": e.best.other if e.best else None},
                **_test_fields("best", e.best),
            }
        )
    return rows


def _test_fields(name: str, test: Test | None) -> dict[str, Any]:
    facts = test.difference.json() if test and test.difference else {}
    keys = ("value", "low", "high", "p", "n", "wins", "losses", "unparsed")
    how = None if test is None else "paired" if test.difference else "intervals"
    return {
        **{f"against_{name}_{key}": facts.get(key) for key in keys},
        f"against_{name}_by": how,
        f"against_{name}": test.verdict or "no clear difference" if test else None,
    }
