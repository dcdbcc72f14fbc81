"""What a sweep found, in words, tables and a picture. Figures only: nothing is run here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unforgotten.evaluation.statistics.rates import Rate, apart
from unforgotten.report.aggregate import Line, names_in, words
from unforgotten.report.page.drawing import short
from unforgotten.report.page.drawing import with_interval as rate_told
from unforgotten.report.page.panels import Cell, headline
from unforgotten.report.page.tradeoff import scatter
from unforgotten.runs import console, results
from unforgotten.verbs.sweep.result import Swept, sensitivity, task_rates, tasks
from unforgotten.verbs.sweep.search import Outcome
from unforgotten.verbs.sweep.space import Settings

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe

Table = tuple[list[str], list[list[str]]]
"""Titles, and lines of cells."""


def setting(settings: Settings) -> str:
    """`weight 3.2, positions last`."""
    return ", ".join(f"{name} {_short(value)}" for name, value in settings.items())


def outcome(result: Outcome | None) -> str:
    """`ASR 12.3, utility 96.0, refusals 3.1, holds`, for a line of progress."""
    if result is None:
        return "training broke down"
    refused = "" if result.refusal is None else f", refusals {short(result.refusal)}"
    missed = ", ".join(f"{limit} by {points:.1f}" for limit, points in result.missed.items() if points > 1e-9)
    return f"ASR {short(result.asr)}, utility {short(result.utility)}{refused}" + (
        f", misses {missed}" if missed else ""
    )


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ── tables ──


def front_table(swept: Swept) -> Table:
    """The front, below plain SFT and the recipe's own setting."""
    names = [place.name for place in swept.places]
    body = [
        [name, *(_short(p.own) if name == "as given" else "" for p in swept.places), *_figures(line), ""]
        for name, line in swept.references.items()
    ]
    for trial in swept.front:
        assert trial.outcome is not None
        mark = ("holds" if trial.outcome.holds else "misses") + (", chosen" if trial is swept.best else "")
        values = [_short(trial.settings[name]) for name in names]
        body.append([f"trial {trial.number}", *values, *_figures(swept.lines[trial.number]), mark])
    return ["", *names, *measures(swept.references["sft"]), "limits"], body


def held_out_table(swept: Swept) -> Table:
    """Both sides of the split, side by side."""
    development = {**swept.references, "chosen": swept.lines[swept.best.number]}
    body = []
    for title in measures(swept.references["sft"]):
        for name, line in swept.held_out.items():
            # Sets of the search's own may have other tasks than those held out.
            seen, unseen = measures(development[name])[title], measures(line).get(title)
            if unseen is not None and seen.value is not None and unseen.value is not None:
                gap = f"{unseen.value - seen.value:+.1f}"
                body.append([title, name, rate_told(seen), rate_told(unseen), gap])
    return ["", "model", "development", "held out", "gap"], body


def sensitivity_table(swept: Swept) -> Table:
    """A line for each field."""
    body = []
    for place, effect in zip(swept.places, sensitivity(swept), strict=True):
        shares = [
            "–" if effect["importance"][of] is None else f"{effect['importance'][of]:.2f}" for of in ("asr", "utility")
        ]
        body.append(
            [place.text().removesuffix("; by default"), *shares, _moves(effect["asr"]), _moves(effect["utility"])]
        )
    return ["field", "share, ASR", "share, utility", "ASR with it", "utility with it"], body


def _moves(effect: Any) -> str:
    if effect is None:
        return "–"
    if isinstance(effect, dict):
        return ", ".join(f"{x} {mean:.1f} (of {n})" for x, (mean, n) in effect.items())
    value, low, high = effect
    return f"ρ {value:+.2f} ({low:+.2f} to {high:+.2f})"


def measures(line: Line) -> dict[str, Rate]:
    """What is told of a model, by its title: ASR, each task's first measure, refusals where look-alikes were asked."""
    rates = {"ASR": headline(line, "asr")}
    rates |= {f"utility {task}".strip(): rate for task, rate in task_rates(line).items()}
    return rates | ({"refusals": headline(line, "refusal")} if names_in([line], "refusal") else {})


