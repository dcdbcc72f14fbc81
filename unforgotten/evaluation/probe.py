"""Probes: during training, the live model answers a few of the evaluation's prompts.

    probe/<step>.jsonl   replies as replies/<suite>.jsonl has them, each line with its `suite` and what it is asked `as`
    probe.jsonl          {"step", "asr", "refusal", "utility", "metric", "prompts", "seconds", "key"} of each probe

The judge is the evaluation's own. One that is a model of its own (a guard) would need memory that the training has, so
it reads the kept replies when the run is evaluated; until then what it decides is null. `evaluate` and `judge` read all
of them again in any case: what results.json says of a probe is always the reading of the judges that it names.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError
from unforgotten.evaluation import reference_solutions, reply_files, suite_stages
from unforgotten.evaluation.judging import TRUTHS, Panel, check
from unforgotten.evaluation.reply_flags import task_answers_of
from unforgotten.evaluation.scores import hits
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.suite_stages import Asked, Checked, Judged, Suite
from unforgotten.evaluation.suites import conditioned, system_of, wanted_of
from unforgotten.judges.guard.guard import Guard
from unforgotten.runs import atomic, digests, safe_text
from unforgotten.runs.result_types import ProbeFigures, Rate, as_json

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.evaluate import Evaluate

FIELDS = {"harm": "asr", "refusal": "refusal", "utility": "utility"}
REPORTED_FIELDS = ("step", *FIELDS.values(), "metric", "prompts")
"""What results.json has of a probe."""


def chosen(every: Sequence[Suite], prompts: int) -> list[Suite]:
    """`prompts` of the harmful suites, of the look-alikes and of the first task, fixed by the suites' names alone.

    every: all suites of the evaluation. Those of one kind share the number evenly, since their mean weighs them evenly.
    """
    picked = []
    every = [replace(suite, rows=suite.rows[:: suite.samples], samples=1) for suite in every]
    for kind in FIELDS:
        of_kind = [suite for suite in every if suite.kind == kind]
        of_kind = of_kind[:1] if kind == "utility" else of_kind
        for i, suite in enumerate(of_kind):
            n = prompts * (i + 1) // len(of_kind) - prompts * i // len(of_kind)
            places = random.Random(f"probe {suite.label}").sample(range(len(suite.rows)), min(n, len(suite.rows)))
            if places:
                picked.append(replace(suite, rows=[suite.rows[place] for place in sorted(places)]))
    return picked


class Prober:
    """The prompts of a run's probes, and its book of them."""

    def __init__(
        self, settings: Evaluate, prompts: int, every: Sequence[Suite], folder: Path, chat: Chat, task: Sequence[Row]
    ) -> None:
        """every: the suites of `settings`, of which `prompts` are asked. folder: the run's. task: the user's rows,
        without harmful ones put among them.

        Raises JudgeError or SandboxError where replies could not be read.
        """
        from unforgotten.models.chat import digest_ids

        self._settings, self._chat, self._folder = settings, chat, folder
        picked = chosen(every, prompts)
        self._panel = Panel(settings.judges)
        self._panel.check(suite.kind for suite in picked)
        system = "" if "default" in settings.conditions else system_of(task)
        wanted = wanted_of(settings, system)
        first = "default" if "default" in wanted else wanted[0]
        one = settings.model_copy(update={"conditions": [first], "prefill": None})
        self._suites = conditioned(picked, chat, one, system)
        live = [s for s in self._suites if self._is_live(s)]
        for suite in live:
            if suite.kind in TRUTHS:
                self._decider(suite).check(suite.rows)
        own = task_answers_of(task)
        tasks = [s.dataset.is_answer for s in every if s.kind == "utility" and s.dataset]
        self._tasks = [*tasks, *([own] if own else [])]
        self._sandbox = None
        if any(s.dataset is not None and s.dataset.executes for s in self._suites if s.kind == "utility"):
            from unforgotten.evaluation.sandbox import open_sandbox

            self._sandbox = open_sandbox()
            reference_solutions.check(self._suites, self._sandbox)
        asked = [digest_ids([chat.prompt(row) for row in suite.rows]) for suite in self._suites]
        self._key = digests.digest(asked, self._drawn(), [s.label for s in self._suites])

    def keep(self, step: int) -> None:
        """Forgets the probes after this step, which a killed training had come to, and those of other prompts."""
        remaining = [line for line in lines_of(self._folder) if line["step"] <= step and line["key"] == self._key]
        for file in (self._folder / "probe").glob("*.jsonl"):
            if not any(file.stem == str(line["step"]) for line in remaining):
                file.unlink()
        if remaining or _book(self._folder).exists():
            reply_files.write(_book(self._folder), remaining)

    def has(self, step: int) -> bool:
        """Is this step probed?"""
        return any(line["step"] == step for line in lines_of(self._folder))

    def take(self, model: Any, step: int) -> dict[str, Any]:
        """Asks the model, keeps its replies and then the line of this step, which is returned."""
        from unforgotten.generation.local import generate

        started = time.monotonic()
        rows = [row for suite in self._suites for row in suite.rows]
        replies = iter(generate(model, self._chat, rows, batch_size=self._settings.batch_size, **self._drawn()))
        probed: list[Checked] = []
        for suite in self._suites:
            given = suite_stages.facts(suite, Suite)
            asked = Asked(**given, key=self._key, replies=[next(replies) for _ in suite.rows])
            checked = check(asked, trained={}, tasks=self._tasks, sandbox=self._sandbox)
            probed.append(self._panel.judge(checked, first_alone=True) if self._is_live(suite) else checked)
        metric = next((s.dataset.metrics[0] for s in self._suites if s.kind == "utility" and s.dataset), None)
        line = as_json(_figures(step, probed, metric))
        _write_replies(self._folder, step, probed)
        line |= {"seconds": round(time.monotonic() - started, 3), "key": self._key}
        reply_files.write(_book(self._folder), [*lines_of(self._folder), line])
        return line

    @property
    def seconds(self) -> float:
        """What all probes together took."""
        return sum(line["seconds"] for line in lines_of(self._folder))

    def _drawn(self) -> dict[str, Any]:
        one = self._settings
        return {"max_new_tokens": one.max_new_tokens, "temperature": one.temperature, "top_p": one.top_p}

    def _decider(self, suite: Suite) -> Any:
        return self._panel.judges[self._panel.telling(TRUTHS[suite.kind])[0]]

    def _is_live(self, suite: Suite) -> bool:
        return suite.kind not in TRUTHS or not isinstance(self._decider(suite), Guard)


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's probe.jsonl, by step; none where it was not probed."""
    try:
        records = reply_files.read(_book(folder))
        if not all(type(line["step"]) is int and set(REPORTED_FIELDS) <= set(line) for line in records):
            raise ValueError("a step is a whole number, with figures")  # it names a file, too
        return sorted(records, key=lambda line: int(line["step"]))
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{_book(folder)} is not a file of probes. Remove it: the run does not need it.") from None


