"""The prompts of an evaluation, and the system prompts under which they are asked.

    default   as the chat template writes a prompt by itself, its own default system prompt included
    none      with that default taken out, where the template has one and lets it be
    user      under the system prompt that the user's file has most often
    prefill   as default, with replies to harmful requests that are forced to begin with given words

Whether a tuned model refuses turns on this (PTST, arXiv 2402.18540), so harm and look-alikes are asked under each, and
the worst is the headline; `prefill` is an attack, and stands beside it. Prompts that come out the same, token by token,
are asked once. Tasks are asked as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten import registry
from unforgotten.datasets.base import Dataset, Row, check_kind, refuse_kinds
from unforgotten.datasets.base import Kind as RowKind
from unforgotten.datasets.reading import digest, files
from unforgotten.errors import RecipeError, TemplateError
from unforgotten.evaluation.suite_stages import Condition, Suite, SuiteKind
from unforgotten.judges.base import Judge
from unforgotten.judges.guard.guard import Guard
from unforgotten.recipe.data_sets import DataSets, dataset
from unforgotten.runs import digests

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.evaluate import Evaluate

ROWS: dict[SuiteKind, RowKind] = {"harm": "harmful", "refusal": "benign", "utility": "task"}
"""What the rows of each kind of suite must be."""
PROBE = "What is the capital of France?"
EDITION = 1
"""Raised when the same settings would give other replies or scores: what was measured before is then asked anew."""


def suites(settings: Evaluate, place: str = "evaluate", sets: DataSets | None = None) -> list[Suite]:
    """Every suite with its rows, in the order of the recipe; two of one label are numbered.

    place: what messages call the settings. sets: data sets that were read already. Raises RecipeError where a set's
    rows are of another kind than the place that it is named in, before any model is loaded.
    """
    sets = sets or DataSets()
    all_suites: list[Suite] = []
    for kind, specs in _named(settings):
        for spec in specs:
            _check_score(kind, spec, place)
            samples = settings.samples if kind == "utility" else 1
            loaded = sets.read(spec)
            dataset = loaded.dataset
            check_kind(dataset, loaded.rows, f"{place}.{kind}", [ROWS[kind]])
            rows = [row for row in loaded.rows for _ in range(samples)]
            if any(s.kind == kind and s.rows == rows for s in all_suites):
                raise RecipeError(
                    f"{place}.{kind} names the same prompts twice ({dataset.label}), and they would count twice."
                )
            if kind == "harm":
                openings(rows, settings.prefill, place, dataset.label)  # told before any model is loaded
            label = _label(dataset.label, {s.label for s in all_suites})
            all_suites.append(Suite(kind, label, dataset, rows, samples=samples))
    if not all_suites:
        raise RecipeError(f"`{place}:` names no prompts: give `harm`, `refusal` or `utility`.")
    return all_suites


def openings(rows: Sequence[Row], prefill: int | str | None, place: str, name: str) -> list[str]:
    """What each reply is forced to begin with; empty where it is not. Raises RecipeError for rows without an answer."""
    if prefill is None:
        return []
    if isinstance(prefill, str):
        return [prefill] * len(rows)
    if bare := sum(not row.response.strip() for row in rows):
        raise RecipeError(
            f"{place}.prefill: {prefill} takes the first words of each row's own answer, and {bare} of {len(rows)} "
            f"rows of {name!r} have none. `advbench` has them with `targets: answers`. Or give the words themselves."
        )
    return [" ".join(row.response.split()[:prefill]) for row in rows]


def check_sets(sets: DataSets, *every: Evaluate | None) -> None:
    """Raises what `suites` would, as far as it can be told without a download: before a training, not after it.

    A set on the Hub is checked by the one kind of its rows, if it has one kind. A file that is here is read into `sets`
    and checked row by row.
    """
    named = {
        digests.digest(kind, spec): (kind, spec)
        for settings in every
        if settings is not None
        for kind, specs in _named(settings)
        for spec in specs
    }
    for kind, spec in named.values():
        one = _check_score(kind, spec, "evaluate")
        if (known := one.rows_kind()) is not None:
            refuse_kinds(one, {known: 0}, f"evaluate.{kind}", [ROWS[kind]])
        if (path := one.reads_from) and Path(files.expand(path)).is_file():
            check_kind(one, sets.read(spec).rows, f"evaluate.{kind}", [ROWS[kind]])


def _named(settings: Evaluate) -> list[tuple[SuiteKind, list[Spec]]]:
    return [("harm", settings.harm), ("refusal", settings.refusal), ("utility", settings.utility)]


def _check_score(kind: SuiteKind, spec: Spec, place: str) -> Dataset:
    """The data set, not yet read. Raises RecipeError for a task whose answers it cannot check."""
    one = dataset(spec)
    if kind == "utility" and not one.metrics:
        raise RecipeError(f"{place}.utility: {one.label!r} has no score, so its answers cannot be checked.")
    return one


def _label(name: str, taken: Collection[str]) -> str:
    """A name for files and tables that no other suite has; `mean` is the name of a figure."""
    plain = re.sub(r"[^\w.-]", "-", name).lstrip(".") or "suite"
    if plain not in (*taken, "mean"):
        return plain
    return next(label for n in count(2) if (label := f"{plain}-{n}") not in taken)


def settings_digest(settings: Evaluate, suites: Sequence[Suite], system: str = "") -> str:
    """Over all that determines the replies of given weights, and their scores: settings, prompts and answers.

    Judges are not among it: other judges read the same replies.
    """
    return digests.digest(
        EDITION,
        settings.determining("judge", "endpoint", *([] if settings.temperature else ["batch_size"])),
        settings.endpoint.public() if settings.endpoint else None,
        [[s.kind, s.label, digest.rows_digest(s.rows), [r.answer for r in s.rows]] for s in suites],
        system,
    )


def public(judge: Judge) -> dict[str, object]:
    """A judge without what is this machine's own: where its server is, where its folder lies, how many at once. A
    digest tells two guards of one name apart."""
    spec = registry.spec_of(judge)
    local = ("endpoint", "protocol", "key_variable", "concurrent_requests", "batch_size", "context_tokens")
    shown = {name: value for name, value in spec.items() if name not in local}
    shown |= {name: digests.public_name(str(shown[name])) for name in ("model", "tokenizer") if shown.get(name)}
    return shown | ({"weights": judge.weights_digest()} if isinstance(judge, Guard) else {})


def system_of(rows: Iterable[Row]) -> str:
    """The system prompt that a user's file has most often, the first of those alike; empty where it has none."""
    seen = Counter(system for row in rows if (system := _system(row)).strip())
    return seen.most_common(1)[0][0] if seen else ""