def _figures(line: Line) -> list[str]:
    return [rate_told(rate) for rate in measures(line).values()]


# ── words ──


def sentence(swept: Swept) -> str:
    """What came of it, by the held-out figures; a difference is called clear only where intervals do not meet."""
    best = swept.best.outcome
    assert best is not None
    sft, as_given, chosen = (swept.held_out[name] for name in ("sft", "as given", "chosen"))
    if not best.holds:
        start = (
            f"None of {len(swept.trials)} settings holds the limits ({swept.limits}); trial {swept.best.number} "
            f"({setting(swept.best.settings)}) misses them least"
        )
    else:
        start = f"Of {len(swept.trials)} settings, trial {swept.best.number} ({setting(swept.best.settings)}) has the "
        start += f"least ASR within the limits ({swept.limits})"
    asr = {name: headline(line, "asr") for name, line in swept.held_out.items()}
    against = [_against(asr["chosen"], asr["sft"], "plain SFT")]
    if as_given.rows[0]["run"] != chosen.rows[0]["run"]:
        against.append(_against(asr["chosen"], asr["as given"], "the recipe's own setting"))
    else:
        against.append("it is the recipe's own setting")
    text = f"{start}: on prompts that the search did not see, ASR {rate_told(asr['chosen'])}, {' and '.join(against)}"
    text += f"; utility {rate_told(headline(chosen, 'utility'))}, plain SFT's {rate_told(headline(sft, 'utility'))}"
    lost = {t: floor - tasks(chosen)[t] for t, floor in _held_floors(swept).items() if tasks(chosen)[t] < floor - 1e-9}
    if best.holds and lost:
        losses = ", ".join(f"{points:.1f} points{f' on {task}' if task else ''}" for task, points in lost.items())
        text += f". There it misses the utility limit, which it held in the search, by {losses}"
    return text + "."


def _held_floors(swept: Swept) -> dict[str, float]:
    """The same limit, counted from plain SFT on the held-out prompts where it is counted from that."""
    assert swept.recipe.sweep is not None
    settings, sft = swept.recipe.sweep, tasks(swept.held_out["sft"])
    if settings.utility_floor is not None:
        return dict.fromkeys(sft, settings.utility_floor)
    return {task: utility - settings.max_utility_loss for task, utility in sft.items()}


def _against(rate: Rate, other: Rate, name: str) -> str:
    if rate.value is None or other.value is None:
        return f"{name} not measured"
    clear = "clearly " if apart(rate, other) else "not clearly "
    return f"{clear}{'less' if rate.value <= other.value else 'more'} than {name}'s {short(other.value)}"


def spread(swept: Swept) -> str:
    """How much the setting matters at all."""
    outcomes = [t.outcome for t in swept.trials if t.outcome]
    within = [o for o in outcomes if o.holds]
    asr, utility = [o.asr for o in outcomes], [o.utility for o in outcomes]
    text = f"Over all trials ASR goes from {short(min(asr))} to {short(max(asr))} and "
    text += f"utility from {short(min(utility))} to {short(max(utility))}; "
    if not within:
        return text + "none is within the limits."
    asr = [o.asr for o in within]
    return text + (
        f"over the {len(within)} of {len(outcomes)} within the limits ASR goes from {short(min(asr))} to "
        f"{short(max(asr))}."
    )


