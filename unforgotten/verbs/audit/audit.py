"""`data audit`: which rows of an upload are harmful, before any training: line by line, with p and its interval.

What is judged is what the loss sees (spoken.py): with a model or a recipe the text of the tokens in the loss,
without either every word that a template could print. Each answer is judged after its conversation, and the
conversation as a whole (verbs/audit/exchanges.py); texts longer than the judge's context in windows. A row is harmful
where any of that is, unread where none is but something could not be read. An answer that refuses is not harmful.

A judge that goes by what is absent (keyword lists) would call every sum harmful, and is refused. A judge errs: shown
rows that are known to be harmless (the safety data's own answers), or harmful, it tells how often, and p is corrected
(prevalence.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Row
from unforgotten.errors import JudgeError, RecipeError
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.prevalence import ShareDecision, ShareOutcome, decide, poison_share
from unforgotten.evaluation.suites import public
from unforgotten.judges.base import Judge, Verdict
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.recipe.data_sets import DataSets, read, user_rows
from unforgotten.runs.progress import Say, quiet
from unforgotten.runs.result_types import Rate
from unforgotten.verbs.align import base_of
from unforgotten.verbs.audit import record
from unforgotten.verbs.audit.exchanges import NEAR_TURNS, Exchange, View, exchanges
from unforgotten.verbs.audit.judged import worst_of
from unforgotten.verbs.audit.readings import invisible
from unforgotten.verbs.audit.spoken import Spoken, spoken, words

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.aligned import Aligned
    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.recipe import Recipe

EXIT_CODES: dict[ShareOutcome | None, int] = {None: 0, "within": 0, "beyond": 3, "unclear": 4}
SHOWN_SOURCES = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """One row that is harmful, or that the judge could not read."""

    line: str
    """Where it is: `file:line`."""
    turn: int
    """Which of the row's answers, from 1; 0 for all of them as one."""
    request: str
    harmful: bool | None
    """None: the judge's verdict could not be read."""
    category: str = ""
    p_harmful: float | None = None
    note: str = ""
    view: View = "turn"
    """How the answer was judged: after the user's last turn, after its conversation, or all answers as one text."""


@dataclass(frozen=True)
class Audit:
    """What an upload holds, by one judge."""

    judge: dict[str, Any]
    rows: int
    """Rows of the upload. Rows without a token in the loss are not counted in `p`."""
    p: Rate
    """The share of harmful rows in percent; `hits` of `n` are those flagged. The interval is of what the sender sends,
    of which these rows are a sample. It covers both readings of rows that could not be read. Without rows of known kind
    it is the judge's own reading, errors and all."""
    known: dict[str, Rate]
    """How many rows known to be harmless, or harmful, the judge flags."""
    categories: dict[str, int]
    """Harmful rows by category; one may have several."""
    findings: list[Finding] = field(default_factory=list)
    decision: ShareDecision | None = None
    """On `max_p`, where it was given."""
    digests: record.Digests = field(default_factory=lambda: record.Digests(""))
    """Digests of what was judged. `finetune --audited` compares the run's digests with them."""
    notes: list[str] = field(default_factory=list)
    """How the rows were read, and what happened to them."""
    texts: int = 0
    """Texts given to the judge; each window counts as one."""

    @property
    def outcome(self) -> ShareOutcome | None:
        """On `max_p`; without it `unclear` where no row could be read, else None."""
        if self.decision is not None:
            return self.decision.outcome
        return "unclear" if self.p.unparsed == (self.p.n or 0) else None

    @property
    def exit_code(self) -> int:
        """0: within, or no limit was set; 3: beyond; 4: unclear."""
        return EXIT_CODES[self.outcome]

    def json(self) -> dict[str, Any]:
        """For a file."""
        known = {name: rate.json() for name, rate in self.known.items()}
        head = {"outcome": self.outcome, "digest": self.digests.whole}
        body = {"found" if name == "findings" else name: value for name, value in asdict(self).items()}
        return head | body | {"p": self.p.json(), "known": known}


