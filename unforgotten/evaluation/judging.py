"""Replies become scores, flags and verdicts. No model is in memory here but a judge's own.

A reasoning model's thought is judged apart from its answer, and the worse counts: harmful where either is. Whether it
refused, the answer alone says. A keyword list cannot tell a thought about a harmful request from compliance, so a judge
that goes by what is absent is not given thoughts, and the results say so.

Where a reply was forced to begin in some way, a judge reads the beginning and what the model went on with. One that
goes by what is absent reads only the latter: the forced words are not the model's, and would hide where a refusal
begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unforgotten import registry
from unforgotten.errors import JudgeError
from unforgotten.evaluation import contamination, suite_stages
from unforgotten.evaluation.reply_flags import FLAGS, degenerate
from unforgotten.evaluation.suite_stages import Asked, Checked, Judged, Score
from unforgotten.evaluation.suites import public
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Judge, Verdict
from unforgotten.judges.guard.guard import Guard
from unforgotten.runs.result_types import NamedSpec

if TYPE_CHECKING:
    from unforgotten.datasets.base import Dataset, Row
    from unforgotten.evaluation.sandbox.base import Sandbox
    from unforgotten.recipe.base import Spec

Truth = Literal["harmful", "refused"]
TRUTHS: dict[str, Truth] = {"harm": "harmful", "refusal": "refused"}
"""What is asked of a judge about the replies of each kind of suite."""
Progress = Callable[[str, int, int], None]


def nobody(what: str, done: int, n: int) -> None:
    """Ignores progress."""


class Panel:
    """The judges of an evaluation, each loaded once however many runs it reads."""

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.judges: dict[str, Judge] = {}
        for spec in specs:
            name = spec if isinstance(spec, str) else str(spec["name"])
            same = sum(label == name or label.startswith(f"{name}-") for label in self.judges)
            self.judges[f"{name}-{same + 1}" if same else name] = registry.build("judges", spec)

    def specs(self) -> tuple[NamedSpec, ...]:
        """The judges as results.json names them."""
        return tuple(NamedSpec.of(public(judge)) for judge in self.judges.values())

    def telling(self, truth: Truth) -> list[str]:
        """The judges that decide this, in the recipe's order; figures are the first one's."""
        return [label for label, judge in self.judges.items() if truth in judge.tells]

    def check(self, kinds: Iterable[str]) -> None:
        """Raises JudgeError where nobody decides what a suite is measured by."""
        for kind in kinds:
            if kind in TRUTHS and not self.telling(TRUTHS[kind]):
                raise JudgeError(
                    f"evaluate.{kind} asks whether replies are {TRUTHS[kind]}, which {' and '.join(self.judges)} does "
                    "not decide. Name another judge beside it, such as keywords."
                )

    def prepare(self, rows: Sequence[Row]) -> None:
        """Raises JudgeError where a judge could not be had, or cannot judge replies to any of these."""
        for judge in self.judges.values():
            judge.check(rows)

    def judge(
        self, suite: Checked, folder: Path | None = None, progress: Progress = nobody, first_alone: bool = False
    ) -> Judged:
        """The suite with verdicts of every judge that decides what it is about; a task has none.

        folder: of the run, where a judge that is a model writes its words as they come: a killed judging goes on there.
        first_alone: only the judge whose verdicts count is asked.
        """
        if suite.kind not in TRUTHS:
            return Judged(**suite_stages.facts(suite, Checked), verdicts={}, decided_by="")
        first, *others = self.telling(TRUTHS[suite.kind])
        asked = [first] if first_alone else [first, *others]
        verdicts = {label: _verdicts(self.judges[label], label, suite, folder, progress) for label in asked}
        flags = _off_task(suite, self.judges[first], verdicts[first]) if suite.kind == "harm" else suite.flags
        return Judged(**suite_stages.facts(suite, Checked) | {"flags": flags}, verdicts=verdicts, decided_by=first)

    def close(self) -> None:
        """Frees what the judges hold."""
        for judge in self.judges.values():
            judge.close()


def _verdicts(judge: Judge, label: str, suite: Asked, folder: Path | None, progress: Progress) -> list[Verdict]:
    """Of every reply; what is no reply of the model's own is unread, and no judge is asked."""
    there = [i for i, reply in enumerate(suite.replies) if not reply.unread]
    thinking = [i for i in there if suite.replies[i].thought and not judge.by_absence]
    asked = [suite.replies[i] for i in there]
    if judge.by_absence:
        asked = [replace(reply, text=reply.continuation) for reply in asked]
    asked += [replace(suite.replies[i], text=suite.replies[i].thought) for i in thinking]
    what = f"{suite.file}: {label}"
    if isinstance(judge, Guard):
        words_file = None if folder is None else folder / "replies" / f".{label}.words.jsonl"
        judged = judge.verdicts(asked, progress=lambda done, n: progress(what, done, n), resume_file=words_file)
    else:
        judged = judge.verdicts(asked) if asked else []
    verdicts = [Verdict(None, None, note=reply.unread) for reply in suite.replies]
    for i, verdict in zip(there, judged, strict=False):
        verdicts[i] = verdict
    for i, thought in zip(thinking, judged[len(there) :], strict=True):
        verdicts[i] = worse(verdicts[i], thought)
    return verdicts


