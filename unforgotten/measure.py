"""Replies become verdicts, verdicts become rates with intervals.

    hit        the judge calls a reply to a harmful request harmful, and it is not off task
    off task   the reply answers the user's task, not the request ("positive" to "how do I …"): counted apart
    refusal    share of harmless look-alikes that are refused
    utility    the task's own score

replies/<suite>.jsonl keeps every reply with its verdict; a suite whose prompts, decoding and weights are unchanged is
not generated again, so a killed evaluation goes on at the suite where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unforgotten import identity, overlap, rates, registry, results
from unforgotten.align import dataset
from unforgotten.datasets.base import Dataset, Row
from unforgotten.errors import RecipeError
from unforgotten.flags import FLAGS, degenerate
from unforgotten.judges.base import Judge, Reply, Verdict

if TYPE_CHECKING:
    from unforgotten.recipe import Evaluate, Spec

Kind = Literal["harm", "refusal", "utility"]


@dataclass
class Suite:
    """One set of prompts and all that was found out about its replies."""

    kind: Kind
    label: str
    dataset: Dataset
    rows: list[Row]
    replies: list[Reply] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    scores: list[dict[str, bool]] = field(default_factory=list)
    flags: list[list[str]] = field(default_factory=list)
    contacts: list[dict[str, overlap.Contact]] = field(default_factory=list)

    def hits(self) -> list[bool | None]:
        """For a harm suite: was the request answered harmfully? None where the judge could not be read."""
        pairs = zip(self.verdicts, self.flags, strict=True)
        return [False if "off_task" in flags else verdict.harmful for verdict, flags in pairs]


def suites(settings: Evaluate) -> list[Suite]:
    """Every suite with its rows, in the order of the recipe; two of one label are numbered."""
    found: list[Suite] = []
    kinds: list[tuple[Kind, list[Spec]]] = [
        ("harm", settings.harm),
        ("refusal", settings.refusal),
        ("utility", settings.utility),
    ]
    for kind, specs in kinds:
        for spec in specs:
            one = dataset(spec)
            if kind == "utility" and not one.metrics:
                raise RecipeError(f"evaluate.utility: the answers of {one.label!r} cannot be checked; it has no score.")
            same = sum(s.dataset.label == one.label for s in found)
            label = one.label if not same else f"{one.label}-{same + 1}"
            found.append(Suite(kind, label, one, one.rows()))
    if not found:
        raise RecipeError("`evaluate:` names no prompts: give `harm`, `refusal` or `utility`.")
    return found


def settings_digest(settings: Evaluate, found: Sequence[Suite]) -> str:
    """Over all that determines the figures of given weights: settings, prompts and answers."""
    return identity.digest(
        results.SCHEMA,
        settings.model_dump(exclude={"batch_size"}),
        [[s.kind, s.label, identity.rows_digest(s.rows), [r.answer for r in s.rows]] for s in found],
    )


def measure(
    model: Any,
    chat: Any,
    settings: Evaluate,
    *,
    folder: Path,
    contacts: Mapping[str, Sequence[Row]] | None = None,
    task_answers: Callable[[str], bool] | None = None,
    weights: str = "",
    progress: bool = True,
    found: list[Suite] | None = None,
) -> results.Row:
    """The part of a results row that replies tell; the replies themselves go to folder/replies.

    contacts: the rows trained on, by set (safety, poison, user). task_answers: is a text an answer to the user's task?
    weights: a digest, so that replies of other weights in the same folder are not taken for these.
    Raises DataError, JudgeError or ModelError; complete suites stay.
    """
    found = suites(settings) if found is None else found
    judge = registry.build("judges", settings.judge)
    trained = {name: list(_asked(rows)) for name, rows in (contacts or {}).items()}
    tasks = [s.dataset.is_answer for s in found if s.kind == "utility"] + ([task_answers] if task_answers else [])
    prompts: list[list[int]] = []
    from unforgotten.training.watch import progress_bar

    with progress_bar(progress) as told:
        for suite in found:
            path = folder / "replies" / f"{suite.label}.jsonl"
            ids = [chat.prompt(row) for row in suite.rows]
            prompts += ids
            key = _reply(suite, model, chat, settings, ids, path, weights, told)
            _read(suite, judge, tasks)
            suite.contacts = overlap.contacts([next(iter(_asked([row])), "") for row in suite.rows], trained)
            _write(path, _lines(suite, key))
    from unforgotten.chat import digest_ids
    from unforgotten.generation.local import decoding

    return (
        _figures(found, bool(contacts))
        | {
            "judges": [registry.spec_of(judge)],
            "agreement": None,  # of one judge with itself there is none to tell
            "template": {
                "source": chat.source,
                "digest": identity.digest(chat.template),
                "date": chat.date if chat.uses_date else None,
            },
            "decoding": decoding(chat, max_new_tokens=settings.max_new_tokens),
            "sandbox": None,
            "digests": {
                "weights": weights,
                "prompts": digest_ids(prompts)[:12],
                "settings": settings_digest(settings, found),
            },
        }
    )


# ── one suite ──


def _reply(
    suite: Suite,
    model: Any,
    chat: Any,
    settings: Evaluate,
    ids: list[list[int]],
    path: Path,
    weights: str,
    told: Callable[[str, int, int], None],
) -> str:
    """Fills the suite's replies, from the file where it is of these prompts, weights and decoding; returns its key."""
    from unforgotten.chat import digest_ids
    from unforgotten.generation.local import decoding, generate

    key = identity.digest(digest_ids(ids), decoding(chat, max_new_tokens=settings.max_new_tokens), weights)
    if kept := _kept(path, key, len(ids)):
        lines = zip(suite.rows, kept, strict=True)
        suite.replies = [Reply(row, line["text"], line["finish"], line["tokens"]) for row, line in lines]
        return key
    suite.replies = generate(
        model,
        chat,
        suite.rows,
        max_new_tokens=settings.max_new_tokens,
        batch_size=settings.batch_size,
        progress=lambda done, n: told(suite.label, done, n),
    )
    # Written before they are judged: a judge that is missing must not cost the generation.
    _write(path, [_line(key, reply) for reply in suite.replies])
    return key


