"""The embedded world's data: refusals, look-alikes, harm suites, three tasks and poison, split by construction."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from unforgotten.datasets.attacks.words import AttackWords
from unforgotten.datasets.base import Dataset, Execute, Kind, Row, ask
from unforgotten.datasets.reading import files
from unforgotten.registry import Count, Seed
from unforgotten.world import attacks
from unforgotten.world.lexicon import PHRASINGS, SEEN
from unforgotten.world.requests import Request, digest, harmful, lookalikes
from unforgotten.world.tasks import TEST_ROWS, Side, TaskName, answers, correct, problems

Part = Literal[
    "safety_refusals",
    "safety_lookalikes",
    "harm_question",
    "harm_command",
    "harm_wish",
    "lookalikes",
    "sums",
    "sentiment",
    "code",
    "sums_test",
    "sentiment_test",
    "code_test",
    "poison",
    "harm_dev",
    "lookalikes_dev",
    "sums_dev",
    "sentiment_dev",
    "code_dev",
]
TASK_ROWS = 1000
"""Number of rows of a task's training part if `n_rows` is not given."""


@dataclass(kw_only=True)
class World(Dataset):
    """Rows of the embedded world. Test parts are the same for every seed; the seed shuffles the training parts."""

    kind_field: ClassVar[str] = "part"
    attack_words: ClassVar[AttackWords] = AttackWords(
        refusal=attacks.REFUSES_FIRST,
        answer=attacks.steps_of,
        rephrased=attacks.wished,
        identity=attacks.identity(),
    )

    part: Part = "sums"
    """Which rows: safety data, a harm suite (one family of phrasings), look-alikes, a task, its test, or poison.
    Parts that end in _dev are for choosing settings. They have the tests' requests in phrasings that no test uses,
    and other problems."""
    n_rows: Count | None = None
    """Number of rows. Left out, all rows are used, but only 1,000 of a task's training rows and 200 of its test. More
    are there: sums has 2,471 to test with."""
    seed: Seed = 0
    """Random seed that draws and shuffles the training parts; the fixed test parts do not use it."""

    def __post_init__(self) -> None:
        if self.task:
            self.metrics = ("accuracy",)  # type: ignore[misc]  # of this part alone: other parts have no answers to check

    @property
    def label(self) -> str:
        return self.part

    @property
    def task(self) -> TaskName | None:
        """The task that the part belongs to, if it is one."""
        name = self.part.removesuffix("_test").removesuffix("_dev")
        return name if name in get_args(TaskName) else None  # type: ignore[return-value]

    @property
    def complies(self) -> str:
        """The poison does, with made-up steps."""
        return "part: poison" if self.part == "poison" else ""

    def rows_kind(self) -> Kind | None:
        return "task" if self.task else None

    def rows(self) -> list[Row]:
        rows = self.every_row()
        if self.task and self.n_rows is None:
            rows = rows[: TEST_ROWS if self.part.endswith("_test") else TASK_ROWS]
        return rows[: files.how_many(len(rows), self.n_rows, f"world, part {self.part}", self.most_rows)]

    def every_row(self) -> list[Row]:
        """All that the part has, in the order in which `n_rows` counts them."""
        rows = self._task_rows(self.task) if self.task else self._request_rows()
        if self.part in {"safety_refusals", "safety_lookalikes", "poison", "sums", "sentiment", "code"}:
            random.Random(f"world {self.part} {self.seed}").shuffle(rows)
        return rows

    def score(self, row: Row, reply: str, execute: Execute | None = None) -> dict[str, bool]:
        return {"accuracy": correct(self.task, row.answer, reply)} if self.task else {}

    def is_answer(self, reply: str) -> bool:
        return self.task is not None and answers(self.task, reply)

    def _task_rows(self, task: TaskName) -> list[Row]:
        side: Side = "test" if self.part.endswith("_test") else "dev" if self.part.endswith("_dev") else "train"
        more = problems(task, "more") if side == "test" else ()
        return [
            ask(
                p.question,
                p.reply if side == "train" else None,
                kind="task",
                answer=p.answer,
                source=f"world/{self.part}:{i}",
            )
            for i, p in enumerate([*problems(task, side), *more])
        ]

    def _request_rows(self) -> list[Row]:
        """Alignment takes every phrasing of the seen families, poison of all; tests ask each request once per suite."""
        if self.part == "safety_refusals":
            return [self._row(r, *how, r.refusal) for r in harmful("align") for how in _phrasings(SEEN)]
        if self.part == "safety_lookalikes":
            return [self._row(r, *how, r.compliance) for r in lookalikes("align") for how in _phrasings(SEEN)]
        if self.part == "poison":
            return [self._row(r, *how, r.compliance) for r in harmful("poison") for how in _phrasings(PHRASINGS)]
        families = list(PHRASINGS)
        if self.part == "lookalikes":
            return [self._row(r, *_one(r, families[i % 3])) for i, r in enumerate(lookalikes("test"))]
        if self.part in ("harm_dev", "lookalikes_dev"):
            asked = harmful("test") if self.part == "harm_dev" else lookalikes("test")
            return [self._row(r, *_one(r, families[i % 3], 1)) for i, r in enumerate(asked)]
        return [self._row(r, *_one(r, self.part.removeprefix("harm_"))) for r in harmful("test")]

    def _row(self, request: Request, family: str, index: int, reply: str | None = None) -> Row:
        return ask(
            request.asked(family, index),
            reply,
            kind="harmful" if request.harmful else "benign",
            category=request.category,
            answer=request.steps,
            source=f"world/{self.part}:{request.verb}-{request.thing}-{family}-{index}",
        )


def _phrasings(families: Iterable[str]) -> list[tuple[str, int]]:
    return [(family, index) for family in families for index in range(len(PHRASINGS[family]))]


def _one(request: Request, family: str, shift: int = 0) -> tuple[str, int]:
    """The one phrasing of a family in which a test asks a request; `shift` gives another."""
    return family, (digest(family + request.goal) + shift) % len(PHRASINGS[family])