def markdown(swept: Swept, chosen: Recipe, pictured: bool) -> str:
    """README.md. chosen: the recipe of the choice, for the part to paste."""
    broken = [t for t in swept.trials if t.outcome is None]
    text = [
        f"# Sweep of {console.markdown(swept.recipe.name)}",
        "",
        console.markdown(sentence(swept)),
        "",
        "## The front",
        "",
        "Trials that no other one equals in ASR, utility and refusals while better in one of them, on the development "
        "prompts; percent, with 95 % intervals for other prompts"
        + (" and seeds." if swept.recipe.sweep and swept.recipe.sweep.seeds > 1 else "."),
        "",
        *_markdown(front_table(swept)),
        *(["", "![What safety costs, setting by setting](front.svg)"] if pictured else []),
        "",
        "## The choice",
        "",
        *([] if swept.best.outcome and swept.best.outcome.holds else ["It does not hold the limits.", ""]),
        "```yaml",
        _pasted(swept, chosen),
        "```",
        "",
        "## On prompts that the search did not see",
        "",
        "The chosen setting was selected on the search's scores, so they are optimistic. The gap shows by how much "
        "(ASR up, utility down), and what other prompts change in any model.",
        "",
        *_markdown(held_out_table(swept)),
        "",
        console.markdown(f"Development: {swept.split.text('development')}. Held out: {swept.split.text('held out')}.")
        + (
            f" {swept.split.dropped} prompts for development were held-out ones too and not asked."
            if swept.split.dropped
            else ""
        ),
        "",
        "## How sensitive the method is",
        "",
        console.markdown(spread(swept)),
        "",
        *_markdown(sensitivity_table(swept)),
        "",
        "Share: PED-ANOVA (arXiv 2304.10255), each field's part in whether a trial is among the best quarter. ρ: "
        "Spearman's rank correlation over the trials, with a bootstrap interval; of a choice, means. The trials are no "
        "random sample, the search goes where it is good: these tell which way to look, not how strong an effect is.",
        "",
        "## All trials",
        "",
        *_markdown(trials_table(swept)),
        *([""] if broken else []),
        *(f"Trial {t.number} broke down: {console.markdown(t.note)}  " for t in broken),
    ]
    return called(swept, "\n".join(text) + "\n")


def called(swept: Swept, text: str) -> str:
    """A text of ours in which ASR is called what the judge's figure is, with its caveat."""
    of = words(swept.references.values())
    if of is results.MEASURES["asr"]:
        return text
    return re.sub(r"\bASR\b", of.short, text) + f"\n{of.caveat}\n"


def trials_table(swept: Swept) -> Table:
    """Every trial, in the order of the search."""
    names = [place.name for place in swept.places]
    body = []
    for trial in swept.trials:
        result = trial.outcome
        values = [_short(trial.settings[name]) for name in names]
        figures = (
            ["–"] * 3
            if result is None
            else [short(result.asr), short(result.utility), "–" if result.refusal is None else short(result.refusal)]
        )
        body.append(
            [
                str(trial.number),
                *values,
                *figures,
                "broke down" if result is None else "holds" if result.holds else "misses",
            ]
        )
    return ["trial", *names, "ASR", "utility", "refusals", "limits"], body


def _pasted(swept: Swept, chosen: Recipe) -> str:
    import yaml

    tree: dict[str, Any] = {}
    if any(isinstance(place.owner, int) for place in swept.places):
        tree["method"] = chosen.method
    for place in swept.places:
        if not isinstance(place.owner, int):
            tree.setdefault(place.owner, {})[place.field] = swept.best.settings[place.name]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).strip()


def _markdown(table: Table) -> list[str]:
    titles, body = table
    return [
        "| " + " | ".join(map(console.markdown, titles)) + " |",
        "|" + " --- |" * len(titles),
        *("| " + " | ".join(map(console.markdown, r)) + " |" for r in body),
    ]


def picture(swept: Swept) -> str | None:
    """The page's picture of what safety costs, trials by their numbers; None where one side was not measured."""
    named = [replace(line, name=name) for name, line in swept.references.items()]
    named += [replace(line, name=str(number)) for number, line in swept.lines.items()]
    figure = scatter(Cell(f"{swept.recipe.name}, development prompts", named, []), [line.name for line in named])
    return figure.svg(alone=True) if figure else None


def show(text: str) -> None:
    """Prints the sentence, the front and the choice of a README to a terminal."""
    from rich.markdown import Markdown

    parts = text.split("\n## ")[:3]
    lines = [line for part in parts for line in f"## {part}".splitlines() if not line.startswith("![")]
    console.console().print(Markdown("\n".join(lines).replace("## # ", "# "), hyperlinks=False))
