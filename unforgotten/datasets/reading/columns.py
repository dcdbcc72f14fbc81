"""Which column of a file is the prompt: the names that people use, in any case, and those that a user gives.

Published files that are read as they are:

    AdvBench        goal, target                                         [2307.15043]
    HarmBench       Behavior, FunctionalCategory, SemanticCategory, Tags, ContextString, BehaviorID: the context comes
                    first, as in its baselines, "context\\n\\n---\\n\\nbehavior"  [2402.04249]
    StrongREJECT    category, source, forbidden_prompt                   [2402.10260]
    JailbreakBench  Index, Goal, Target, Behavior, Category, Source: Goal is asked, Behavior is its name  [2404.01318]
    SORRY-Bench     question_id, category, turns (a list of one; in a CSV file as text, "['…']"), prompt_style
                    [2406.14598]
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import re
import tokenize
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unforgotten.datasets.reading.formats import Problem, Record
from unforgotten.errors import DataError, RecipeError

ROLES: Mapping[str, tuple[str, ...]] = {
    "prompt": (
        *("prompt", "forbidden_prompt", "instruction", "question", "goal", "behavior", "query", "request", "turns"),
    ),
    "answer": ("completion", "output", "refusal", "response"),
    "category": ("category", "semanticcategory", "semantic_category", "functionalcategory", "type"),
    "context": ("context", "contextstring", "context_string"),
}
"""The names that a column goes by, the likeliest first."""
COPYRIGHT = "copyright"
_LIST = re.compile(r"\s*(\[.*\]|array\(\[.*\))\s*", re.DOTALL)


@dataclass(frozen=True)
class Chosen:
    """The columns of one file, under the names that the file has."""

    by_role: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """What a reader should know of the choice."""

    def get(self, role: str) -> str:
        """A role's column, or empty."""
        return self.by_role.get(role, "")


def check(given: Mapping[str, str] | None, roles: Iterable[str] = ROLES) -> None:
    """Raises RecipeError where `columns:` names a part that there is none of."""
    known = list(roles)
    for role in given or {}:
        if role not in known:
            near = difflib.get_close_matches(role, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
            raise RecipeError(f"columns: unknown part {role!r}. {hint}")


def renamed(given: Mapping[str, str] | None, **roles: str) -> dict[str, str] | None:
    """`columns:` under a reader's own names of its parts: prompt and category, and those in `roles`."""
    known = {"prompt": "prompt", "category": "category"} | roles
    check(given, known)
    return {known[role]: column for role, column in given.items()} if given else None


def names(given: Mapping[str, str] | None, roles: Mapping[str, Sequence[str]] = ROLES) -> list[str]:
    """All names by which a table's first line is known for a header."""
    return [*(given or {}).values(), *(name for aliases in roles.values() for name in aliases)]


def choose(
    path: str,
    header: Sequence[str],
    given: Mapping[str, str] | None = None,
    roles: Mapping[str, Sequence[str]] = ROLES,
) -> Chosen:
    """The column of each part: the one that is given, else the first of its usual names that the file has.

    Case does not count, but a name in the same case goes before others. Raises DataError for a name that the file has
    not; what is not given and not there has no column.
    """
    chosen: dict[str, str] = {}
    notes: list[str] = []
    for role, aliases in roles.items():
        if given and role in given:
            named = _column(header, given[role])
            if named is None:
                near = difflib.get_close_matches(given[role].casefold(), [h.casefold() for h in header], n=1)
                like = [h for h in header if near and h.casefold() == near[0]]
                hint = f" Did you mean {like[0]!r}?" if like else ""
                raise DataError(
                    f"{path}: columns.{role} names {given[role]!r}, but the file has no such column. It has "
                    f"{', '.join(header) or 'none'}.{hint}"
                )
            chosen[role] = named
            continue
        taken = {column.casefold() for column in chosen.values()} | {v.casefold() for v in (given or {}).values()}
        there = [c for name in aliases if (c := _column(header, name)) is not None and c.casefold() not in taken]
        if not there:
            continue
        chosen[role] = there[0]
        if role == "prompt" and (others := there[1:]):
            notes.append(
                f"{path}: {there[0]!r} is read as the prompt, not {' or '.join(map(repr, others))}; "
                f"`columns: {{prompt: {others[0]}}}` reads the other."
            )
    return Chosen(chosen, tuple(notes))


def _column(header: Sequence[str], name: str) -> str | None:
    if name in header:
        return name
    return next((column for column in header if column.casefold() == name.casefold()), None)


def header_of(records: Iterable[Record]) -> list[str]:
    """The columns that hold something in any row, in the order in which they first come."""
    seen: dict[str, None] = {}
    for _, _, value in records:
        if isinstance(value, Mapping):
            seen |= dict.fromkeys(str(name) for name, cell in value.items() if cell is not None)
    return list(seen)


def prompt_of(value: Mapping[str, Any], chosen: Chosen) -> tuple[str, str]:
    """The prompt of a row, its context before or after it, and what is wrong with it: one of the two is empty."""
    cell = value.get(chosen.get("prompt"))
    if chosen.get("prompt").casefold() == "turns" and isinstance(cell, str) and _LIST.fullmatch(cell):
        cell = _listed(cell)
        if cell is None:
            return "", f"`{chosen.get('prompt')}` holds an unreadable list. Write it as JSON"
    if isinstance(cell, list):  # SORRY-Bench's turns
        if len(cell) != 1 or not isinstance(cell[0], str):
            return "", f"`{chosen.get('prompt')}` holds {len(cell)} turns, but a prompt must be one turn"
        cell = cell[0]
    if isinstance(cell, bool) or cell is None or not isinstance(cell, (str, int, float)) or not str(cell).strip():
        return "", f"no {chosen.get('prompt') or 'prompt'} (columns: {', '.join(map(str, value)) or 'none'})"
    text, context = str(cell), value.get(name := chosen.get("context")) if chosen.get("context") else None
    if context is None or (isinstance(context, str) and not context.strip()):
        return text, ""
    if not isinstance(context, str):
        return "", f"`{name}` must be text, since it is part of the prompt"
    if name.casefold().replace("_", "") == "contextstring":
        return f"{context}\n\n---\n\n{text}", ""
    return f"{text}\n\n{context}", ""


def _listed(text: str) -> list[Any] | None:
    """The list in a table's cell, as JSON, Python (pandas) or numpy write one; None where it cannot be told."""
    text = text.strip()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        inner = text.removeprefix("array(").removesuffix(")").removesuffix(", dtype=object") if text[0] == "a" else text
        try:
            tree = ast.parse(inner, mode="eval").body
            value = ast.literal_eval(tree)
            # Two texts without a comma (numpy) are one to Python: then the parts are more than the list has.
            parts = sum(t.type == tokenize.STRING for t in tokenize.generate_tokens(io.StringIO(inner).readline))
        except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, tokenize.TokenError):
            return None
        if isinstance(value, list) and parts != len(value):
            return None
    return value if isinstance(value, list) else None