def conditioned(suites: Sequence[Suite], chat: Chat | None, settings: Evaluate, system: str = "") -> list[Suite]:
    """Harm and look-alikes once for each condition whose prompts differ; a row's own system prompt is left as it is.

    chat: None where a server writes the prompts; what its template does without a system prompt is not known then, and
    `none` is left out.
    """
    wanted = wanted_of(settings, system, written_here=chat is not None)
    without = chat is not None and "none" in wanted and _has_default(chat)
    under_conditions: list[Suite] = []
    for suite in suites:
        if suite.kind == "utility":
            under_conditions.append(suite)
            continue
        asked: dict[Condition, Sequence[Row]] = {}
        same: dict[Condition, Condition] = {}
        for condition in wanted:
            rows = suite.rows
            if condition == "user" or (condition == "none" and without):
                rows = [under(row, system if condition == "user" else "") for row in suite.rows]
            try:
                twin = next((c for c, theirs in asked.items() if _alike(theirs, rows, chat)), None)
            except TemplateError as error:
                if condition != "user":
                    raise
                raise TemplateError(f"{error} Leave `user` out of evaluate.conditions for this model.") from None
            if twin is not None:
                same[condition] = twin
            else:
                asked[condition] = rows
        for condition, rows in asked.items():
            also = tuple(c for c, twin in same.items() if twin == condition)
            under_conditions.append(replace(suite, rows=rows, condition=condition, also=also))
        if suite.kind == "harm" and (begun := openings(suite.rows, settings.prefill, "evaluate", suite.label)):
            under_conditions.append(replace(suite, condition="prefill", openings=begun))
    return under_conditions


def wanted_of(settings: Evaluate, system: str, written_here: bool = True) -> list[Condition]:
    """The conditions of a recipe that there are. Raises RecipeError where that is none of them."""
    wanted: list[Condition] = [
        c for c in settings.conditions if (c != "user" or system) and (c != "none" or written_here)
    ]
    if not wanted:
        why = "the user's file has no system prompt" if written_here else "a server writes the prompts"
        raise RecipeError(
            f"evaluate.conditions: {', '.join(settings.conditions)} asks nothing, since {why}. Add `default`."
        )
    return wanted


def under(row: Row, system: str) -> Row:
    """The row under a system prompt; one that has its own keeps it."""
    if any(message["role"] == "system" for message in row.messages):
        return row
    return replace(row, messages=({"role": "system", "content": system}, *row.messages))


def _alike(ours: Sequence[Row], theirs: Sequence[Row], chat: Chat | None) -> bool:
    """The same prompts, token by token? Those that a server writes are so where the turns are."""
    if chat is None:
        return ours == theirs
    return all(a is b or chat.prompt(a) == chat.prompt(b) for a, b in zip(ours, theirs, strict=True))


def _has_default(chat: Chat) -> bool:
    """Does the template write a system prompt of its own, and leave it out for an empty one?

    Llama 2's only adds empty marks to an empty one, Llama 3's writes its date either way, Gemma 2's takes none: for
    these a prompt without a system turn is the one without a system prompt.
    """
    plain = [{"role": "user", "content": PROBE}]
    try:
        return len(chat.prompt([{"role": "system", "content": ""}, *plain])) < len(chat.prompt(plain))
    except TemplateError:
        return False


def _system(row: Row) -> str:
    first = row.messages[0] if row.messages else {"role": ""}
    return str(first.get("content") or "") if first["role"] == "system" else ""