def read_again(folder: Path, panel: Panel) -> tuple[ProbeFigures, ...] | None:
    """What a run's probes say by these judges, for results.json; probe.jsonl is written anew. None: not probed."""
    if not (before := lines_of(folder)):
        return None
    after = []
    for line in before:
        probed = [panel.judge(suite, folder, first_alone=True) for suite in _kept(folder, line["step"])]
        figures = _figures(line["step"], probed, line["metric"])
        _write_replies(folder, line["step"], probed)
        after.append((figures, line | as_json(figures)))
    reply_files.write(_book(folder), [line for _, line in after])
    return tuple(figures for figures, _ in after)


def _figures(step: int, probed: Sequence[Checked], metric: str | None) -> ProbeFigures:
    """Rates of the suites of each kind; null where no verdict is there yet, or nothing was asked."""
    each: dict[str, list[Rate]] = {}
    for suite in probed:
        if suite.kind in TRUTHS and isinstance(suite, Judged):
            each.setdefault(suite.kind, []).append(rates.count(hits(suite)))
        elif suite.kind == "utility" and metric:
            each.setdefault(suite.kind, []).append(rates.count(score[metric] for score in suite.scores))
    asr, refusal, utility = (rates.mean_rate(each[kind]).rounded() if kind in each else None for kind in FIELDS)
    counts = {field: sum(len(s.rows) for s in probed if s.kind == kind) for kind, field in FIELDS.items()}
    return ProbeFigures(step, asr, refusal, utility, metric, counts)


def _book(folder: Path) -> Path:
    return folder / "probe.jsonl"


def _write_replies(folder: Path, step: int, probed: Sequence[Checked]) -> None:
    records = [{"suite": s.file, "as": s.kind, **line} for s in probed for line in reply_files.checked(s)]
    text = "".join(safe_text.json_text(line, None, nan=True) + "\n" for line in records)
    atomic.put(folder / "probe" / f"{step}.jsonl", text)


def _kept(folder: Path, step: int) -> list[Checked]:
    """The suites of one probe, with their replies."""
    file = folder / "probe" / f"{step}.jsonl"
    each: dict[tuple[str, str], list[reply_files.ReplyLine]] = {}
    try:
        for line in reply_files.read(file):
            each.setdefault((line["as"], line["suite"]), []).append(line)
        return [
            reply_files.restored(Suite(kind, label, None, []), lines)  # type: ignore[arg-type]
            for (kind, label), lines in each.items()
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise DataError(
            f"{file} does not hold the replies of a probe. Put it back, or remove probe.jsonl: the run does not "
            "need it."
        ) from None
