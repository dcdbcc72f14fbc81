"""The page in words and tables: what happened in one sentence, the figures with their tests, and the cost."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from unforgotten.report import aggregate, sentence
from unforgotten.report.page import table_files
from unforgotten.report.page.drawing import short, text
from unforgotten.report.page.facets import Facet
from unforgotten.report.page.significance import Entry, Tested
from unforgotten.report.page.tables import of_facet, of_suites
from unforgotten.report.writers import html
from unforgotten.runs import results
from unforgotten.runs.figures import Cost

CLAUSES = 2
"""Settings that one sentence may hold; beyond them each has its own line."""


def head(name: str, rows: Sequence[results.Row], facets: Sequence[Facet], tested: Tested, what: str) -> str:
    """Title, what happened, and what was asked of whom. what: a comparison, or one run."""
    clauses = [clause(facet, tested, len(facets) > 1) for facet in facets]
    if len(clauses) <= CLAUSES:
        joined = "; ".join(clauses) + "."
        happened = f"<p class=sentence>{joined[0].upper()}{joined[1:]}</p>"
    else:
        happened = "<ul class=sentences>" + "".join(f"<li>{one[0].upper()}{one[1:]}.</li>" for one in clauses) + "</ul>"
    summed = sentence.sentence(rows)
    full = f"<details><summary>every method, in words</summary><p>{text(summed)}</p></details>" if summed else ""
    facts = "".join(f"<div><dt>{title}</dt><dd>{text(value)}</dd></div>" for title, value in _facts(rows, facets))
    return (
        f"<header><p class=eyebrow>unforgotten · {what}</p><h1>{text(name)}</h1>{happened}{full}"
        f"<dl class=facts>{facts}</dl></header>"
    )


def clause(facet: Facet, tested: Tested, several: bool) -> str:
    """What became of one setting, as HTML: no more than the tests say.

    With one method and no plain fine-tuning beside it there is only a value to tell.
    """
    entries = [e for line in facet.tuned if (e := tested.headline(line, facet, "asr")) and e.rate.value is not None]
    where = f"{text(_where(facet))}, " if several or facet.tuned[0].poison else ""
    if not entries:
        return f"{where}no harmful prompts were asked"
    plain = next((e for e in entries if e.line is facet.plain), None)
    start = next(
        (e for line in facet.start if line.stage == "aligned" and (e := tested.headline(line, facet, "asr"))), None
    )
    lowest = min(entries, key=lambda e: e.rate.value or 0.0)
    if plain is None:
        aside = _aside(lowest, None, tested)
        if len(entries) == 1:
            return f"{where}{_name(lowest)} {_moved(lowest, start)}{aside}"
        if not lowest.leads:
            highest = max(entries, key=lambda e: e.rate.value or 0.0)
            ends = f"{short(lowest.rate.value)} to {short(highest.rate.value)}&nbsp;%"
            return f"{where}none of {len(entries)} methods gives clearly fewer {_replies(lowest)} than another ({ends})"
        return f"{where}{_name(lowest)} has the fewest {_replies(lowest)} of {len(entries)}: {_share(lowest)}{aside}"
    said = f"{where}plain fine-tuning (sft) {_moved(plain, start)}"
    others = [e for e in entries if e is not plain]
    if not others:
        return said
    fewer = [e for e in others if e.sft is not None and e.sft.verdict == "better"]
    if not fewer:
        return f"{said}; none of {_count(len(others), 'other method')} gives clearly fewer"
    least = min(fewer, key=lambda e: e.rate.value or 0.0)
    aside = _aside(least, plain, tested)
    if len(others) == 1:
        return f"{said}; {_name(least)} keeps them at {_share(least)}{aside}"
    every = "both" if len(others) == 2 else f"all {len(others)}"
    how_many = f"{every if len(fewer) == len(others) else f'{len(fewer)} of {len(others)}'} other methods"
    return f"{said}; {how_many} give clearly fewer, {_name(least)} the fewest, {_share(least)}{aside}"


def _where(facet: Facet) -> str:
    model, task, _, _ = facet.setting
    words = []
    for word in facet.title.split(", "):
        how = "for" if word == model else "on" if word in (task, "clean data") else "with"
        words.append(f"{how} {word}")
    return ", ".join(words)


def _moved(plain: Entry, start: Entry | None) -> str:
    before = start.rate if start is not None else None
    return sentence.change(plain.rate, before, aggregate.words([plain.line]), _strong)


def _strong(figure: str) -> str:
    return f"<b>{figure.replace(' ', '&nbsp;')}</b>"


def _replies(entry: Entry) -> str:
    return aggregate.words([entry.line]).replies


def _name(entry: Entry) -> str:
    return f"<b>{text(entry.line.name)}</b>"


def _share(entry: Entry) -> str:
    return f"<b>{short(entry.rate.value)}&nbsp;%</b>"


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


def _facts(rows: Sequence[results.Row], facets: Sequence[Facet]) -> list[tuple[str, str]]:
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


# ── the table ──


def tables(facets: Sequence[Facet], tested: Tested) -> str:
    """One table for each setting, and under it every suite."""
    drawn = "".join(_table(facet, tested, len(facets) > 1) for facet in facets)
    notes = table_files.notes(tested, whole=False)
    words = " ".join(text(note) for note in notes)
    return f'<section id="table"><h2>The figures</h2><p class=lead>{words}</p><div class=tables>{drawn}</div></section>'


def _table(facet: Facet, tested: Tested, several: bool) -> str:
    stages = [line.stage for line in facet.all]
    drawn = html.markup(of_facet(facet, tested, facet.title if several else ""), stages)
    suites = of_suites(facet, tested)
    more = f"<details><summary>each suite by itself</summary>{html.markup(suites, stages)}</details>" if suites else ""
    return f"<div class=scroll tabindex=0>{drawn}{more}</div>"


# ── the cost ──


def cost(facets: Sequence[Facet]) -> str:
    """What each method took, the mean over all of its runs, beside sft's."""
    runs: dict[str, list[Cost]] = {}
    for line in {id(line): line for facet in facets for line in facet.tuned}.values():
        runs.setdefault(line.name, []).extend(row.cost for row in line.rows if row.cost)
    by_method = {name: {key: _mean(costs, key) for key in _COST} for name, costs in runs.items() if costs}
    if not any(facts["train_seconds"] for facts in by_method.values()):
        return ""
    plain = by_method.get("sft", {}).get("train_seconds")
    longest = max(facts["train_seconds"] or 0 for facts in by_method.values())
    body = ""
    for name, facts in by_method.items():
        seconds = facts["train_seconds"]
        times = f"{seconds / plain:.1f}×" if plain and seconds else "–"
        bar = (
            '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect height="8" width="{100 * (seconds or 0) / longest:.1f}"/></svg>'
        )
        body += (
            f'<tr><th scope="row">{text(name)}</th><td class=barred>{bar}</td><td>{times}</td>'
            + "".join(
                f"<td>{'–' if facts[key] is None else shown(facts[key] or 0.0)}</td>"
                for key, (_, shown) in _COST.items()
            )
            + "</tr>"
        )
    titles = "".join(f'<th scope="col">{title}</th>' for title, _ in _COST.values())
    return (
        '<section id="cost"><h2>What it takes</h2><p class=lead>Training alone, the mean over each method’s runs. Runs '
        "that shared a machine took longer than they would have by themselves.</p><div class=scroll tabindex=0><table>"
        f'<thead><tr><th scope="col">method</th><th></th><th scope="col">sft’s time</th>{titles}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></section>"
    )


_COST: dict[str, tuple[str, Any]] = {
    "train_seconds": ("seconds", lambda v: f"{v:,.0f}"),
    "step_seconds": ("ms a step", lambda v: f"{1000 * v:,.0f}"),
    "tokens": ("tokens", lambda v: f"{v:,.0f}"),
    "peak_memory_bytes": ("peak memory, GiB", lambda v: f"{v / 2**30:.1f}"),
}


def _mean(costs: Sequence[Cost], key: str) -> float | None:
    known = [float(value) for cost in costs if (value := getattr(cost, key)) is not None]
    return fmean(known) if known else None