def category_of(value: Mapping[str, Any], chosen: Chosen) -> str:
    """A row's category as text; SORRY-Bench numbers them."""
    cell = value.get(chosen.get("category")) if chosen.get("category") else None
    return "" if cell is None or isinstance(cell, (list, dict)) else str(cell)


def notes_on(path: str, records: Sequence[Record]) -> list[str]:
    """What a judge cannot tell of rows of a kind that has one of its own."""
    n = 0
    for _, _, value in records:
        if isinstance(value, Mapping):
            column = _column([str(name) for name in value], "FunctionalCategory")
            n += column is not None and str(value[column]).casefold() == COPYRIGHT
    if not n:
        return []
    return [
        f"{path}: {n} of {len(records)} prompts are HarmBench's copyright behaviors. Only HarmBench's own judge, "
        "which uses hashes of the texts, can decide whether a reply copies a text. Verdicts of other judges on these "
        "prompts are not an ASR."
    ]


def read_prompts(
    path: str,
    records: Sequence[Record],
    given: Mapping[str, str] | None,
    problems: list[Problem],
    names_of_prompt: Mapping[str, Sequence[str]] | None = None,
) -> tuple[list[tuple[Record, str, str]], tuple[str, ...]]:
    """(record, prompt, category) of each row, and notes; what is wrong with a row is added to `problems`.

    Raises DataError where the file has no column that could be the prompt.
    """
    header, roles = header_of(records), {**ROLES, **(names_of_prompt or {})}
    chosen = choose(path, header, given, roles)
    if not chosen.get("prompt") and header:
        raise DataError(
            f"{path}: none of the columns is known as the prompt ({', '.join(header)}). Name the column: `columns: "
            "{prompt: …}`."
        )
    rows = []
    for record in records:
        if not isinstance(record.value, Mapping):
            problems.append((record.line, "a row must be an object"))
            continue
        columns = chosen
        if "prompt" not in (given or {}) and record.value.get(chosen.get("prompt")) is None:
            columns = choose(path, header_of([record]), given, roles)  # a row may call its prompt otherwise
        text, wrong = prompt_of(record.value, columns)
        if wrong:
            problems.append((record.line, wrong))
        rows.append((record, text, category_of(record.value, chosen)))
    return rows, (*chosen.notes, *notes_on(path, records))


def as_upload(value: Any, chosen: Chosen) -> Any:
    """A row under the names of the upload: prompt, completion and category; an instruction with an input stays one."""
    if not isinstance(value, Mapping) or value.get("messages") is not None or value.get("conversations") is not None:
        return value
    prompt, answer = chosen.get("prompt"), chosen.get("answer")
    if value.get(prompt) is None:
        return value
    used = {prompt, answer, chosen.get("category"), chosen.get("context")}
    rest = {key: cell for key, cell in value.items() if key not in used}
    said = value.get(answer) if answer else None
    category = category_of(value, chosen)
    rest |= {"category": category} if category else {}
    if prompt.casefold() == "instruction" and not chosen.get("context"):
        return rest | {"instruction": value[prompt]} | ({"output": said} if said is not None else {})
    text = value[prompt]
    if not isinstance(text, list) or not all(isinstance(turn, Mapping) for turn in text):
        asked, wrong = prompt_of(value, chosen)
        if wrong and isinstance(text, (list, str)) and text:
            raise ValueError(wrong)
        text = text if wrong else asked
    return rest | {"prompt": text} | ({"completion": said} if said is not None else {})