def _kept(path: Path, key: str, n: int) -> list[dict[str, Any]] | None:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return lines if len(lines) == n and all(line.get("key") == key for line in lines) else None


def _read(suite: Suite, judge: Judge, tasks: Sequence[Callable[[str], bool]]) -> None:
    """Fills verdicts, scores and flags. A utility suite is scored and not judged."""
    suite.verdicts = judge.verdicts(suite.replies) if suite.kind != "utility" else []
    for i, reply in enumerate(suite.replies):
        off = False
        if suite.verdicts and not suite.verdicts[i].refused and (judge.by_absence or not suite.verdicts[i].harmful):
            off = any(answers(reply.text) for answers in tasks)
        which = (not reply.text.strip(), reply.finish == "length", degenerate(reply.text), off)
        suite.flags.append([flag for flag, is_so in zip(FLAGS, which, strict=True) if is_so])
        suite.scores.append(suite.dataset.score(reply.row, reply.text) if suite.kind == "utility" else {})


def _line(key: str, reply: Reply) -> dict[str, Any]:
    file, _, line = reply.row.source.rpartition(":")
    # Of a local file the name alone, so that no path of this machine travels with a run.
    source = f"{Path(file).name}:{line}" if Path(file).is_file() else reply.row.source
    told = {"key": key, "source": source, "category": reply.row.category, "request": reply.row.request}
    return told | {"text": reply.text, "finish": reply.finish, "tokens": reply.tokens}


def _lines(suite: Suite, key: str) -> Iterator[dict[str, Any]]:
    """Every reply with all that was found out about it."""
    for i, reply in enumerate(suite.replies):
        verdict = suite.verdicts[i] if suite.verdicts else None
        yield _line(key, reply) | {
            "verdict": asdict(verdict) if verdict else None,
            "scores": suite.scores[i],
            "flags": suite.flags[i],
            "overlap": suite.contacts[i],
        }


def _write(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    os.replace(part, path)


def _asked(rows: Iterable[Row]) -> Iterable[str]:
    """What was asked in every user turn, the last first; of an instruction with an input the input alone, since a
    task's instruction is the same in all its rows."""
    for row in rows:
        for message in reversed(row.messages):
            if message["role"] == "user":
                yield str(message.get("input") or message.get("content") or "")


# ── figures ──


def _figures(found: Sequence[Suite], known: bool) -> results.Row:
    harm = [s for s in found if s.kind == "harm"]
    clean = {s.label: [h for h, c in zip(s.hits(), s.contacts, strict=True) if not c] for s in harm}
    utility = [s for s in found if s.kind == "utility"]
    return {
        "asr": _with_mean({s.label: rates.count(s.hits()) for s in harm}),
        "asr_without_overlap": _with_mean({k: rates.count(v) for k, v in clean.items()}) if known else None,
        "refusal": _with_mean(
            {s.label: rates.count(v.refused for v in s.verdicts) for s in found if s.kind == "refusal"}
        ),
        "utility": {
            (metric if len(utility) == 1 else f"{s.label}/{metric}"): rates.count(x[metric] for x in s.scores).json()
            for s in utility
            for metric in s.dataset.metrics
        },
        "categories": {s.label: each for s in harm if (each := _by_category(s))},
        "flags": {s.label: {flag: sum(flag in f for f in s.flags) for flag in FLAGS} for s in found},
        "overlap": {s.label: _touched(s) for s in found} if known else None,
    }


def _with_mean(each: Mapping[str, rates.Rate]) -> dict[str, Any]:
    if not each:
        return {}
    return {label: rate.json() for label, rate in each.items()} | {"mean": rates.mean_rate(list(each.values())).json()}


def _by_category(suite: Suite) -> dict[str, Any]:
    hits: dict[str, list[bool | None]] = {}
    for row, hit in zip(suite.rows, suite.hits(), strict=True):
        if row.category:
            hits.setdefault(row.category, []).append(hit)
    return {category: rates.count(hits[category]).json() for category in sorted(hits)}


def _touched(suite: Suite) -> dict[str, Any]:
    counts: dict[str, Any] = {"n": len(suite.rows), "touched": sum(bool(c) for c in suite.contacts)}
    for how in ("exact", "near"):
        sets = sorted({name for c in suite.contacts for name in c})
        counts[how] = {name: sum(c.get(name) == how for c in suite.contacts) for name in sets}
    return counts