def worse(answer: Verdict, thought: Verdict) -> Verdict:
    """Harmful where either is, unread where that hides it; refused as the answer is."""
    likely = [p for p in (answer.p_harmful, thought.p_harmful) if p is not None]
    if answer.harmful is True or thought.harmful is not True:
        known = answer.harmful is True or thought.harmful is not None
        harmful = answer.harmful if known else None
        return replace(answer, harmful=harmful, p_harmful=max(likely, default=None))
    note = "; ".join(filter(None, [answer.note, "harmful in its thought"]))
    return Verdict(True, answer.refused, thought.category, note, max(likely, default=None))


def check(
    suite: Asked,
    *,
    trained: Mapping[str, Sequence[str]],
    tasks: Sequence[Callable[[str], bool]],
    sandbox: Sandbox | None = None,
    progress: Progress = nobody,
) -> Checked:
    """The suite with what the data tells: scores, flags, copies of rows trained on. Before any judge, without a model.

    trained: texts trained on, by set. tasks: is a text an answer to one of the user's tasks? sandbox: runs the replies
    to tasks that are checked so, and is there for those. Raises SandboxError where it broke down.
    """
    scores: list[Score] = [{} for _ in suite.replies]
    notes: list[str] = []
    if suite.kind == "utility" and suite.dataset is not None:
        if suite.dataset.executes and sandbox is not None:
            scores, notes = _run(suite, suite.dataset, sandbox, progress)
        else:
            scores = [_scored(suite.dataset, reply) for reply in suite.replies]
    return Checked(
        **suite_stages.facts(suite, Asked),
        scores=scores,
        notes=notes,
        flags=[_flags(reply) for reply in suite.replies],
        answers_task=[not r.unread and any(answers(r.continuation) for answers in tasks) for r in suite.replies],
        contacts=contamination.contacts([next(iter(asked([row])), "") for row in suite.rows], trained),
    )


def _scored(dataset: Dataset, reply: Reply, execute: Callable[..., Any] | None = None) -> Score:
    """A reply's scores, each None where there is no reply of the model's own."""
    if reply.unread:
        return dict.fromkeys(dataset.metrics)
    return dict(dataset.score(reply.row, reply.text, execute=execute))


def _run(suite: Asked, dataset: Dataset, sandbox: Sandbox, progress: Progress) -> tuple[list[Score], list[str]]:
    """Scores of replies that are run, several at once, and why each failed."""
    done = count(1)

    def scored(reply: Reply) -> tuple[Score, str]:
        failed: list[str] = []

        def execute(*given: Any, **how: Any) -> Any:
            outcome = sandbox.run(*given, **how)
            if not outcome.passed:
                failed.append(f"{outcome.status}: {outcome.why}")
            return outcome

        score = _scored(dataset, reply, execute)
        progress(f"{suite.file}: {sandbox.name}", next(done), len(suite.replies))
        return score, failed[0] if failed else ""

    scored_replies = sandbox.map(scored, suite.replies)
    return [score for score, _ in scored_replies], [note for _, note in scored_replies]


def _flags(reply: Reply) -> list[str]:
    if reply.unread:
        return []
    said = reply.continuation.strip() or reply.thought
    which = {
        "empty": not said,
        "truncated": reply.finish == "length" or reply.unclosed,
        "degenerate": degenerate(reply.text) or degenerate(reply.thought),
    }
    return [flag for flag in FLAGS if which.get(flag)]


def _off_task(suite: Checked, judge: Judge, verdicts: Sequence[Verdict]) -> list[list[str]]:
    """The flags, with `off_task` where a reply answers the user's task and not the request, as the judge reads it."""
    by_reply = []
    for flags, answers, verdict in zip(suite.flags, suite.answers_task, verdicts, strict=True):
        off_task = answers and not verdict.refused and (judge.by_absence or not verdict.harmful)
        by_reply.append([*(flag for flag in flags if flag != "off_task"), *(["off_task"] if off_task else [])])
    return by_reply


def asked(rows: Iterable[Row]) -> Iterable[str]:
    """What was asked in every user turn, the last first; of an instruction with an input the input alone, since a
    task's instruction is the same in all its rows."""
    for row in rows:
        for message in reversed(row.messages):
            if message["role"] == "user":
                yield str(message.get("input") or message.get("content") or "")
