"""What was judged, as digests, and whether a run trains on just that: `finetune --audited audit.json`.

    rows         every turn, tool and mark of the upload, in order
    template     the chat template with its date and variables
    max_length   where rows are cut
    examples     the ids and labels of every example: what the loss sees, and so the tokenizer too

All are whole SHA-256: a stranger who writes both files must not be able to make two that agree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.errors import RecipeError

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat

Progress = Callable[[int, int], None]
ROUNDED = 1e-3
"""Percent by which two records of one interval may differ: one of them is rounded."""


@dataclass(frozen=True, slots=True)
class Digests:
    """Of an upload, as one model would be trained on it; without a template only the rows are known."""

    rows: str
    template: str | None = None
    max_length: int | None = None
    examples: str | None = None

    @property
    def whole(self) -> str:
        """One digest over all of them."""
        return _digest(asdict(self))


@dataclass(frozen=True, slots=True)
class EncodedUpload:
    """An upload as the loss sees it."""

    digests: Digests
    lines: list[str]
    """What became of the rows: cut, dropped, split."""


def digests(
    rows: Sequence[Row],
    chat: Chat | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> EncodedUpload:
    """Encodes the rows as training does, and digests what comes of it. Raises DataError, TemplateError as training."""
    of_rows = _rows_digest(rows)
    if chat is None:
        return EncodedUpload(Digests(of_rows), [])
    from unforgotten.models.chat import digest_ids, encode_rows

    examples, counts = encode_rows(chat, rows, max_length, progress)
    seen = digest_ids(ids for example in examples for ids in (example["input_ids"], example["labels"]))
    template = _digest(chat.template.strip())
    return EncodedUpload(Digests(of_rows, template, max_length, seen), counts.lines())


def check(path: str, rows: Sequence[Row], chat: Chat, max_length: int | None) -> dict[str, Any]:
    """What the run's record says of the audit. Raises RecipeError where it judged anything else, or was not passed."""
    facts = _read(path)
    then, now = facts["digests"], asdict(digests(rows, chat, max_length).digests)
    if not then.get("examples"):
        raise RecipeError(
            f"{path} was made without the model's chat template, so the text in the loss was not judged. Audit again "
            "with --model, or with --recipe and this recipe."
        )
    names = {
        "rows": "the rows",
        "template": "the chat template",
        "max_length": f"max_length ({then.get('max_length')} there, {max_length} here)",
    }
    differs = [what for name, what in names.items() if then.get(name) != now[name]]
    if not differs and then["examples"] != now["examples"]:
        differs = ["the tokenizer"]
    if differs:
        raise RecipeError(
            f"{path} is not an audit of this run's training data: {' and '.join(differs)} "
            f"{'differ' if len(differs) > 1 or differs[0] == 'the rows' else 'differs'}. Audit again with --recipe "
            "and this recipe."
        )
    if facts["outcome"] in ("beyond", "unclear"):
        line = facts["decision"]["line"] if facts.get("decision") else "the judge could read none of the rows"
        raise RecipeError(f"{path} did not pass: {line} The run does not start.")
    return {"digest": facts["digest"], "outcome": facts["outcome"], "judge": facts.get("judge")} | {
        "max_p": facts["decision"]["limit"] if facts.get("decision") else None,
        "file": hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest(),
    }


def _read(path: str) -> dict[str, Any]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        facts = json.loads(text, object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"--audited {path} cannot be read: {error}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("digests"), dict) or "outcome" not in facts:
        raise RecipeError(
            f"--audited {path} is not a file that `unforgotten data audit --out` wrote. Name such a file."
        )
    if facts["digests"].get("examples") and (wrong := _contradiction(facts)):
        raise RecipeError(f"--audited {path} contradicts itself: {wrong}. Somebody changed the file: audit again.")
    return facts


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice")
    return fields


def _contradiction(facts: dict[str, Any]) -> str:
    """What does not follow from the rest of an audit; empty where all does.

    A file that somebody changed by hand is told from a whole one, not from one that was made up with care: who may
    write the file decides what it says.
    """
    try:
        digest = Digests(**facts["digests"]).whole
    except TypeError:
        return "its digests are not those of an audit"
    if facts.get("digest") != digest:
        return "its digest is not that of its parts"
    p, decision, outcome = facts.get("p"), facts.get("decision"), facts["outcome"]
    if not isinstance(p, dict) or not all(type(p.get(name)) is int for name in ("n", "unparsed")):
        return "its p has no counts"
    read = p["n"] > p["unparsed"]
    if decision is None:
        follows = None if read else "unclear"
    else:
        try:
            follows = _follows(decision, p) if read else "unclear"
        except (TypeError, KeyError):
            return "its decision lacks a limit or an interval, or the interval is not that of p"
        if decision.get("outcome") != follows:
            return f"its decision is {decision.get('outcome')!r}, but its interval gives {follows!r}"
    return "" if outcome == follows else f"its outcome is {outcome!r}, but its p and decision give {follows!r}"


def _follows(decision: dict[str, Any], p: dict[str, Any]) -> str:
    """What an interval says of its limit, as `statistics.prevalence.decide` does."""
    limit, low, high = (float(decision[name]) for name in ("limit", "low", "high"))
    if any(abs(float(p[name]) - decision[name]) > ROUNDED for name in ("low", "high")):
        raise KeyError("interval")
    str(decision["line"])
    return "within" if high <= limit else "beyond" if low > limit else "unclear"


def _rows_digest(rows: Iterable[Row]) -> str:
    seen = hashlib.sha256()
    for row in rows:
        facts = [row.messages, row.tools, sorted(row.context_turns)]
        seen.update(json.dumps(facts, sort_keys=True, default=str).encode() + b"\n")
    return seen.hexdigest()


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
