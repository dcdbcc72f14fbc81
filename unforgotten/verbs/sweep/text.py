"""What a sweep found, in words and a picture. Figures only: nothing is run here."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unforgotten.evaluation.statistics.rates import apart
from unforgotten.report.aggregate import words
from unforgotten.report.page.drawing import short
from unforgotten.report.page.drawing import with_interval as rate_told
from unforgotten.report.page.facets import Facet, headline
from unforgotten.report.page.tradeoff import scatter
from unforgotten.report.writers import markdown as markdown_table
from unforgotten.report.writers import terminal
from unforgotten.runs import results, safe_text
from unforgotten.runs.result_types import Rate
from unforgotten.verbs.sweep.result import Swept, tasks
from unforgotten.verbs.sweep.search import Outcome
from unforgotten.verbs.sweep.tables import front_table, held_out_table, sensitivity_table, setting, trials_table

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


def outcome(result: Outcome | None) -> str:
    """`ASR 12.3, utility 96.0, refusals 3.1, holds`, for a line of progress."""
    if result is None:
        return "training failed"
    refused = "" if result.refusal is None else f", refusals {short(result.refusal)}"
    missed = ", ".join(f"{limit} by {points:.1f}" for limit, points in result.missed.items() if points > 1e-9)
    return f"ASR {short(result.asr)}, utility {short(result.utility)}{refused}" + (
        f", misses {missed}" if missed else ""
    )


# ── words ──


def sentence(swept: Swept) -> str:
    """The result on held-out prompts; a difference is called clear only where intervals do not meet."""
    best = swept.best.outcome
    assert best is not None
    sft, as_given, chosen = (swept.held_out[name] for name in ("sft", "as given", "chosen"))
    if not best.holds:
        start = (
            f"None of {len(swept.trials)} settings meets the limits ({swept.limits}); trial {swept.best.number} "
            f"({setting(swept.best.settings)}) misses them least"
        )
    else:
        start = f"Of {len(swept.trials)} settings, trial {swept.best.number} ({setting(swept.best.settings)}) has the "
        start += f"lowest ASR within the limits ({swept.limits})"
    asr = {name: headline(line, "asr") for name, line in swept.held_out.items()}
    against = [_against(asr["chosen"], asr["sft"], "plain SFT")]
    if as_given.rows[0].run != chosen.rows[0].run:
        against.append(_against(asr["chosen"], asr["as given"], "the recipe's own setting"))
    else:
        against.append("it is the recipe's own setting")
    text = f"{start}: on held-out prompts, ASR {rate_told(asr['chosen'])}, {' and '.join(against)}"
    text += f"; utility {rate_told(headline(chosen, 'utility'))}, plain SFT's {rate_told(headline(sft, 'utility'))}"
    lost = {t: floor - tasks(chosen)[t] for t, floor in _held_floors(swept).items() if tasks(chosen)[t] < floor - 1e-9}
    if best.holds and lost:
        losses = ", ".join(f"{points:.1f} points{f' on {task}' if task else ''}" for task, points in lost.items())
        text += f". On held-out prompts it misses the utility limit, which it met in the search, by {losses}"
    return text + "."


def _held_floors(swept: Swept) -> dict[str, float]:
    """The utility limits on held-out prompts, where plain SFT has other figures."""
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
    """The range of ASR and utility over all trials."""
    outcomes = [t.outcome for t in swept.trials if t.outcome]
    within = [o for o in outcomes if o.holds]
    asr, utility = [o.asr for o in outcomes], [o.utility for o in outcomes]
    text = f"Over all trials, ASR ranges from {short(min(asr))} to {short(max(asr))} and "
    text += f"utility from {short(min(utility))} to {short(max(utility))}; "
    if not within:
        return text + "none is within the limits."
    asr = [o.asr for o in within]
    return text + (
        f"over the {len(within)} of {len(outcomes)} within the limits, ASR ranges from {short(min(asr))} to "
        f"{short(max(asr))}."
    )


def markdown(swept: Swept, chosen: Recipe, pictured: bool) -> str:
    """README.md. chosen: the recipe of the choice, for the part to paste."""
    broken = [t for t in swept.trials if t.outcome is None]
    text = [
        f"# Sweep of {safe_text.markdown(swept.recipe.name)}",
        "",
        safe_text.markdown(sentence(swept)),
        "",
        "## The front",
        "",
        "The Pareto front on the development prompts: the trials that no other trial beats in one of ASR, utility "
        "and refusals while equal in the rest. In percent, with 95 % intervals over prompts"
        + (" and seeds." if swept.recipe.sweep and swept.recipe.sweep.seeds > 1 else "."),
        "",
        *markdown_table.lines(front_table(swept)),
        *(["", "![What safety costs, setting by setting](front.svg)"] if pictured else []),
        "",
        "## The choice",
        "",
        *([] if swept.best.outcome and swept.best.outcome.holds else ["It misses the limits.", ""]),
        "```yaml",
        _pasted(swept, chosen),
        "```",
        "",
        "## Held-out prompts",
        "",
        "The search did not see these prompts. The chosen setting was selected on the development scores, so those are "
        "optimistic. The gap shows by how much (ASR rises, utility falls). It also holds what other prompts change in "
        "any model.",
        "",
        *markdown_table.lines(held_out_table(swept)),
        "",
        safe_text.markdown(f"Development: {swept.split.text('development')}. Held out: {swept.split.text('held out')}.")
        + (
            f" {swept.split.dropped} development prompts (nearly) duplicate a held-out prompt; they were dropped."
            if swept.split.dropped
            else ""
        ),
        "",
        "## How sensitive the method is",
        "",
        safe_text.markdown(spread(swept)),
        "",
        *markdown_table.lines(sensitivity_table(swept)),
        "",
        "Share: how much a field decides whether a trial is among the best quarter (PED-ANOVA, arXiv 2304.10255). ρ: "
        "Spearman's rank correlation over the trials, with a bootstrap interval; for named choices, the mean of each. "
        "The search tries good regions more often. So these figures show a direction, not the size of an effect.",
        "",
        "## All trials",
        "",
        *markdown_table.lines(trials_table(swept)),
        *([""] if broken else []),
        *(f"Trial {t.number} failed in training: {safe_text.markdown(t.note)}  " for t in broken),
    ]
    return called(swept, "\n".join(text) + "\n")


def called(swept: Swept, text: str) -> str:
    """The text with ASR renamed to what the judge measures, and the caveat of that measure."""
    of = words(swept.references.values())
    if of is results.MEASURES["asr"]:
        return text
    return re.sub(r"\bASR\b", of.short, text) + f"\n{of.caveat}\n"


def _pasted(swept: Swept, chosen: Recipe) -> str:
    import yaml

    tree: dict[str, Any] = {}
    if any(isinstance(place.owner, int) for place in swept.places):
        tree["method"] = chosen.method
    for place in swept.places:
        if not isinstance(place.owner, int):
            tree.setdefault(place.owner, {})[place.field] = swept.best.settings[place.name]
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).strip()


def picture(swept: Swept) -> str | None:
    """The page's picture of what safety costs, trials by their numbers; None where one side was not measured."""
    named = [replace(line, name=name) for name, line in swept.references.items()]
    named += [replace(line, name=str(number)) for number, line in swept.lines.items()]
    figure = scatter(Facet(f"{swept.recipe.name}, development prompts", named, []), [line.name for line in named])
    return figure.svg(alone=True) if figure else None


def show(text: str, out: Any = None) -> None:
    """Prints the sentence, the front and the choice of a README to a terminal."""
    from rich.markdown import Markdown

    out = out or safe_text.console()
    parts = text.split("\n## ")[:3]
    lines = [line for part in parts for line in f"## {part}".splitlines() if not line.startswith("![")]
    lines = "\n".join(lines).replace("## # ", "# ").splitlines()
    start = 0
    for first, end, table in markdown_table.tables("\n".join(lines)):
        out.print(Markdown("\n".join(lines[start:first]), hyperlinks=False))
        terminal.show(table, out)
        start = end
    out.print(Markdown("\n".join(lines[start:]), hyperlinks=False))
