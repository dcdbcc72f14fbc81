"""replies/<suite>.jsonl: every reply with its scores, flags and verdicts, one line of JSON each.

    asked     key, source, kind, category, request, text, finish, tokens; thought and unclosed where it thought,
              prefill where the reply was forced to begin with it
    checked   scores, note, flags, answers_task, overlap     (no model, the data)
    judged    verdict of the judge whose reading counts, verdicts by judge

<suite>.jsonl holds the prompts as the template writes them, <suite>@none.jsonl and <suite>@user.jsonl those under other
system prompts, where they differ, and <suite>@prefill.jsonl those whose replies are forced to begin with given words.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unforgotten.datasets.base import Row, ask
from unforgotten.errors import DataError
from unforgotten.evaluation import suite_stages
from unforgotten.evaluation.suite_stages import Asked, Checked, Judged, Suite
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Verdict
from unforgotten.runs import atomic, safe_text, strict_json, strict_read

ReplyLine = dict[str, Any]


def path(folder: Path, suite: Suite) -> Path:
    """Where a suite's replies are. Raises DataError for a name that leads out of their folder."""
    if "/" in suite.file or "\0" in suite.file:
        raise DataError(f"{folder} names {suite.file[:80]!r} as a file of replies, which it is not. Evaluate again.")
    return folder / "replies" / f"{suite.file}.jsonl"


def part(folder: Path, suite: Suite, key: str) -> Path:
    """Where they are while they are made; those of other weights or prompts have another name."""
    return folder / "replies" / f".{suite.file}.{key}.part.jsonl"


def asked(suite: Asked) -> Iterator[ReplyLine]:
    """A line for each reply, before any check."""
    for reply in suite.replies:
        row = reply.row
        file, _, line = row.source.rpartition(":")
        # Of a local file the name alone, so that no path of this machine travels with a run.
        source = f"{Path(file).name}:{line}" if Path(file).is_file() else row.source
        prompt = {
            "key": suite.key,
            "source": source,
            "kind": row.kind,
            "category": row.category,
            "request": row.request,
        }
        said = {"text": reply.text, "finish": reply.finish, "tokens": reply.tokens}
        thought = {"thought": reply.thought, "unclosed": reply.unclosed} if reply.thought or reply.unclosed else {}
        forced = {"prefill": reply.prefill} if reply.prefill else {}
        yield prompt | said | forced | thought | ({"unread": reply.unread} if reply.unread else {})


def checked(suite: Checked) -> Iterator[ReplyLine]:
    """A line for each reply with all that is known of it: verdicts too, where it was judged."""
    by_judge = suite.verdicts if isinstance(suite, Judged) else {}
    first = by_judge.get(suite.decided_by) if isinstance(suite, Judged) else None
    for i, line in enumerate(asked(suite)):
        yield line | {
            "verdict": asdict(first[i]) if first else None,
            "verdicts": {name: asdict(verdicts[i]) for name, verdicts in by_judge.items()},
            "scores": suite.scores[i],
            **({"note": suite.notes[i]} if suite.notes and suite.notes[i] else {}),
            "flags": suite.flags[i],
            "answers_task": suite.answers_task[i],
            "overlap": suite.contacts[i],
        }


def recorded(folder: Path, suite: Suite, key: str) -> list[Reply] | None:
    """The replies to a suite, if they are all there and of this key."""
    file = path(folder, suite)
    try:
        lines = read(file)
        if len(lines) != len(suite.rows) or any(line["key"] != key for line in lines):
            return None
        return [_reply(row, line) for row, line in zip(suite.rows, lines, strict=True)]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None


def restore(folder: Path, suite: Suite) -> Checked:
    """A suite whose rows are not known, from its file. Raises DataError where that has no checked replies."""
    file = path(folder, suite)
    try:
        return restored(suite, read(file))
    except FileNotFoundError:
        raise DataError(f"There is no {file}. `unforgotten evaluate` makes the replies that judges read.") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"{file} is not a file of measured replies ({type(error).__name__}: {error}). "
            "`unforgotten evaluate` of its run writes it again, and generates only what is missing."
        ) from None


def restored(suite: Suite, lines: Sequence[ReplyLine]) -> Checked:
    """A suite from the lines that `checked` gave of it; its verdicts are left to the judges who read it next."""
    rows = [ask(x["request"], kind=x["kind"], category=x["category"], source=x["source"]) for x in lines]
    for line in lines:
        _check_verdicts(line.get("verdicts") or {})
    replies = [_reply(row, line) for row, line in zip(rows, lines, strict=True)]
    return Checked(
        **suite_stages.facts(suite, Suite) | {"rows": rows},
        key=lines[0]["key"] if lines else "",
        replies=replies,
        scores=[line["scores"] for line in lines],
        notes=[line.get("note", "") for line in lines],
        flags=[line["flags"] for line in lines],
        answers_task=[line["answers_task"] for line in lines],
        contacts=[line["overlap"] for line in lines],
    )


def _check_verdicts(by_judge: Mapping[str, Mapping[str, Any]]) -> None:
    for facts in by_judge.values():
        verdict = Verdict(**facts)
        if not all(type(truth) in (bool, type(None)) for truth in (verdict.harmful, verdict.refused)):
            raise TypeError("a verdict is neither true, false nor null")


def _reply(row: Row, line: ReplyLine) -> Reply:
    for name in ("text", "finish", "source", "request", "kind", "thought", "unread", "prefill"):
        if not isinstance(line.get(name, ""), str):
            raise TypeError(f"{name} is {strict_json.kind_of(line[name])}")
    thought = line.get("thought", ""), line.get("unclosed", False)
    return Reply(
        row, line["text"], line["finish"], line["tokens"], *thought, line.get("unread", ""), line.get("prefill", "")
    )


def read(file: Path) -> list[ReplyLine]:
    """The lines of a file, each an object. Raises ValueError for any other."""
    lines = strict_read.lines(file)
    for line in lines:
        if not isinstance(line, dict):
            raise ValueError(f"a line is {strict_json.kind_of(line)}, and not an object")
    return lines


def write(file: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Writes a file of lines whole or not at all."""
    atomic.put(file, "".join(safe_text.json_text(line, None, nan=True) + "\n" for line in lines))