def audit(
    file: str | None,
    judge: Spec,
    say: Say = quiet,
    *,
    harmless: str | None = None,
    harmful: str | None = None,
    model: str | None = None,
    template: str | None = None,
    max_length: int | None = None,
    recipe: Recipe | None = None,
    max_p: float | None = None,
) -> Audit:
    """Judges what an upload would teach. Raises DataError naming bad lines, JudgeError where the judge cannot do it.

    harmless, harmful: files of rows that are known to be so, by which the judge's errors are told and p is corrected.
    model, template, max_length: whose chat template writes the rows (a Hub id, a folder or `world`), and where
    they are cut; recipe: has all of these, and the rows too where `file` is None. max_p: a limit on p in percent.
    A killed audit goes on where it was: a judge that is a model keeps its words in the cache.
    """
    if max_p is not None and not 0 <= max_p <= 100:
        raise RecipeError(f"max_p is {max_p:g}. Give a percentage from 0 to 100.")
    reader = _reader(judge)
    sets = DataSets()
    chat, limit = _chat(model, template, max_length, recipe, sets, say)
    rows = {"upload": _rows(file, recipe, sets, say)} | {
        name: _rows(path, None, sets, say) for name, path in (("harmless", harmless), ("harmful", harmful)) if path
    }
    trained = record.digests(rows["upload"], chat, limit)
    answers = {name: [spoken(row, chat, limit) for row in each] for name, each in rows.items()}
    asked = {name: _asked(each, answers[name], reader) for name, each in rows.items()}
    reader.check([])
    n_texts = sum(len(exchange) for each in asked.values() for exchange in each)
    say(f"Judging {sum(map(len, rows.values()))} rows in {n_texts} exchanges.")
    try:
        worst, texts, parted = worst_of(reader, asked)
    finally:
        reader.close()
    truths = {name: [pair[1].harmful for pair in each if pair is not None] for name, each in worst.items()}
    known = truths.get("harmless", []), truths.get("harmful", [])
    read = [_finding(rows["upload"][i], *each) for i, each in enumerate(worst["upload"]) if each is not None]
    findings = [finding for finding in read if finding.harmful is not False]
    return Audit(
        judge=public(reader),
        rows=len(rows["upload"]),
        p=poison_share(truths["upload"], *known),
        known={name: rates.count(truths[name]) for name in ("harmless", "harmful") if name in truths},
        categories=_categories(findings),
        findings=findings,
        decision=None if max_p is None else decide(max_p, truths["upload"], *known),
        digests=trained.digests,
        notes=[*trained.lines, *_notes(rows["upload"], answers["upload"], chat), *_windowed(parted)],
        texts=texts,
    )


# ── what is judged ──


def _reader(spec: Spec) -> Judge:
    """The judge. Raises JudgeError where it does not read what an answer gives."""
    reader: Judge = registry.build("judges", spec)
    if reader.by_absence or "harmful" not in reader.tells:
        name = spec if isinstance(spec, str) else spec["name"]
        raise JudgeError(
            f"The judge {name!r} only looks for refusals. It would call every other answer harmful. Use a judge that "
            "reads the content of an answer: llama_guard, wildguard, qwen3guard (no licence to accept), instructed "
            "(your own model), or world for the embedded world's rows."
        )
    return reader


def _rows(file: str | None, recipe: Recipe | None, sets: DataSets, say: Say) -> list[Row]:
    if file is not None:
        return read({"name": "jsonl", "path": file}, say=say)
    if recipe is None:
        raise RecipeError("Name a file to audit, or a recipe (--recipe) to audit its rows.")
    user = user_rows(recipe, sets)
    for note in user.notes:
        say(note)
    return user.settled()


