"""Prompts become replies: the one step that needs the model. replies/asked-<settings>.json records the prompts and the
weights, so later steps need neither model nor tokenizer.

Each finished batch is written as it comes. A killed evaluation goes on there, and since batches are cut from the whole
suite before anything is read back, its replies are those of an uninterrupted one, to the letter.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.reading import digest as of_rows
from unforgotten.errors import DataError
from unforgotten.evaluation import reply_files, suite_stages
from unforgotten.evaluation.responder import Model
from unforgotten.evaluation.suite_stages import Asked, Suite
from unforgotten.evaluation.suites import conditioned
from unforgotten.runs import atomic, digests, safe_text, strict_read

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.evaluate import Evaluate


def read_asked(folder: Path, digest: str) -> dict[str, Any]:
    """What was asked under these settings, if all of it is still there; else empty."""
    facts = _read(folder / "replies" / f"asked-{digest}.json")
    try:
        named = [Suite(entry["kind"], entry["label"], None, [], entry["condition"]) for entry in facts["suites"]]
    except (KeyError, TypeError):
        return {}
    return facts if all(reply_files.path(folder, suite).is_file() for suite in named) else {}


def ask(
    model: Model,
    suites: Sequence[Suite],
    settings: Evaluate,
    folder: Path,
    digest: str,
    *,
    system: str = "",
    progress: Callable[[str, int, int], None] = lambda what, done, n: None,
    begins: Callable[[int], None] = lambda n: None,
) -> None:
    """Writes folder/replies: a file for each suite and condition, and asked-<digest>.json. What is there is not asked.

    digest: of the settings. system: the system prompt that the user's file has most often. progress(suite, done, of how
    many); begins(prompts), where there are any to ask. Raises DataError, ModelError or EndpointError; what is finished
    stays.
    """
    from unforgotten.models.chat import digest_ids
    from unforgotten.models.chat.opening import begin

    here = folder / "replies"
    recorded = _read(here / f"asked-{digest}.json")
    keys: dict[str, str] = {}
    prompts: list[list[int]] = []
    under_conditions = conditioned(suites, model.chat, settings, system)
    for suite in under_conditions:
        if model.chat is not None:
            # A forced beginning is a part of what is asked, and so of the key under which replies are kept.
            ids = [prompt + said for prompt, said in begin(model.chat, suite.rows, suite.openings)]
            prompts += ids
            what = digest_ids(ids)
        else:
            what = of_rows.rows_digest(suite.rows)
        # Where replies are drawn, the batch that a prompt is in tells which draw is its own.
        drawn = settings.batch_size if settings.temperature else None
        keys[suite.file] = digests.digest(what, model.decoding(), model.weights_digest, *([drawn] if drawn else []))
    missing = [suite for suite in under_conditions if reply_files.recorded(folder, suite, keys[suite.file]) is None]
    if missing:
        begins(sum(len(suite.rows) for suite in missing))
    reusable = recorded.get("weights") == model.weights_digest and "loaded" in recorded
    loaded = recorded["loaded"] if reusable and not missing else model.loaded()
    facts = {
        "weights": model.weights_digest,
        "loaded": loaded,
        "template": _template(model.chat),
        "decoding": model.decoding() | ({} if settings.prefill is None else {"prefill": settings.prefill}),
        "prompts": digest_ids(prompts)[:12] if prompts else digests.digest(list(keys.values())),
        "system": digests.digest(system) if system else None,
        "suites": [
            {"kind": s.kind, "label": s.label, "condition": s.condition, "also": s.also, "key": keys[s.file]}
            for s in under_conditions
        ],
    }
    before = (recorded.get("notes") or []) if reusable else []

    def keep() -> None:
        content = facts | {"notes": list(dict.fromkeys([*before, *model.notes]))}
        atomic.put(here / f"asked-{digest}.json", safe_text.json_text(content, nan=True) + "\n")

    for suite in missing:
        key = keys[suite.file]
        replies = model.generate(
            suite.rows, reply_files.part(folder, suite, key), partial(progress, suite.file), suite.openings
        )
        # Written before they are judged: a judge that is missing must not cost the generation.
        answers = Asked(**suite_stages.facts(suite, Suite), key=key, replies=replies)
        reply_files.write(reply_files.path(folder, suite), reply_files.asked(answers))
        keep()  # with what there was to note, which a kill in the next suite must not cost
    for file, key in keys.items():
        for part in here.glob(glob.escape(f".{file}.") + "?" * len(key) + ".part.jsonl"):
            part.unlink(missing_ok=True)
    keep()


def answered(
    folder: Path, suites: Sequence[Suite], digest: str, weights_digest: str
) -> tuple[list[Asked], dict[str, Any]]:
    """The suites of a folder that `ask` has filled, with their replies, and what asked-<digest>.json says.

    Raises DataError where replies are missing, or are of other prompts or weights.
    """
    facts = read_asked(folder, digest)
    if facts.get("weights", weights_digest) != weights_digest:
        raise DataError(f"{folder} holds replies of other weights. Evaluate again.")
    rows = {suite.label: suite for suite in suites}
    asked: list[Asked] = []
    for entry in facts.get("suites") or []:
        suite = replace(rows[entry["label"]], condition=entry["condition"], also=tuple(entry["also"]))
        replies = reply_files.recorded(folder, suite, entry["key"])
        if replies is None:
            raise DataError(
                f"{reply_files.path(folder, suite)} does not hold the replies of this evaluation: a later one "
                "with other settings used the same folder. Evaluate again."
            )
        asked.append(Asked(**suite_stages.facts(suite, Suite), key=entry["key"], replies=replies))
    if missing := rows.keys() - {suite.label for suite in asked}:
        raise DataError(
            f"{folder} has no replies to {', '.join(sorted(missing))}. `unforgotten evaluate` asks for them."
        )
    return asked, facts


def _template(chat: Chat | None) -> dict[str, Any]:
    if chat is None:
        return {"source": "server", "digest": None, "date": None}
    date = chat.date if chat.uses_date else None
    return {"source": chat.source, "digest": digests.digest(chat.template), "date": date}


def _read(file: Path) -> dict[str, Any]:
    try:
        content = strict_read.value(file)
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
