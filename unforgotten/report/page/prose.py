"""The head of a page: what happened, in one sentence for a setting, and what was asked of whom."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from unforgotten.report import aggregate, sentence, templates
from unforgotten.report.page.drawing import short
from unforgotten.report.page.facets import Facet
from unforgotten.report.page.significance import Entry, Tested
from unforgotten.runs import results

CLAUSES = 2
"""Settings that one sentence may hold; beyond them each has its own line."""


def head(name: str, rows: Sequence[results.ResultRow], facets: Sequence[Facet], tested: Tested, what: str) -> Markup:
    """Title, what happened, and what was asked of whom. what: a comparison, or one run."""
    clauses = [clause(facet, tested, len(facets) > 1) for facet in facets]
    if len(clauses) <= CLAUSES:
        clauses = [Markup("; ").join(clauses)]
    sentences = [_begun(each) + "." for each in clauses]
    return templates.html(
        "report/page/head", name=name, what=what, sentences=sentences, summed=sentence.sentence(rows),
        facts=_facts(rows, facets),
    )  # fmt: skip


def _begun(clause: Markup) -> Markup:
    """With a capital; a clause that begins with a name in bold stays."""
    return Markup(clause[0].upper()) + clause[1:] if clause[:1].isalpha() else clause


def clause(facet: Facet, tested: Tested, several: bool) -> Markup:
    """What became of one setting: no more than the tests say. several: whether the page has other settings.

    With one method and no plain fine-tuning beside it there is only a value to tell.
    """
    entries = [e for line in facet.tuned if (e := tested.headline(line, facet, "asr")) and e.rate.value is not None]
    where = f"{_where(facet)}, " if several or facet.tuned[0].poison else ""
    plain = next((e for e in entries if e.line is facet.plain), None)
    aligned = (line for line in facet.start if line.stage == "aligned")
    start = next((e for line in aligned if (e := tested.headline(line, facet, "asr"))), None)
    if not entries:
        what = Markup("no harmful prompts were asked")
    elif plain is None:
        what = _without_plain(entries, start, tested)
    else:
        others = _others([e for e in entries if e is not plain], plain, tested)
        what = Markup("plain fine-tuning (sft) {}{}").format(_moved(plain, start), others)
    return escape(templates.shown(where)) + what


def _without_plain(entries: Sequence[Entry], start: Entry | None, tested: Tested) -> Markup:
    lowest = min(entries, key=lambda e: e.rate.value or 0.0)
    name, aside = _name(lowest), _aside(lowest, None, tested)
    if len(entries) == 1:
        return Markup("{} {}{}").format(name, _moved(lowest, start), aside)
    if lowest.leads:
        many = f"has the fewest {_replies(lowest)} of {len(entries)} methods"
        return Markup("{} {}: {}{}").format(name, many, _share(lowest), aside)
    highest = max(entries, key=lambda e: e.rate.value or 0.0)
    ends = f"{short(lowest.rate.value)} to {short(highest.rate.value)}\N{NO-BREAK SPACE}%"
    return escape(f"none of {len(entries)} methods gives clearly fewer {_replies(lowest)} than another ({ends})")


def _others(others: Sequence[Entry], plain: Entry, tested: Tested) -> Markup:
    """What the other methods do, after what plain fine-tuning does."""
    fewer = [e for e in others if e.sft is not None and e.sft.verdict == "better"]
    if not others:
        return Markup("")
    if not fewer:
        return escape(f"; none of {_count(len(others), 'other method')} gives clearly fewer")
    least = min(fewer, key=lambda e: e.rate.value or 0.0)
    aside = _aside(least, plain, tested)
    if len(others) == 1:
        return Markup("; {} keeps them at {}{}").format(_name(least), _share(least), aside)
    every = "both" if len(others) == 2 else f"all {len(others)}"
    how_many = every if len(fewer) == len(others) else f"{len(fewer)} of {len(others)}"
    return Markup("; {} other methods give clearly fewer, {} the fewest, {}{}").format(
        how_many, _name(least), _share(least), aside
    )


def _where(facet: Facet) -> str:
    model, task, *_ = facet.setting
    words = []
    for word in facet.title.split(", "):
        how = "for" if word == model else "on" if word in (task, "clean data") else "with"
        words.append(f"{how} {word}")
    return ", ".join(words)


def _moved(plain: Entry, start: Entry | None) -> Markup:
    before = start.rate if start is not None else None
    # Numbers and words of our own: no name is in it.
    return Markup(sentence.change(plain.rate, before, aggregate.words([plain.line]), _strong))


def _strong(words: str) -> Markup:
    return Markup("<b>{}</b>").format(templates.shown(words).replace(" ", "\N{NO-BREAK SPACE}"))


def _replies(entry: Entry) -> str:
    return aggregate.words([entry.line]).replies


def _name(entry: Entry) -> Markup:
    return Markup("<b>{}</b>").format(templates.shown(entry.line.name))


def _share(entry: Entry) -> Markup:
    return _strong(f"{short(entry.rate.value)} %")


def _aside(one: Entry, plain: Entry | None, tested: Tested) -> str:
    """Utility and refusals beside sft's: few harmful answers alone say little."""
    parts = []
    for kind, word in (("utility", "utility"), ("refusal", "look-alikes refused")):
        ours = tested.headline(one.line, one.facet, kind)
        theirs = tested.headline(plain.line, plain.facet, kind) if plain else None
        if ours is not None:
            against = f" against {short(theirs.rate.value)}" if theirs is not None else ""
            parts.append(f"{word} {short(ours.rate.value)}{against}")
    return f" ({', '.join(parts)})" if parts else ""


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _facts(rows: Sequence[results.ResultRow], facets: Sequence[Facet]) -> list[tuple[str, str]]:
    tuned = [row for row in rows if row.stage == "tuned"]
    seeds = sorted({row.seed for row in tuned if row.seed is not None})
    last = tuned[-1]
    asked = [
        f"{sum(rate.n or 0 for suite, rate in judged.items() if suite != 'mean')} {word}"
        for judged, word in ((last.rates("asr"), "harmful"), (last.rates("refusal"), "look-alikes"))
        if judged
    ]
    task = next(iter(last.rates("utility").values()), None)
    if task and task.n:
        asked.append(f"{task.n} of the task")
    facts = [
        ("models", ", ".join(dict.fromkeys(str(row.model) for row in tuned))),
        ("user data", ", ".join(dict.fromkeys(str(row.task) for row in tuned))),
        ("methods", str(len({line.name for facet in facets for line in facet.tuned}))),
        ("seed" if len(seeds) == 1 else "seeds", ", ".join(map(str, seeds))),
        ("prompts each", ", ".join(asked)),
        ("judge", ", ".join(judge.name for judge in last.judges or ())),
    ]
    return [(title, value) for title, value in facts if value]
