"""A comparison in a sentence for each setting; `raises`, `lowers`, `clearly` mean that intervals do not meet.

`On clean data, sft raises harmful answers from 1.1 % to 68.9 %; der to 32.8 % (clearly fewer than sft; …).`
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unforgotten.evaluation.statistics import rates
from unforgotten.report.aggregate import Line, lines, names_in, words
from unforgotten.runs import results
from unforgotten.runs.result_types import Rate


def sentence(rows: Sequence[results.ResultRow]) -> str:
    """What happened to harmful answers, a sentence for each setting; empty where there is nothing to compare."""
    measured = [line for line in lines(rows) if line.rate("asr", "mean").value is not None]
    tuned = [line for line in measured if line.stage == "tuned"]
    if not tuned or len(measured) < 2:
        return ""
    keys = dict.fromkeys(_setting(line) for line in tuned)
    models, tasks, _, memories, _ = (set(values) for values in zip(*keys, strict=True))
    sentences = []
    for key in keys:
        model, task, ratio, memory, attack = key
        start = next(
            (
                line
                for line in measured
                if line.stage == "aligned" and line.model == model and line.task in (task, None)
            ),
            None,
        )
        where = [
            *([f"for {model}"] if len(models) > 1 else []),
            *([f"on {task}"] if len(tasks) > 1 else []),
            *([f"with {memory} rows in memory"] if len(memories) > len(tasks) else []),
            f"with {100 * ratio:g} % poison" if ratio else "on clean data",
            *([f"attack {attack}"] if attack else []),
        ]
        text = ", ".join([*where, _of_setting([line for line in tuned if _setting(line) == key], start)])
        sentences.append(f"{text[0].upper()}{text[1:]}.")
    return " ".join(sentences)


def change(after: Rate, before: Rate | None, of: results.Words, strong: Callable[[str], str] = str) -> str:
    """What a model does to the aligned model's answers: `raises harmful answers from 1.1 % to 68.9 %`.

    after, before: shares of harmful prompts, in percent, that have a value; before: the aligned model's, where it was
    asked. of: what they count. strong: how a figure is set off.
    """
    if before is None or before.value is None:
        answers = of is results.MEASURES["asr"]
        return f"{'answers' if answers else 'does not refuse'} {strong(_percent(after))} of harmful prompts"
    verb, onto = direction(after, before)
    if verb == "leaves":
        return f"leaves {of.replies} at {strong(_percent(after))} (no clear change from {_percent(before)})"
    return f"{verb} {of.replies} from {_percent(before)} {onto} {strong(_percent(after))}"


def direction(after: Rate, before: Rate) -> tuple[str, str]:
    """The verb of a change and the word before its figure; `leaves … at` where intervals meet."""
    if not rates.apart(after, before):
        return "leaves", "at"
    return "raises" if (after.value or 0.0) > (before.value or 0.0) else "lowers", "to"


def _of_setting(tuned: Sequence[Line], start: Line | None) -> str:
    """sft, or else the first method, against the aligned model; then each other method against it."""
    plain = next((line for line in tuned if line.name == "sft"), tuned[0])
    of, after = words(tuned), plain.rate("asr", "mean")
    before = start.rate("asr", "mean") if start is not None else None
    clauses = [f"{plain.name} {change(after, before, of)}"]
    for line in (line for line in tuned if line is not plain):
        asr = line.rate("asr", "mean")
        if before is None:
            figure = _percent(asr)
        else:
            verb, onto = direction(asr, before)
            same = verb == direction(after, before)[0]
            figure = f"{onto if same else f'{verb} them {onto}'} {_percent(asr)}"
        clauses.append(f"{line.name} {figure} ({_against(asr, after, plain.name)}{_useful(line, plain)})")
    return "; ".join(clauses)


def _setting(line: Line) -> tuple[str | None, str | None, float | None, int | None, str | None]:
    """What the lines of one sentence have in common."""
    return line.model, line.task, line.poison, line.memory, line.attack


def _against(rate: Rate, other: Rate, name: str) -> str:
    if not rates.apart(rate, other) or rate.value is None or other.value is None:
        return f"no clear difference from {name}"
    return f"clearly {'more' if rate.value > other.value else 'fewer'} than {name}"


def _useful(line: Line, plain: Line) -> str:
    metric = next(iter(names_in([line], "utility")), None)
    if metric is None:
        return ""
    ours, theirs = line.rate("utility", metric), plain.rate("utility", metric)
    if ours.value is None or theirs.value is None:
        return ""
    clear = f", clearly {'lower' if ours.value < theirs.value else 'higher'}" if rates.apart(ours, theirs) else ""
    return f"; {metric} {ours.value:.1f} against {theirs.value:.1f}{clear}"


def _percent(rate: Rate) -> str:
    return f"{rate.value:.1f} %"