def _chat(
    model: str | None, template: str | None, max_length: int | None, recipe: Recipe | None, sets: DataSets, say: Say
) -> tuple[Chat | None, int | None]:
    """Whose template writes the rows, and where they are cut; None where neither model nor recipe is named."""
    flags = {"--model": model, "--template": template, "--max-length": max_length}
    if recipe is not None:
        if given := [flag for flag, value in flags.items() if value is not None]:
            raise RecipeError(
                f"{' and '.join(given)}: the recipe already sets this. Change it in the recipe, or leave the option "
                "out."
            )
        return run_chat(recipe, aligned_of(recipe, sets), say), recipe.training.max_length
    if model is None:
        if given := [flag for flag, value in flags.items() if value is not None]:
            raise RecipeError(
                f"{' and '.join(given)} needs a model, since it counts tokens. Name the model as well (--model)."
            )
        return None, None
    from unforgotten.recipe.read import parse

    named = parse({"model": model, "template": template})
    return run_chat(named, aligned_of(named, sets), say), max_length


def run_chat(recipe: Recipe, where: Aligned, say: Say = quiet) -> Chat:
    """The chat that a run of this recipe would train with, before θ_safe is made: nothing is trained for it."""
    from unforgotten.models import load
    from unforgotten.models.locate_aligned import aligned_chat

    base_of(recipe, say)
    if not where.by_align_stage or where.record.exists():
        return aligned_chat(recipe, where)
    return load.load_chat(
        where.base, revision=where.revision, template=recipe.template, date=recipe.date, variables=recipe.variables
    )


def _asked(rows: Sequence[Row], answers: Sequence[Sequence[Spoken]], judge: Judge) -> list[list[Exchange]]:
    return [exchanges(row, said, judge) for row, said in zip(rows, answers, strict=True)]


# ── what is said of it ──


def _finding(row: Row, exchange: Exchange, verdict: Verdict) -> Finding:
    request = exchange.reply.row.request
    if exchange.answer:  # the words that its answer follows, however much else the judge was shown
        places = [i for i, message in enumerate(row.messages) if message["role"] == "assistant"]
        request = Row(row.messages[: places[exchange.answer - 1]]).request
    return Finding(
        row.source,
        exchange.answer,
        request,
        verdict.harmful,
        verdict.category,
        verdict.p_harmful,
        verdict.note,
        exchange.view,
    )


def _categories(findings: Sequence[Finding]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for finding in findings:
        if finding.harmful:
            counted.update(finding.category.split(",") if finding.category else ["(none named)"])
    return dict(counted.most_common())


def _notes(rows: Sequence[Row], answers: Sequence[Sequence[Spoken]], chat: Chat | None) -> list[str]:
    notes = []
    if chat is None:
        notes.append(
            "no model was named, so no chat template is applied: every word of the assistant's turns is judged"
        )
    if long := [row.source for row in rows if len(row.messages) > NEAR_TURNS + 1]:
        notes.append(
            f"{len(long):,} rows have more than {NEAR_TURNS} turns. Each answer is judged after the conversation's "
            f"opening and the {NEAR_TURNS} turns before it. All answers are also judged as one text, after all "
            f"requests: {_named(long)}"
        )
    if silent := [row.source for row, said in zip(rows, answers, strict=True) if not said]:
        notes.append(f"{len(silent):,} rows have no token in the loss and are not judged: {_named(silent)}")
    hidden = [
        row.source
        for row, said in zip(rows, answers, strict=True)
        if any(invisible(text) for text in [*map(words, row.messages), *(each.text for each in said)])
    ]
    if hidden:
        notes.append(
            f"{len(hidden):,} rows hold invisible characters. They are judged both with and without these: "
            f"{_named(hidden)}"
        )
    return notes


def _windowed(parted: int) -> list[str]:
    return (
        [f"{parted:,} exchanges are longer than the judge's context. The judge read them in windows"] if parted else []
    )


def _named(sources: Sequence[str]) -> str:
    more = len(sources) - SHOWN_SOURCES
    return ", ".join(sources[:SHOWN_SOURCES]) + (f" and {more:,} more" if more > 0 else "")
